"""The HTTP and WebSocket interface of a running server, with a real call behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
import websockets
from calls import Caller, Running, loudness, sound_file, strongest_hz, tone, until
from fakes import SceneTracker

from lipwire.engine import Engine
from lipwire.server.api.listener import MAX_MESSAGE
from lipwire.server.call import speech_queue
from lipwire.server.call.call import MAX_SOURCES

UNKNOWN = "/api/sessions/never-was"


class Call:
    """A connected call and the address of its session."""

    def __init__(self, caller: Caller, client: httpx.AsyncClient, name: str) -> None:
        self.caller, self.client, self.path = caller, client, f"/api/sessions/{name}"

    async def stats(self) -> dict[str, Any]:
        """The session's figures."""
        answer = await self.client.get(self.path + "/stats")
        assert answer.status_code == 200
        return dict(answer.json())

    def socket(self, rate: str = "?rate=24000", **options: Any) -> Any:
        """The PCM WebSocket."""
        base = str(self.client.base_url).rstrip("/").replace("http", "ws")
        return websockets.connect(base + self.path + "/speech" + rate, **options)


@pytest.fixture
async def call(server: Running, client: httpx.AsyncClient) -> AsyncIterator[Call]:
    async with Caller() as caller:
        offer = {"sdp": await caller.offer(), "type": "offer", "consent": True}
        answer = await client.post("/api/sessions", json=offer)
        assert answer.status_code == 201, answer.text
        body = answer.json()
        assert body["type"] == "answer" and len(body["id"]) >= 22
        await caller.accept(body["sdp"])
        await until(lambda: bool(caller.pictures), "a picture comes back")
        yield Call(caller, client, body["id"])


async def error_of(answer: httpx.Response, status: int) -> str:
    """The one line of an error."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["error"] and "\n" not in body["error"]
    return str(body["error"])


# --- the page and the facts ---


async def test_the_page_and_its_parts(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    names = "start stop voice file text speak interrupt steps camera original-level result figures"
    for name in (*names.split(), "consent", "status"):
        assert f'id="{name}"' in page.text
    for part in ("app.js", "style.css", "icon.svg", "voices/english.ogg"):
        assert f"/static/{part}" in page.text or part.startswith("voices")
        assert (await client.get(f"/static/{part}")).status_code == 200


@pytest.mark.parametrize("place", ["/", "/docs"])
async def test_no_page_loads_anything_from_another_host(
    client: httpx.AsyncClient, place: str
) -> None:
    page = await client.get(place)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    parts = re.findall(r"""(?:src|href)=["']([^"']*)""", page.text)
    assert parts and "://" not in page.text
    for part in parts:
        assert re.match(r"[/#](?!/)", part), part
        if part.startswith("/static/"):
            assert (await client.get(part)).status_code == 200, part


async def test_info(client: httpx.AsyncClient) -> None:
    info = (await client.get("/api/info")).json()
    assert info["model"]["name"] == "fake" and info["steps_offered"] == [1, 2, 4, 8]
    assert info["voices"] == list(speech_queue.sample_voices())
    assert info["sessions"] == 0 and info["max_sessions"] == 2
    assert info["text_to_speech"] is (speech_queue.espeak() is not None)


async def test_the_interface_describes_itself(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/api/info", "/api/sessions", "/api/sessions/{name}/speech"} <= set(paths)
    everything = [(p, m, o) for p, ms in paths.items() for m, o in ms.items()]
    for path, method, operation in everything:
        for status, answer in operation["responses"].items():
            schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
            refused = status >= "4" and (path, status) != ("/readyz", "503")
            assert refused is (schema.get("$ref", "").endswith("/Problem")), (path, method, status)
    for path in ("/whip", "/whip/{name}/voice", "/whep/{name}"):
        offer = paths[path]["post"]
        assert list(offer["requestBody"]["content"]) == ["application/sdp"]
        assert list(offer["responses"]["201"]["content"]) == ["application/sdp"]
        assert {"Location", "ETag"} <= set(offer["responses"]["201"]["headers"])
    trickle = paths["/whip/{name}"]["patch"]
    assert list(trickle["requestBody"]["content"]) == ["application/trickle-ice-sdpfrag"]
    assert {"412", "428"} <= set(trickle["responses"])


# --- sessions ---


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"not json", "body|JSON"),
        (b"[]", "object|dictionary"),
        (b"{}", "sdp"),
        (b'{"sdp":"hello"}', "not SDP"),
        (b'{"sdp":"v=0","original_level":7}', "original_level"),
        (b'{"sdp":"v=0","colour":1}', "colour"),
        (b'{"sdp":7}', "sdp"),
    ],
)
async def test_a_bad_offer_is_a_400_with_its_cause(
    client: httpx.AsyncClient, body: bytes, named: str
) -> None:
    answer = await client.post(
        "/api/sessions", content=body, headers={"Content-Type": "application/json"}
    )
    cause = await error_of(answer, 400)
    assert any(word in cause for word in named.split("|")), cause


