"""The HTTP interface of a running server, with a real call behind it."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import httpx
import pytest
from calls import (
    Caller,
    HttpCall,
    Running,
    error_of,
    http_call,
    loudness,
    sound_file,
    strongest_hz,
    tone,
    until,
)
from fakes import SceneTracker

from lipwire.engine import Engine
from lipwire.server.call import speech_queue

UNKNOWN = "/api/sessions/never-was"


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
    cause = error_of(answer, 400)
    assert any(word in cause for word in named.split("|")), cause


async def test_an_offer_that_is_not_for_a_call_is_a_422(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/sessions", json={"sdp": "v=0\r\n", "consent": True})
    assert "0 video sections" in error_of(answer, 422)


async def test_refused_consent_and_steps_not_offered(client: httpx.AsyncClient) -> None:
    async with Caller() as caller:
        offer = {"sdp": await caller.offer()}
        for refused in (offer, {**offer, "consent": False}):
            answer = await client.post("/api/sessions", json=refused)
            assert "agreed" in error_of(answer, 403)
        offer["consent"] = True
        answer = await client.post("/api/sessions", json={**offer, "steps": 3})
        assert "3" in error_of(answer, 400)
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
    assert "all 2 calls" in error_of(answer, 503)
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
    assert "no session" in error_of(answer, 404)


async def test_a_call_can_be_changed_and_ended(call: HttpCall) -> None:
    answer = await call.client.patch(call.path, json={"steps": 4, "original_level": 0.5})
    assert answer.json()["steps"] == 4 and answer.json()["original_level"] == 0.5
    answer = await call.client.patch(
        call.path, json={"silence": "generate", "ducking": True, "loudness_lufs": "off"}
    )
    assert answer.json()["silence"] == "generate" and answer.json()["ducking"]
    assert answer.json()["loudness_lufs"] is None
    answer = await call.client.patch(call.path, json={"loudness_lufs": 5})
    assert "loudness_lufs" in error_of(answer, 400)
    answer = await call.client.patch(call.path, json={"steps": 3, "original_level": 0.9})
    assert "steps" in error_of(answer, 400)
    stats = await call.stats()
    assert stats["steps"] == 4 and stats["original_level"] == 0.5 and stats["frames_out"] > 0
    assert (await call.client.delete(call.path)).status_code == 204
    assert (await call.client.get(call.path + "/stats")).status_code == 404


async def face_of(call: HttpCall) -> Any:
    return (await call.stats())["face"]


async def test_the_face_can_be_chosen(call: HttpCall, tracker: SceneTracker) -> None:
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
        ({"position": [1]}, "position"),
        ({"nxt": True}, "nxt"),
    ],
)
async def test_choices_of_no_face_are_refused(
    call: HttpCall, body: dict[str, object], cause: str
) -> None:
    answer = await call.client.post(call.path + "/face", json=body)
    assert cause in error_of(answer, 400)


# --- the voice ---


async def test_a_file_is_heard(call: HttpCall) -> None:
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
    call: HttpCall, content: bytes, status: int, named: str
) -> None:
    answer = await call.client.post(call.path + "/speech", content=content)
    assert named in error_of(answer, status)
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
async def test_no_address_that_a_client_names_is_fetched(call: HttpCall, content: str) -> None:
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


async def test_a_sample_is_heard_and_interrupted(call: HttpCall) -> None:
    answer = await call.client.post(call.path + "/sample", json={"name": "english"})
    assert answer.json()["seconds"] > 3
    await until(lambda: loudness(call.caller.heard(0.3)) > 300, "the sample")
    assert (await call.stats())["backlog_s"] > 1
    assert (await call.client.post(call.path + "/interrupt")).status_code == 204
    await until(lambda: loudness(call.caller.heard(0.2)) < 2, "silence")
    answer = await call.client.post(call.path + "/sample", json={"name": "../../config"})
    assert "no sample" in error_of(answer, 404)


async def test_text_is_heard(call: HttpCall) -> None:
    if speech_queue.espeak() is None:
        pytest.skip("espeak-ng is not installed: apt-get install espeak-ng")
    answer = await call.client.post(call.path + "/say", json={"text": "Good morning to you all."})
    assert answer.status_code == 200 and answer.json()["seconds"] > 0.5
    await until(lambda: loudness(call.caller.heard(0.3)) > 300, "the words")
    answer = await call.client.post(call.path + "/say", json={"text": "a" * 2001})
    assert "longer than 2000" in error_of(answer, 413)
    answer = await call.client.post(call.path + "/say", json={"text": "hi", "language": "zz"})
    error_of(answer, 422)


async def test_without_espeak_text_is_a_501(
    call: HttpCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_queue, "espeak", lambda: None)
    answer = await call.client.post(call.path + "/say", json={"text": "hello"})
    assert "espeak-ng" in error_of(answer, 501)
    assert (await call.client.get("/api/info")).json()["text_to_speech"] is False


async def test_a_server_that_stops_ends_its_calls(engine: Engine) -> None:
    with Running(engine) as server:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=20) as client,
            http_call(client) as call,
        ):
            peer = server.app.state.sessions.get(call.name)
            await asyncio.to_thread(server.stop)
            assert peer.ended and peer.session.closed
            gone = "the caller notices"
            await until(lambda: call.caller.pc.connectionState == "closed", gone)
