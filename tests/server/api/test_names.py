"""Sessions that their publishers name: found by others, taken over again after a loss."""

from __future__ import annotations

import asyncio
import logging
import time

import httpx
import pytest
from calls import Caller, Running, loudness, strongest_hz, until
from whip_client import Client

from lipwire.engine import Engine
from lipwire.server.api.auth import Right, make_jwt

SECRET = "a secret of at least thirty-two bytes"
LIVE = "/whip/live/studio?consent=true"


def bearer(*rights: Right, session: str | None = None) -> dict[str, str]:
    token = make_jwt(SECRET, frozenset(rights), 60, time.time(), session, consent=True)
    return {"Authorization": f"Bearer {token}"}


async def connected(peer: Client, path: str) -> Client:
    """Offer until the server knows that the publisher is there, and wait for media to flow."""
    answer = await peer.post(path)
    while answer.status_code == 409:
        await asyncio.sleep(0.1)
        answer = await peer.post(path)
    assert answer.status_code == 201, answer.text
    await until(lambda: peer.pc.connectionState == "connected", "connected")
    return peer


def vanish(peer: Client) -> None:
    """Die without a word: no DTLS alert, no answer to ICE."""
    ice = peer.pc.getTransceivers()[0].sender.transport.transport._connection
    for protocol in ice._protocols:
        protocol.transport.close()


async def test_a_named_session_is_found_and_survives_its_publisher(
    server: Running, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lipwire.server.call")
    first, viewer, voice = (Client(client) for _ in range(3))
    async with first, viewer, voice, Client(client).publish() as second:
        await connected(first.publish(), LIVE)
        assert first.location.startswith("/whip/live/studio/")
        await connected(viewer.watch(), "/whep/live/studio")
        await connected(voice.speak(500), "/whip/live/studio/voice")
        assert "POST /whep/studio to watch" in caplog.text and "/view/studio" in caplog.text
        (listed,) = (await client.get("/api/sessions")).json()
        assert listed.pop("seconds") > 0
        assert listed == {
            "id": "studio",
            "node": None,
            "named": True,
            "live": True,
            "viewers": 1,
            "voice": True,
        }
        told = {"text": "Guten Tag", "duration_s": 1}
        assert (await client.post("/api/sessions/studio/subtitles", json=told)).status_code == 200
        await until(lambda: len(viewer.pictures) > 5, "seen", 20)

        taken = await second.post(LIVE)
        assert taken.status_code == 409 and "taken" in taken.json()["error"]
        assert taken.headers["retry-after"]
        vanish(first)  # which the server would notice in seven seconds
        again = await second.post(LIVE)
        assert again.status_code == 201, again.text
        seen = len(viewer.pictures)
        await until(lambda: len(viewer.pictures) > seen + 5, "the same viewer sees the new one", 20)
        await until(lambda: abs(strongest_hz(viewer.heard(0.5)) - 500) < 10, "and hears the voice")
        assert loudness(viewer.heard(0.5)) > 1000
        assert (await client.delete(first.location)).status_code == 404  # no more its session
        assert (await client.get(second.location)).status_code == 200
        assert (await client.delete(second.location)).status_code == 200
        await until(lambda: viewer.pc.connectionState == "closed", "the end is the viewer's too")
        assert (await client.get("/api/sessions")).json() == []


async def test_a_lost_publisher_is_waited_for_and_the_wait_ends(engine: Engine) -> None:
    """A browser's call under a name, which an encoder takes over on a server that is full."""
    with Running(engine, max_sessions=1, name_grace_s=1) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            async with Caller() as caller:
                body = {"sdp": await caller.offer(), "consent": True}
                answer = await client.post("/api/sessions/studio", json=body)
                assert answer.headers["location"].startswith("/whip/live/studio/")
                await caller.accept(answer.json()["sdp"])
                await until(lambda: len(caller.pictures) > 2, "it runs", 20)
            sessions = server.app.state.sessions
            await until(lambda: not sessions.get("studio").publisher.connected, "it is lost")
            async with Client(client).publish() as other:
                assert (await other.post("/whip?consent=true")).status_code == 503
                wanted = LIVE + "&steps=4&original_level=0.5&ducking=true&silence=generate"
                await connected(other, wanted)
                stats = (await client.get("/api/sessions/studio/stats")).json()
                assert (stats["steps"], stats["original_level"]) == (4, 0.5)
                assert stats["ducking"] and stats["silence"] == "generate"
            await until(lambda: len(sessions) == 0, "nobody came back")


@pytest.mark.parametrize("name", ["live", ".hidden", "a b", "é", "x" * 65, "a%0Ab", "-x"])
async def test_names_that_no_session_can_have(client: httpx.AsyncClient, name: str) -> None:
    async with Client(client).publish() as made:
        answer = await made.post(f"/whip/live/{name}?consent=true")
        assert answer.status_code == 400 and "1 to 64 letters" in answer.json()["error"]
    browser = await client.post(f"/api/sessions/{name}", json={"sdp": "v=0", "consent": True})
    assert browser.status_code == 400


async def test_a_token_decides_who_may_use_a_name_and_see_it(engine: Engine) -> None:
    with Running(engine, jwt_secret=SECRET) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            named, secret = Client(client).publish(), Client(client).publish()
            long = "s" * 32  # kept like a random id
            async with named, secret:
                client.headers.update(bearer(Right.PUBLISH, session="studio"))
                refused = await named.post("/whip/live/other")
                assert refused.status_code == 403 and "another session" in refused.text
                await connected(named, "/whip/live/studio")
                client.headers.update(bearer(Right.PUBLISH))
                await connected(secret, f"/whip/live/{long}")
                for rights, session, count in (
                    ((Right.CONTROL,), None, 2),
                    ((Right.WATCH,), None, 1),
                    ((Right.WATCH, Right.CONTROL), "studio", 1),
                    ((Right.WATCH,), "other", 0),
                    ((Right.PUBLISH, Right.SPEAK), None, 0),
                ):
                    headers = bearer(*rights, session=session)
                    listed = await client.get("/api/sessions", headers=headers)
                    assert len(listed.json()) == count, (rights, session)
                del client.headers["Authorization"]
                assert (await client.get("/api/sessions")).status_code == 401