async def test_an_offer_that_is_not_for_a_call_is_a_422(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/sessions", json={"sdp": "v=0\r\n", "consent": True})
    assert "0 video sections" in await error_of(answer, 422)


async def test_refused_consent_and_steps_not_offered(client: httpx.AsyncClient) -> None:
    async with Caller() as caller:
        offer = {"sdp": await caller.offer()}
        for refused in (offer, {**offer, "consent": False}):
            answer = await client.post("/api/sessions", json=refused)
            assert "agreed" in await error_of(answer, 403)
        offer["consent"] = True
        answer = await client.post("/api/sessions", json={**offer, "steps": 3})
        assert "3" in await error_of(answer, 400)
    assert (await client.get("/api/info")).json()["sessions"] == 0


async def test_a_full_server_asks_to_come_back(client: httpx.AsyncClient) -> None:
    names = []
    for _ in range(2):
        async with Caller() as caller:
            answer = await client.post(
                "/api/sessions", json={"sdp": await caller.offer(), "consent": True}
            )
            names.append(answer.json()["id"])
    async with Caller() as caller:
        answer = await client.post(
            "/api/sessions", json={"sdp": await caller.offer(), "consent": True}
        )
    assert "all 2 calls" in await error_of(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    assert len(set(names)) == 2
    for name in names:
        assert (await client.delete(f"/api/sessions/{name}")).status_code == 204


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", ""),
        ("GET", "/stats"),
        ("PATCH", ""),
        ("POST", "/speech"),
        ("POST", "/sample"),
        ("POST", "/say"),
        ("POST", "/interrupt"),
        ("POST", "/face"),
    ],
)
async def test_an_unknown_session_is_a_404(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    body = {"/sample": {"name": "english"}, "/say": {"text": "hi"}, "/face": {"next": True}}.get(
        path, {}
    )
    answer = await client.request(method, UNKNOWN + path, json=body)
    assert "no session" in await error_of(answer, 404)


async def test_a_call_can_be_changed_and_ended(call: Call) -> None:
    answer = await call.client.patch(call.path, json={"steps": 4, "original_level": 0.5})
    assert answer.json()["steps"] == 4 and answer.json()["original_level"] == 0.5
    answer = await call.client.patch(
        call.path, json={"silence": "generate", "ducking": True, "loudness_lufs": "off"}
    )
    assert answer.json()["silence"] == "generate" and answer.json()["ducking"]
    assert answer.json()["loudness_lufs"] is None
    answer = await call.client.patch(call.path, json={"loudness_lufs": 5})
    assert "loudness_lufs" in await error_of(answer, 400)
    answer = await call.client.patch(call.path, json={"steps": 3, "original_level": 0.9})
    assert "steps" in await error_of(answer, 400)
    stats = await call.stats()
    assert stats["steps"] == 4 and stats["original_level"] == 0.5 and stats["frames_out"] > 0
    assert (await call.client.delete(call.path)).status_code == 204
    assert (await call.client.get(call.path + "/stats")).status_code == 404


async def face_of(call: Call) -> Any:
    return (await call.stats())["face"]


async def test_the_face_can_be_chosen(call: Call, tracker: SceneTracker) -> None:
    tracker.people = {"ann": ((90.0, 120.0), 90), "bob": ((230.0, 120.0), 80)}
    for body, index, policy in (
        ({"policy": "largest"}, 0, "largest"),
        ({"next": True}, 1, "position"),
        ({"index": 0}, 0, "position"),
        ({"position": [0.9, 0.5]}, 1, "position"),
        ({"policy": "central"}, 0, "central"),
    ):
        answer = await call.client.post(call.path + "/face", json=body)
        assert answer.status_code == 200 and answer.json()["face"]["state"]
        wanted = {"state": "tracked", "faces": 2, "index": index, "policy": policy}
        seen: Any = {}
        for _ in range(200):
            seen = await face_of(call)
            if wanted.items() <= seen.items() and seen["reason"] is None:
                break
            await asyncio.sleep(0.05)
        assert wanted.items() <= seen.items(), body
        x0, y0, x1, y1 = seen["box"]
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ({}, "say policy, next, index or position"),
        ({"policy": "prettiest"}, "policy"),
        ({"next": True, "index": 1}, "not by several"),
        ({"position": [2, 0]}, "position"),
        ({"position": [1]}, "position"),
        ({"index": -1}, "index"),
        ({"nxt": True}, "nxt"),
        ({"policy": "lips", "next": True}, "not both"),
    ],
)
async def test_choices_of_no_face_are_refused(
    call: Call, body: dict[str, object], cause: str
) -> None:
    answer = await call.client.post(call.path + "/face", json=body)
    assert cause in await error_of(answer, 400)


