"""Whatever a stranger sends is answered or dropped, and leaves no fault and nothing else behind."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
import websockets
from calls import Caller, Running, StripedBackend, keep_aiortc
from fakes import FakeTracker
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lipwire.engine import Engine, LipwireError
from lipwire.server.api.auth import Authenticator, Right, Unauthorised
from lipwire.server.config import ServerConfig
from lipwire.server.rtc.ice import MAX_CANDIDATES, filter_candidates, usable
from lipwire.server.rtc.sdp import Purpose, finish_answer, read_fragment, read_offer

quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

OFFER = "\r\n".join(
    [
        "v=0",
        "o=- 1 1 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1",
        "a=msid-semantic:WMS *",
        "m=video 9 UDP/TLS/RTP/SAVPF 97",
        "c=IN IP4 0.0.0.0",
        "a=sendonly",
        "a=mid:0",
        "a=msid:s v",
        "a=rtcp-mux",
        "a=rtpmap:97 VP8/90000",
        "a=rtcp-fb:97 nack pli",
        "a=candidate:1 1 udp 2130706431 127.0.0.1 50000 typ host",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:abcdefghijklmnopqrstuv",
        "a=ssrc:5 cname:x",
        "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
        "a=setup:actpass",
        "m=audio 9 UDP/TLS/RTP/SAVPF 96",
        "c=IN IP4 0.0.0.0",
        "a=sendonly",
        "a=mid:1",
        "a=msid:s a",
        "a=rtcp-mux",
        "a=rtpmap:96 opus/48000/2",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:abcdefghijklmnopqrstuv",
        "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
        "a=setup:actpass",
        "",
    ]
)
LINES = OFFER.split("\r\n")[:-1]
WORDS = ["", "-1", "99999999999999999999", "\x00", "é", "VP8", "UDP", ":", " ", "=", "a" * 300]


@st.composite
def broken(draw: st.DrawFn, lines: list[str] = LINES) -> str:
    """An offer with a few lines gone, doubled, moved, cut, or with other words in them."""
    lines = list(lines)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["drop", "double", "move", "cut", "word", "bytes"])):
            case "drop" if len(lines) > 1:
                del lines[place]
            case "double":
                lines[place:place] = [lines[place]] * draw(st.integers(1, 5))
            case "move":
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(place))
            case "cut":
                lines[place] = lines[place][: draw(st.integers(0, 40))]
            case "word":
                words = lines[place].split(" ")
                words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(WORDS))
                lines[place] = " ".join(words)
            case _:
                lines[place] += draw(st.text(max_size=20))
    return "\r\n".join(lines) + "\r\n"


def test_the_offer_that_is_broken_below_is_good() -> None:
    assert read_offer(OFFER, Purpose.INGEST).candidates == 1


@quick
@given(broken() | st.text(max_size=500) | st.text("v=0\r\nma: ", max_size=200))
def test_offers(sdp: str) -> None:
    for purpose in Purpose:
        try:
            offer = read_offer(sdp, purpose, private=False)
        except LipwireError as error:
            assert "\n" not in str(error)
        else:
            assert offer.ufrag and offer.candidates <= MAX_CANDIDATES
            assert "v=0" in finish_answer(offer.sdp, 1500)


@quick
@given(st.text(max_size=300) | broken(["a=ice-ufrag:a", "a=mid:0", LINES[14], "m=video 9 x 1"]))
def test_fragments(text: str) -> None:
    try:
        fragment = read_fragment(text)
    except LipwireError as error:
        assert "\n" not in str(error)
    else:
        assert all(line in text for _, line in fragment.candidates)


@quick
@given(st.text(max_size=120) | broken([LINES[14]]))
def test_candidate_lines(line: str) -> None:
    assert usable(line) in (True, False)
    assert usable(line) or not usable(line, private=False)
    assert filter_candidates("v=0\r\nm=x\r\n" + line).startswith("v=0")


@quick
@given(st.text(max_size=200) | st.from_regex(r"Bearer [\w-]{0,20}(\.[\w-]{0,40}){0,3}"))
def test_tokens(header: str) -> None:
    gate = Authenticator(ServerConfig(token="a-token-that-is-long-enough", jwt_secret="s" * 32))
    with pytest.raises(Unauthorised):
        gate.admit(header, Right.WATCH, "any")


# --- against a running server ---


@pytest.fixture(scope="module")
def strangers() -> Iterator[Any]:
    """Runs coroutines that are given the address of a server that no rate protects."""
    with pytest.MonkeyPatch.context() as patch, Engine(StripedBackend(), FakeTracker) as engine:
        keep_aiortc(patch)
        with Running(
            engine,
            rate_per_s=100_000,
            rate_burst=100_000,
            max_sessions=50,
            connect_timeout_s=1,
            max_upload_mb=1,
        ) as server:

            def run(work: Callable[[str], Coroutine[Any, Any, None]]) -> None:
                asyncio.run(work(server.url))

            yield run
            for _ in range(200):  # those that never connected are dropped after a second
                if not server.app.state.sessions.peers:
                    break
                time.sleep(0.1)
            assert not server.app.state.sessions.peers


@settings(quick, max_examples=25)
@given(st.lists(broken() | st.binary(max_size=300).map(lambda b: b.decode("latin-1")), max_size=4))
def test_posts_are_answered_whatever_they_hold(strangers: Any, bodies: list[str]) -> None:
    async def work(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            for body in bodies:
                for path, kind in (
                    ("/whip?consent=true", "application/sdp"),
                    ("/whep/never-was", "application/sdp"),
                    ("/api/sessions", "application/json"),
                ):
                    content = body if "sdp" in kind else json.dumps({"sdp": body, "consent": True})
                    answer = await client.post(
                        path, content=content.encode(), headers={"Content-Type": kind}
                    )
                    assert answer.status_code < 500 or answer.status_code == 503, answer.text
                    if answer.status_code == 201:
                        name = answer.headers.get("location", "").split("/")[-1]
                        name = name or answer.json()["id"]
                        await client.delete(f"/api/sessions/{name}")
            assert (await client.get("/healthz")).status_code == 200

    strangers(work)


MESSAGES = st.lists(
    st.binary(max_size=400)
    | st.text(max_size=100)
    | st.sampled_from(['{"type":"flush"}', '{"type":"interrupt"}', '{"type":7}', "[]", "null"]),
    max_size=12,
)


@settings(quick, max_examples=3)
@given(st.lists(MESSAGES, min_size=8, max_size=8), st.lists(st.binary(max_size=2000), max_size=8))
def test_sockets_and_uploads(
    strangers: Any, sockets: list[list[bytes | str]], uploads: list[bytes]
) -> None:
    async def work(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client, Caller() as caller:
            offer = {"sdp": await caller.offer(), "consent": True}
            name = (await client.post("/api/sessions", json=offer)).json()["id"]
            path = f"/api/sessions/{name}/speech"
            for messages in sockets:
                address = url.replace("http", "ws") + path + "?rate=16000"
                async with websockets.connect(address) as socket:
                    for message in messages:
                        await socket.send(message)
            for content in uploads:
                answer = await client.post(path, content=content)
                assert answer.status_code in (404, 415, 422), answer.text  # 404: reaped meanwhile
            await client.delete(f"/api/sessions/{name}")
            assert (await client.get("/healthz")).status_code == 200

    strangers(work)


@schemathesis.serializer("application/sdp", "application/trickle-ice-sdpfrag")
def as_text(context: Any, value: Any) -> bytes:
    return str(value).encode()


def test_the_documented_interface_breaks_nothing(engine: Engine) -> None:
    """Schemathesis makes requests from our own description, for a session that exists."""
    with Running(engine, rate_per_s=100_000, rate_burst=100_000, max_sessions=100) as server:
        schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
        statuses: dict[str, set[int]] = {}
        for found in schema.get_all_operations():
            operation = found.ok()
            answer = httpx.post(
                server.url + "/whip?consent=true",
                content=OFFER,
                headers={"Content-Type": "application/sdp"},
                timeout=60,
            )
            assert answer.status_code == 201, answer.text
            name = answer.headers["location"].split("/")[-1]

            @settings(quick, max_examples=4)
            @given(case=operation.as_strategy())
            def check(case: Any) -> None:
                if "name" in case.path_parameters:
                    case.path_parameters["name"] = name  # noqa: B023 - it is called in here
                answer = case.call(timeout=60)
                statuses.setdefault(case.operation.label, set()).add(answer.status_code)
                assert answer.status_code < 500 or answer.status_code == 501, answer.text
                known = case.operation.definition.raw["responses"]
                assert str(answer.status_code) in known, f"{case.operation.label}: {answer.text}"

            check()
            httpx.delete(f"{server.url}/api/sessions/{name}", timeout=60)
        print(statuses)
        assert len(statuses) > 15
        assert httpx.get(server.url + "/healthz", timeout=60).status_code == 200
