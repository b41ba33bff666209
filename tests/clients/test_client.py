"""`lipwire-client` against a server: what goes in and comes back, and what it does about losses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from calling import calling
from calls import keep_aiortc, loudness, tone, until
from fakes import picture
from PIL import Image
from served import Served
from whip_client import Client

from lipwire.server.config import ServerConfig
from lipwire.server.rtc import patch
from lipwire_client import CallLost, LipwireCall, Refused

TOKEN = "a-token-that-is-long-enough"


async def sessions(server: Served) -> Any:
    """What runs on it."""
    async with httpx.AsyncClient(base_url=server.url) as http:
        return (await http.get("/api/sessions")).json()


async def test_pictures_and_voice_come_back_in_step(server: Served) -> None:
    async with calling(server.url, name="studio", steps=4) as made:
        call, pictures, sounds = made.call, made.pictures, made.sounds
        await until(lambda: len(pictures) > 5 and len(sounds) > 5, "both come back")
        assert pictures[-1].rgb().shape == (240, 320, 3)
        assert sounds[-1].samples.shape == (960,)

        assert await call.speak(tone(2.0, 500, 24_000), 24_000)
        assert await call.speak(tone(1.0, 500, 16_000).tobytes(), 16_000)  # another rate
        await call.flush()
        await until(lambda: bool(made.told("begins")), "it has its time")
        await until(lambda: bool(made.told("flushed")), "it has all been taken")
        assert 1.0 < made.told("flushed")[-1]["heard_in_s"] < 4.0
        await until(lambda: made.loudness(25) > 1000, "it is heard")

        def timed() -> list[float | None]:
            return [frame.time_s for frame in (*pictures[-1:], *sounds[-9:])]

        await until(lambda: None not in timed(), "a report of each kind has come")
        shown, *heard_s = (time_s or 0.0 for time_s in timed())
        assert abs(shown - heard_s[-1]) < 5  # their RTP times begin hours apart
        blocks = [(b - a) / 0.02 for a, b in pairwise(heard_s)]  # a busy machine drops some
        assert all(count > 0.5 and abs(count - round(count)) < 0.25 for count in blocks)
        assert await call.speak(tone(4.0, 500, 24_000), 24_000)
        await until(lambda: made.loudness(25) > 1000, "it is heard again")
        await call.interrupt()
        await until(
            lambda: any(e.get("unheard_s", 0) > 0 for e in made.events), "the rest is dropped"
        )
        await until(lambda: made.loudness(25) < 10, "silence")
        await until(lambda: call.stats().get("frames_out", 0) > 0, "figures")
        assert call.stats()["steps"] == 4 and call.stats()["reconnects"] == 0
        async with httpx.AsyncClient(base_url=server.url) as http:
            async with Client(http).watch() as viewer:
                assert (await viewer.post("/whep/live/studio")).status_code == 201
                await until(lambda: len(viewer.pictures) > 3, "others see it by its name")
    assert await sessions(server) == []
    with pytest.raises(CallLost, match="over"):
        await call.speak(b"\0\0")


async def test_a_picture_given_while_it_connects_is_the_first_to_leave(server: Served) -> None:
    call = LipwireCall(server.url, consent=True)
    entering = asyncio.create_task(call.__aenter__())
    while not entering.done():
        call.send_image(picture(), (320, 240))
        await asyncio.sleep(0.01)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit((await entering).__aexit__)
        # One or two: the last was given as the connection came to stand.
        await until(lambda: call.stats().get("frames_in", 0) >= 1, "it is there, without another")


async def test_times_are_known_where_a_server_has_replaced_parts_of_aiortc(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_aiortc(monkeypatch)
    patch.apply(ServerConfig())
    async with calling(server.url) as made:
        for frames in (made.pictures, made.sounds):
            await until(lambda f=frames: f and f[-1].time_s is not None, "its time")  # type: ignore[misc]
        shown, heard = made.pictures[-1].time_s, made.sounds[-1].time_s
        assert shown is not None and heard is not None and abs(shown - heard) < 5


async def test_a_server_that_was_killed_is_found_again(serve: Callable[..., Served]) -> None:
    """Under the same name; voice that is sent meanwhile waits for it."""
    server = serve()
    async with calling(server.url, name="studio") as made:
        call, pictures = made.call, made.pictures
        await until(lambda: len(pictures) > 3, "it runs")
        server.kill()
        await until(lambda: bool(made.told("lost")), "the loss is noticed")
        spoken = asyncio.create_task(call.speak(tone(3.0, 500, 24_000)))
        await asyncio.to_thread(server.start)
        seen = len(pictures)
        await until(lambda: len(pictures) > seen + 3, "pictures again")
        assert await spoken and call.reconnects == 1
        await until(lambda: made.loudness() > 1000, "the voice")
        assert [each["id"] for each in await sessions(server)] == ["studio"]
    assert await sessions(server) == []


async def test_a_path_that_carries_nothing_is_replaced_and_viewers_stay(server: Served) -> None:
    async with calling(server.url, name="studio") as made:
        call, pictures = made.call, made.pictures
        await until(lambda: len(pictures) > 3, "it runs")
        async with httpx.AsyncClient(base_url=server.url) as http, Client(http).watch() as viewer:
            assert (await viewer.post("/whep/studio")).status_code == 201
            await until(lambda: len(viewer.pictures) > 3, "watched")
            link: Any = call._link
            ice = link._pc.getTransceivers()[0].sender.transport.transport._connection
            for protocol in ice._protocols:
                protocol.transport.close()
            await until(lambda: call.reconnects == 1, "another link")
            seen = len(viewer.pictures)
            await until(lambda: len(viewer.pictures) > seen + 3, "the viewer need not click")


async def test_what_the_server_says_no_to_is_raised_where_one_looks(
    serve: Callable[..., Served],
) -> None:
    server = serve(token=TOKEN, max_sessions=1)
    for wanted, status, reason in (
        ({}, 401, "needs a token"),
        ({"token": TOKEN}, 403, "must have agreed"),
        ({"token": TOKEN, "consent": True, "name": "a b"}, 400, "1 to 64"),
        ({"token": TOKEN, "consent": True, "step": 3}, 400, "step"),
    ):
        with pytest.raises(Refused, match=reason) as caught:
            await LipwireCall(server.url, **wanted).__aenter__()  # type: ignore[arg-type]
        assert caught.value.status == status and "\n" not in str(caught.value)
    async with LipwireCall(server.url, token=TOKEN, consent=True) as call:
        with pytest.raises(Refused, match="all 1 calls") as full:
            await LipwireCall(server.url, token=TOKEN, consent=True).__aenter__()
        assert full.value.status == 503 and full.value.retry_after_s == 5
        with pytest.raises(ValueError, match="no RGB picture of 4x4"):
            call.send_image(b"\0" * 47, (4, 4))
    server.kill()
    began = time.monotonic()
    with pytest.raises(CallLost, match="does not answer"):
        await LipwireCall(server.url, consent=True).__aenter__()
    assert time.monotonic() - began < 5


async def test_a_name_that_is_taken_and_a_server_that_drains_are_said_and_the_call_goes_on(
    serve: Callable[..., Served],
) -> None:
    server = serve(drain_s=60)
    async with calling(server.url, name="studio") as made:
        call, pictures = made.call, made.pictures
        await until(lambda: len(pictures) > 3, "it runs")
        with pytest.raises(Refused, match="taken") as caught:
            await LipwireCall(server.url, name="studio", consent=True).__aenter__()
        assert caught.value.status == 409
        server.stop()
        async with httpx.AsyncClient(base_url=server.url) as http:
            while (await http.get("/readyz")).status_code == 200:
                await asyncio.sleep(0.05)
        with pytest.raises(Refused, match="about to stop") as caught:
            await LipwireCall(server.url, consent=True).__aenter__()
        assert caught.value.status == 503 and caught.value.retry_after_s
        seen = len(pictures)
        await until(lambda: len(pictures) > seen + 3, "pictures as before")
    assert call.reconnects == 0 and await asyncio.to_thread(server.wait) == 0


async def test_a_voice_that_hangs_in_a_word_is_heard_as_far_as_it_came(server: Served) -> None:
    async with calling(server.url) as made:

        def loud() -> int:
            return sum(loudness(sound.samples) > 1000 for sound in made.sounds)

        await made.call.speak(tone(1.0, 500, 24_000)[:-1000])  # and nothing more, not even a flush
        await until(lambda: loud() > 30, "all of it")
        await until(lambda: made.loudness() < 10, "then silence")
        before = loud()
        await made.call.speak(tone(1.0, 500, 24_000))
        await until(lambda: loud() > before + 30, "the next word is heard too")


async def test_a_voice_that_is_interrupted_while_it_waits_is_dropped(server: Served) -> None:
    """Of a caller that sends no end of it: the server's queue is full and `speak` waits."""
    async with calling(server.url) as made:
        call = made.call
        flood = asyncio.create_task(call.speak(tone(2400.0, 300, 8000), 8000))
        await asyncio.sleep(0.5)
        assert not flood.done()
        await call.interrupt()
        assert not await flood


async def test_a_photo_stands_for_the_camera(server: Served, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    Image.fromarray(picture()).save(path)
    async with calling(server.url, name="bot", face=path, steps=4, fps=0) as made:
        await made.call.speak(tone(2.0, 500, 24_000))
        await until(lambda: len(made.pictures) > 5, "seen")
        await until(lambda: made.loudness() > 1000, "and heard")
        assert made.pictures[-1].rgb().shape == (240, 320, 3)
    assert await sessions(server) == []
    path.write_text("no picture")
    with pytest.raises(Refused, match="media file") as caught:
        await LipwireCall(server.url, consent=True, face=path).__aenter__()
    assert caught.value.status == 422