# --- the voice ---


async def test_a_file_is_heard(call: Call) -> None:
    content = sound_file(tone(1.5, 600), kind="ogg")
    answer = await call.client.post(call.path + "/speech", content=content)
    assert answer.status_code == 200 and abs(answer.json()["seconds"] - 1.5) < 0.05
    await until(lambda: loudness(call.caller.heard(0.5)) > 1000, "the voice")
    assert abs(strongest_hz(call.caller.heard(0.5)) - 600) < 10


@pytest.mark.parametrize(
    ("content", "status", "named"),
    [
        (b"", 422, "empty"),
        (b"no sound at all", 415, "not a sound or video file"),
        (bytes(2_100_000), 413, "larger than 2 MB"),
    ],
    ids=["empty", "text", "too large"],
)
async def test_files_that_cannot_be_a_voice(
    call: Call, content: bytes, status: int, named: str
) -> None:
    answer = await call.client.post(call.path + "/speech", content=content)
    assert named in await error_of(answer, status)
    assert (await call.stats())["backlog_s"] == 0


@pytest.mark.parametrize(
    "content",
    [
        "{url}",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {url}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{url}\n",
        "<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>{url}</BaseURL></MPD>",
    ],
    ids=["address", "HLS", "concat", "SDP", "DASH"],
)
async def test_no_address_that_a_client_names_is_fetched(call: Call, content: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as asked:
        asked.setblocking(False)
        url = f"http://127.0.0.1:{asked.getsockname()[1]}/face.mp4"
        body = content.format(url=url).encode()
        for answer in (
            await call.client.post(call.path + "/speech", content=body),
            await call.client.put("/api/sessions/bot?consent=true", content=body),
            await call.client.put("/api/sessions/bot", params={"consent": True, "face": url}),
        ):
            assert 400 <= answer.status_code < 500 and "\n" not in answer.json()["error"]
        with pytest.raises(BlockingIOError):
            asked.accept()


async def test_a_sample_is_heard_and_interrupted(call: Call) -> None:
    answer = await call.client.post(call.path + "/sample", json={"name": "english"})
    assert answer.json()["seconds"] > 3
    await until(lambda: loudness(call.caller.heard(0.3)) > 300, "the sample")
    assert (await call.stats())["backlog_s"] > 1
    assert (await call.client.post(call.path + "/interrupt")).status_code == 204
    await until(lambda: loudness(call.caller.heard(0.2)) < 2, "silence")
    answer = await call.client.post(call.path + "/sample", json={"name": "../../config"})
    assert "no sample" in await error_of(answer, 404)


async def test_text_is_heard(call: Call) -> None:
    if speech_queue.espeak() is None:
        pytest.skip("espeak-ng is not installed: apt-get install espeak-ng")
    answer = await call.client.post(call.path + "/say", json={"text": "Good morning to you all."})
    assert answer.status_code == 200 and answer.json()["seconds"] > 0.5
    await until(lambda: loudness(call.caller.heard(0.3)) > 300, "the words")
    answer = await call.client.post(call.path + "/say", json={"text": "a" * 2001})
    assert "longer than 2000" in await error_of(answer, 413)
    answer = await call.client.post(call.path + "/say", json={"text": "hi", "language": "zz"})
    await error_of(answer, 422)


async def test_without_espeak_text_is_a_501(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_queue, "espeak", lambda: None)
    answer = await call.client.post(call.path + "/say", json={"text": "hello"})
    assert "espeak-ng" in await error_of(answer, 501)
    assert (await call.client.get("/api/info")).json()["text_to_speech"] is False


# --- the socket ---


async def event(socket: Any, kind: str) -> dict[str, Any]:
    """The next event, which must be of this kind; when a voice begins may be said before."""
    while True:
        message = json.loads(await asyncio.wait_for(socket.recv(), 5))
        if kind == "begins" or message["type"] != "begins":
            break
    assert message["type"] == kind, message
    return dict(message)


async def test_bursts_cut_anywhere_are_heard(call: Call) -> None:
    raw = tone(2.0, 500, 24_000).astype("<i2").tobytes()
    async with call.socket() as socket:
        assert (await event(socket, "ready"))["rate"] == 24_000
        for start in range(0, len(raw), 3001):  # odd: every message ends inside a sample
            await socket.send(raw[start : start + 3001])
        await socket.send('{"type":"flush"}')
        begins = await event(socket, "begins")
        flushed = await event(socket, "flushed")
        assert flushed["seconds"] == 2.0
        assert 0 < begins["in_s"] < 1 and abs(flushed["heard_in_s"] - begins["in_s"] - 2) < 0.5
        await until(lambda: loudness(call.caller.heard(0.5)) > 1000, "the voice")
        assert abs(strongest_hz(call.caller.heard(0.5)) - 500) < 10
        await socket.send('{"type":"interrupt"}')
        assert 0 < (await event(socket, "interrupted"))["unheard_s"] < 2
        await until(lambda: loudness(call.caller.heard(0.2)) < 2, "silence")


async def test_a_live_socket_catches_up_in_its_pauses(call: Call) -> None:
    """What a stall held up comes at once: the second of silence in it is not heard in full."""
    held_up = np.concatenate([tone(1.0, 500), np.zeros(48_000, np.int16), tone(1.0, 500)])
    waiting_s = []
    for rate in ("?rate=48000&live=true", "?rate=48000"):
        async with call.socket(rate) as socket:
            await event(socket, "ready")
            for piece in np.split(held_up, 50):
                await socket.send(piece.astype("<i2").tobytes())
            await socket.send('{"type":"flush"}')
            assert (await event(socket, "flushed"))["seconds"] == 3.0
            waiting_s.append((await call.stats())["backlog_s"])
            await socket.send('{"type":"interrupt"}')
            await event(socket, "interrupted")
    assert waiting_s[0] < waiting_s[1] - 0.5


async def test_half_a_sample_is_reported_and_the_rest_kept(call: Call) -> None:
    raw = tone(1.0, 500, 24_000).astype("<i2").tobytes()
    async with call.socket() as socket:
        await event(socket, "ready")
        await socket.send(raw + b"\x01")
        await socket.send('{"type":"flush"}')
        assert "half a sample" in (await event(socket, "error"))["error"]
        assert (await event(socket, "flushed"))["seconds"] == 1.0
        await socket.send(raw + b"\x01")  # and now the socket ends mid-sample
    await until(lambda: loudness(call.caller.heard(0.5)) > 1000, "all before it")
    assert (await call.stats())["backlog_s"] > 0.9  # both whole seconds were kept


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"type":"fly"}', '"flush"', "null"])
async def test_text_that_is_no_command(call: Call, text: str) -> None:
    async with call.socket() as socket:
        await event(socket, "ready")
        await socket.send(text)
        assert "flush" in (await event(socket, "error"))["error"]
        await socket.send('{"type":"flush"}')
        await event(socket, "flushed")


