"""Offers that are looked at before anything is built, and the register of calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from calls import Caller, until

from lipwire.engine import Engine, EngineConfig, SessionClosed
from lipwire.server.call.call import Call
from lipwire.server.call.sessions import NoSuchSession, ServerFull, Sessions
from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice, patch
from lipwire.server.rtc.sdp import MAX_SDP_BYTES, Offer, OfferError, TooLarge, read_offer

SETTINGS = ServerConfig(max_sessions=1, connect_timeout_s=0.5)


@pytest.fixture
async def sessions(engine: Engine) -> AsyncIterator[Sessions]:
    patch.apply(SETTINGS)
    ice.offer_addresses(["127.0.0.1"])
    made = Sessions(engine, SETTINGS)
    yield made
    await made.shutdown()
    assert len(made) == 0


@pytest.fixture
async def caller(sessions: Sessions) -> AsyncIterator[Caller]:
    async with Caller() as made:
        yield made


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("", "not SDP"),
        ("hello", "not SDP"),
        ("v=0\r\nm=video nonsense", "cannot be read|SDP"),
        ("v=0" + "a" * MAX_SDP_BYTES, "larger than 64 kB"),
        ("v=0\r\n", "0 video sections"),
        ("\x00\xff" * 50, "not SDP"),
    ],
)
def test_what_is_not_an_offer_is_named_in_one_line(body: str, named: str) -> None:
    with pytest.raises((OfferError, TooLarge), match=named) as caught:
        read_offer(body)
    assert "\n" not in str(caught.value)


async def test_offers_are_read(caller: Caller) -> None:
    offer = read_offer(await caller.offer(), config=EngineConfig(steps=4))
    assert offer.audio == 2 and offer.config.steps == 4
    assert "a=end-of-candidates" in offer.sdp


async def test_offers_that_lack_something_are_refused(caller: Caller) -> None:
    sdp = await caller.offer()
    session, *media = sdp.split("m=")
    video, *rest = ["m=" + section for section in media]
    assert video.startswith("m=video")
    cases = {
        "0 video sections": session + "".join(rest),
        "2 video sections": session + video + video,
        "3 audio sections": session + video + rest[0] * 3,
        "sends no video": sdp.replace("a=sendrecv", "a=recvonly", 1),
        "ICE": "\r\n".join(line for line in sdp.splitlines() if "ice-ufrag" not in line),
        "fingerprint": "\r\n".join(line for line in sdp.splitlines() if "fingerprint" not in line),
        "does not bundle": sdp.replace("a=group:BUNDLE 0 1 2 3", "a=group:BUNDLE 0 1"),
    }
    for named, case in cases.items():
        with pytest.raises(OfferError, match=named):
            read_offer(case)
    with pytest.raises(OfferError, match="must be 'offer'"):
        read_offer(sdp, kind="answer")


async def test_ids_cannot_be_guessed_and_calls_end(sessions: Sessions, caller: Caller) -> None:
    name, answer = await sessions.open(read_offer(await caller.offer()))
    assert len(name) >= 22  # 128 bits in base64
    assert answer.startswith("v=0") and "127.0.0.1" in answer
    assert len(sessions) == 1 and sessions.get(name).name == name
    await sessions.close(name)
    assert len(sessions) == 0
    for gone in (name, "never-was"):
        with pytest.raises(NoSuchSession, match="no session of this id"):
            sessions.get(gone)
    with pytest.raises(NoSuchSession):
        await sessions.close(name)


async def test_a_full_server_says_so_and_a_left_place_is_free(sessions: Sessions) -> None:
    async with Caller() as one, Caller() as two:
        name, _ = await sessions.open(read_offer(await one.offer()))
        offer = read_offer(await two.offer())
        with pytest.raises(ServerFull, match="all 1 calls"):
            await sessions.open(offer)
        await sessions.close(name)
        await sessions.open(offer)


async def test_who_never_connects_is_reaped(sessions: Sessions, caller: Caller) -> None:
    await sessions.open(read_offer(await caller.offer()))  # and the answer is thrown away
    await until(lambda: len(sessions) == 0, "the zombie is gone", 5)


async def test_an_offer_without_common_codec_leaves_nothing_behind(
    sessions: Sessions, caller: Caller
) -> None:
    sdp = (await caller.offer()).replace("VP8", "VP7").replace("H264", "H261")
    with pytest.raises(OfferError, match="VP7: this server takes"):
        await sessions.open(read_offer(sdp))
    assert len(sessions) == 0


async def test_a_caller_that_goes_away_while_it_waits(sessions: Sessions, caller: Caller) -> None:
    offer = read_offer(await caller.offer())
    task = asyncio.create_task(sessions.open(offer))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    await until(lambda: len(sessions) == 0, "its place is free", 5)


async def test_a_stop_in_the_middle_of_an_answer(
    sessions: Sessions, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forever(self: Call, offer: Offer) -> None:
        await asyncio.sleep(0.1)

    monkeypatch.setattr(Call, "_answer", forever)
    task = asyncio.create_task(sessions.open(read_offer(await caller.offer())))
    await asyncio.sleep(0.01)
    await sessions.close_all()
    with pytest.raises(SessionClosed, match="before it was answered"):
        await task