async def test_a_session_has_few_voices_at_once(call: Call) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_SOURCES):
            socket = await stack.enter_async_context(call.socket("?rate=24000"))
            await event(socket, "ready")
        one_more = await stack.enter_async_context(call.socket("?rate=24000"))
        assert "under way" in (await event(one_more, "error"))["error"]
        await asyncio.wait_for(one_more.wait_closed(), 20)
        assert one_more.close_code == 1008
        answer = await call.client.post(f"{call.path}/say", json={"text": "hello"})
        assert "under way" in await error_of(answer, 429)
    async with call.socket() as socket:  # those that have left count no more
        await event(socket, "ready")


async def test_a_message_too_large_ends_its_socket_only(call: Call) -> None:
    async with call.socket("?rate=24000") as socket:
        await event(socket, "ready")
        await socket.send(bytes(MAX_MESSAGE + 1))
        await asyncio.wait_for(socket.wait_closed(), 20)
    assert socket.close_code == 1009
    async with call.socket("?rate=24000&live=true") as socket:
        await event(socket, "ready")
        await socket.send(bytes(MAX_MESSAGE))
        await socket.send("[" * 50_000)
        assert "text must be" in (await event(socket, "error"))["error"]


@pytest.mark.parametrize(
    "rate",
    ["", "?rate=", "?rate=fast", "?rate=100", "?rate=9999999", "?rate=-24000", "?rate=24000.5"],
)
async def test_a_bad_rate_closes_with_a_reason(call: Call, rate: str) -> None:
    async with call.socket(rate) as socket:
        assert "rate" in (await event(socket, "error"))["error"]
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), 5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008 and "rate" in closed.value.rcvd.reason


async def test_a_socket_of_no_session_is_a_404(server: Running) -> None:
    url = server.url.replace("http", "ws") + UNKNOWN + "/speech?rate=24000"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(url):
            pass
    assert refused.value.response.status_code == 404
    assert b"no session" in refused.value.response.body


async def test_pages_of_other_origins_are_kept_out(call: Call) -> None:
    async with call.socket(origin="https://elsewhere.example") as socket:
        assert "origin" in (await event(socket, "error"))["error"]
    own = str(call.client.base_url).rstrip("/")
    async with call.socket(origin=own) as socket:
        await event(socket, "ready")


async def test_the_socket_ends_with_its_session(call: Call) -> None:
    async with call.socket() as socket:
        await event(socket, "ready")
        await call.client.delete(call.path)
        assert "ended" in (await event(socket, "error"))["error"]
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 5)


async def test_a_full_backlog_stops_the_reading_but_not_an_interruption(engine: Engine) -> None:
    with Running(engine, speech_backlog_max_s=1.0) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client, Caller() as caller:
            body = (
                await client.post(
                    "/api/sessions", json={"sdp": await caller.offer(), "consent": True}
                )
            ).json()
            await caller.accept(body["sdp"])
            call = Call(caller, client, body["id"])
            second = tone(1.0, 500, 24_000).astype("<i2").tobytes()
            async with call.socket() as socket:
                await event(socket, "ready")
                for _ in range(30):
                    await socket.send(second)
                await asyncio.sleep(0.3)
                assert (await call.stats())["backlog_s"] <= 1.0
                await socket.send('{"type":"interrupt"}')
                await event(socket, "interrupted")
                await asyncio.sleep(0.3)
                assert (await call.stats())["backlog_s"] == 0


async def test_a_server_that_stops_ends_its_calls(engine: Engine) -> None:
    with Running(engine) as server:
        async with Caller() as caller:
            async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
                offer = {"sdp": await caller.offer(), "consent": True}
                body = (await client.post("/api/sessions", json=offer)).json()
            await caller.accept(body["sdp"])
            await until(lambda: bool(caller.pictures), "a picture comes back")
            peer = server.app.state.sessions.get(body["id"])
            await asyncio.to_thread(server.stop)
            assert peer.ended and peer.session.closed
            await until(lambda: caller.pc.connectionState == "closed", "the caller notices")
