"""WHIP and WHEP to the letter (RFC 9725, draft-ietf-wish-whep), with real aiortc clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from aiortc import RTCSessionDescription
from calls import Running, error_of, loudness, strongest_hz, until
from whip_client import IS_SDP, Client, watching

from lipwire.engine import Engine

SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"
TOKEN = "a-token-that-is-long-enough"
ORIGIN = "https://studio.example"


@pytest.fixture
async def publisher(client: httpx.AsyncClient) -> AsyncIterator[Client]:
    """A session that is live."""
    async with Client(client).publish() as made:
        answer = await made.post("/whip?consent=true")
        assert answer.status_code == 201, answer.text
        await until(lambda: made.pc.connectionState == "connected", "the publisher connects")
        yield made


# --- what a session is ---


async def test_a_session_is_published_watched_by_two_and_ended(publisher: Client) -> None:
    assert publisher.location.startswith("/whip/") and len(publisher.session) >= 22
    assert publisher.etag.startswith('"') and publisher.etag.endswith('"')
    assert "a=recvonly" in publisher.answer and "a=sendrecv" not in publisher.answer
    one, two = await watching(publisher), await watching(publisher)
    async with one, two:
        assert one.location.startswith(f"/whep/{publisher.session}/")
        assert one.location != two.location
        assert "a=sendonly" in one.answer and "a=sendrecv" not in one.answer
        await until(lambda: len(one.pictures) > 10 and len(two.pictures) > 10, "both see", 20)
        await until(lambda: len(one.sound) > 20 and len(two.sound) > 20, "both hear", 20)
        http = publisher.http
        assert (await http.delete(one.location)).status_code == 200
        error_of(await http.delete(one.location), 404)
        await until(lambda: one.pc.connectionState == "closed", "one is let go")
        seen = len(two.sound)
        await until(lambda: len(two.sound) > seen + 20, "two goes on")
        assert (await http.delete(publisher.location)).status_code == 200
        await until(lambda: two.pc.connectionState == "closed", "two ends with the session")
        error_of(await http.delete(publisher.location), 404)
        assert (await http.get("/api/info")).json()["sessions"] == 0


async def test_every_answer_holds_what_the_texts_demand(publisher: Client) -> None:
    async with await watching(publisher) as viewer:
        for answer in (publisher.answer, viewer.answer):
            sections = answer.split("m=")[1:]
            assert len(sections) == 2
            assert answer.count("a=rtcp-mux-only") == 2 and "a=group:BUNDLE 0 1" in answer
            assert "a=candidate:" in sections[0] and "127.0.0.1" in sections[0]
            assert "a=end-of-candidates" in sections[0]
            assert "a=setup:active" in answer or "a=setup:passive" in answer


async def test_a_translated_voice_is_published_beside(publisher: Client) -> None:
    http = publisher.http
    async with await watching(publisher) as viewer, Client(http).speak(500) as voice:
        answer = await voice.post(f"/whip/{publisher.session}/voice")
        assert answer.status_code == 201
        assert voice.location.startswith(f"/whip/{publisher.session}/voice/")
        await until(lambda: loudness(viewer.heard(0.5)) > 1000, "the voice", 20)
        await until(lambda: abs(strongest_hz(viewer.heard(0.5)) - 500) < 10, "and not the original")
        async with Client(http).speak(700) as second:
            named = error_of(await second.post(f"/whip/{publisher.session}/voice"), 409)
            assert "voice link already" in named
        assert (await http.delete(voice.location)).status_code == 200
        await until(lambda: loudness(viewer.heard(0.3)) < 2, "silence")  # Opus leaves a hiss of 0.1
        async with Client(http).speak(700) as third:  # the place is free
            assert (await third.post(f"/whip/{publisher.session}/voice")).status_code == 201


async def test_the_settings_of_a_session_come_in_the_address(client: httpx.AsyncClient) -> None:
    async with Client(client).publish() as made:
        answer = await made.post(
            "/whip?consent=true&steps=4&original_level=0.5&ducking=true&loudness_lufs=-20"
        )
        assert answer.status_code == 201
        stats = (await client.get(f"/api/sessions/{made.session}/stats")).json()
        assert stats["steps"] == 4 and stats["original_level"] == 0.5
        assert stats["ducking"] and stats["loudness_lufs"] == -20
        assert stats["ai_generated"] is True and stats["mark"] == "AI-generated"
    async with Client(client).publish() as made:
        assert "steps" in error_of(await made.post("/whip?consent=true&steps=3"), 400)
        error_of(await made.post("/whip?consent=true&original_level=7"), 400)


# --- refusals ---


async def test_without_consent_nothing_begins(client: httpx.AsyncClient) -> None:
    async with Client(client).publish() as made:
        for path in ("/whip", "/whip?consent=false"):
            assert "?consent=true" in error_of(await made.post(path), 403)
    assert (await client.get("/api/info")).json()["sessions"] == 0


@pytest.mark.parametrize("path", ["/whip?consent=true", "VOICE", "WHEP"])
async def test_bodies_that_are_no_offer(publisher: Client, path: str) -> None:
    http, name = publisher.http, publisher.session
    path = {"VOICE": f"/whip/{name}/voice", "WHEP": f"/whep/{name}"}.get(path, path)
    for kind in ("text/plain", "application/json", ""):
        answer = await http.post(path, content=b"v=0", headers={"Content-Type": kind})
        assert SDP in error_of(answer, 415)
    for body in (b"", b"hello", b"v=0\r\nm=video nonsense\r\n", b"\xff\xfe"):
        error_of(await http.post(path, content=body, headers=IS_SDP), 400)
    large = b"v=0\r\n" + b"a=x\r\n" * 14_000
    assert "64 kB" in error_of(await http.post(path, content=large, headers=IS_SDP), 413)
    huge = b"v=0\r\n" + b"a=x\r\n" * 200_000
    error_of(await http.post(path, content=huge, headers=IS_SDP), 413)
    charset = {"Content-Type": "application/sdp; charset=utf-8"}
    error_of(await http.post(path, content=b"v=0\r\n", headers=charset), 422)


async def test_offers_that_do_not_fit_their_purpose(publisher: Client) -> None:
    http = publisher.http
    async with Client(http).publish() as sends, Client(http).watch() as receives:
        good, watch = await sends.offer(), await receives.offer()
        head, *media = good.split("m=")
        video, audio = ("m=" + section for section in media)
        streams = good.replace("a=msid:", "a=msid:other-", 1)
        cases: dict[str, tuple[str, str]] = {
            "0 video sections": ("/whip?consent=true", head + audio),
            "2 audio sections": ("/whip?consent=true", good + audio),
            "2 video sections": ("/whip?consent=true", good + video),
            "is recvonly": ("/whip?consent=true", watch),
            "rtcp-mux": ("/whip?consent=true", good.replace("a=rtcp-mux\r\n", "")),
            "does not bundle": (
                "/whip?consent=true",
                good.replace("a=group:BUNDLE 0 1", "a=group:BUNDLE 0"),
            ),
            "more than one MediaStream": ("/whip?consent=true", streams),
            "H261 or VP7": (
                "/whip?consent=true",
                good.replace("VP8", "VP7").replace("H264", "H261"),
            ),
            "must have 0": (f"/whip/{publisher.session}/voice", good),
            "is sendonly": (f"/whep/{publisher.session}", good),
        }
        for named, (path, sdp) in cases.items():
            answer = await http.post(path, content=sdp, headers=IS_SDP)
            assert named in error_of(answer, 422), named
    assert (await http.get("/api/info")).json()["sessions"] == 1


async def test_nobody_is_live_yet(client: httpx.AsyncClient) -> None:
    async with Client(client).publish() as made, Client(client).watch() as viewer:
        sdp = await made.offer()
        answer = await client.post("/whip?consent=true", content=sdp, headers=IS_SDP)
        name = answer.headers["location"].split("/")[2]  # and the answer is thrown away
        refused = await viewer.post(f"/whep/{name}")
        assert "publishes" in error_of(refused, 409)
        assert int(refused.headers["retry-after"]) > 0
        error_of(await viewer.post("/whep/never-was"), 404)


async def test_a_full_server_and_too_many_viewers(engine: Engine) -> None:
    with Running(engine, max_sessions=1, max_viewers=1) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as http:
            async with Client(http).publish() as made, Client(http).publish() as late:
                assert (await made.post("/whip?consent=true")).status_code == 201
                refused = await late.post("/whip?consent=true")
                assert "all 1 calls" in error_of(refused, 503)
                assert int(refused.headers["retry-after"]) > 0
                await until(lambda: made.pc.connectionState == "connected", "connected")
                async with await watching(made), Client(http).watch() as late_viewer:
                    refused = await late_viewer.post(f"/whep/{made.session}")
                    assert "all 1 viewers" in error_of(refused, 503)
                    assert int(refused.headers["retry-after"]) > 0


# --- late candidates ---


def fragment(client: Client, lines: str = "", ufrag: str | None = None) -> str:
    """A trickled piece as browsers write it."""
    sdp = client.pc.localDescription.sdp
    own = next(line for line in sdp.splitlines() if line.startswith("a=ice-ufrag:"))
    head = own if ufrag is None else f"a=ice-ufrag:{ufrag}"
    return f"{head}\r\na=ice-pwd:{'x' * 22}\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n{lines}"


async def test_a_client_that_trickles_connects(client: httpx.AsyncClient) -> None:
    async with Client(client).publish() as made:
        sdp = await made.offer()
        lines = [line for line in sdp.splitlines() if line.startswith("a=candidate:")]
        # Without candidates, and with credentials that keep the server from finding us by itself
        # until they are right: only the PATCH can connect us.
        bare = "\r\n".join(line for line in sdp.splitlines() if line not in lines) + "\r\n"
        bare = bare.replace("a=end-of-candidates\r\n", "")
        answer = await client.post("/whip?consent=true", content=bare, headers=IS_SDP)
        assert answer.status_code == 201
        location, etag = answer.headers["location"], answer.headers["etag"]
        path = {"url": location, "headers": {"Content-Type": FRAGMENT, "If-Match": etag}}
        junk = "a=candidate:1 1 udp 1 a1b2.local 5 typ host\r\na=candidate:what\r\na=x:y\r\n"
        body = fragment(made, junk + "\r\n".join(lines) + "\r\na=end-of-candidates\r\n")
        patched = await client.patch(**path, content=body)
        assert patched.status_code == 204 and not patched.content and "etag" not in patched.headers
        await made.pc.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        await until(lambda: made.pc.connectionState == "connected", "connected")
        # Whatever comes after the end is dropped in silence too.
        assert (await client.patch(**path, content=body)).status_code == 204


async def test_patches_that_do_not_pass(publisher: Client) -> None:
    async with await watching(publisher) as viewer:
        for link in (publisher, viewer):
            http, url = link.http, link.location
            kind = {"Content-Type": FRAGMENT}
            good = fragment(link, "a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n")
            match = kind | {"If-Match": link.etag}
            assert "If-Match" in error_of(await http.patch(url, content=good, headers=kind), 428)
            for wrong in ('"other"', "W/" + link.etag):
                answer = await http.patch(url, content=good, headers=kind | {"If-Match": wrong})
                error_of(answer, 412)
            answer = await http.patch(url, content=good, headers={"If-Match": link.etag} | IS_SDP)
            assert FRAGMENT in error_of(answer, 415)
            for body in ("", "nonsense", "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n"):
                error_of(await http.patch(url, content=body, headers=match), 400)
            many = good + "a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n" * 2000
            error_of(await http.patch(url, content=many, headers=match), 413)
            restart = fragment(link, ufrag="newname")
            for etag in (link.etag, "*"):
                answer = await http.patch(url, content=restart, headers=kind | {"If-Match": etag})
                assert "restart" in error_of(answer, 422)
            assert (await http.patch(url, content=good, headers=match)).status_code == 204
        await until(lambda: bool(viewer.pictures), "the session goes on", 20)


# --- reads, CORS, tokens ---


async def test_reads_are_empty(publisher: Client) -> None:
    http, name = publisher.http, publisher.session
    async with await watching(publisher) as viewer:
        endpoints = ("/whip", f"/whip/{name}/voice", f"/whep/{name}")
        for path in (*endpoints, publisher.location, viewer.location):
            for method in ("GET", "HEAD", "OPTIONS"):
                answer = await http.request(method, path)
                assert answer.status_code == 200 and not answer.content, (method, path)
                assert answer.headers["content-type"] == SDP
                wanted = "accept-post" if path in endpoints else "accept-patch"
                assert answer.headers[wanted] in (SDP, FRAGMENT)
        for path in ("/whip/never-was", "/whep/never-was", f"/whep/{name}/never-was"):
            error_of(await http.get(path), 404)
        for method, path in (("PUT", "/whip"), ("POST", publisher.location)):
            error_of(await http.request(method, path), 405)


@pytest.fixture
def guarded(engine: Engine) -> Iterator[Running]:
    """A server that wants a token, knows one foreign page, and has a TURN server to tell of."""
    with Running(
        engine,
        token=TOKEN,
        allowed_origins=ORIGIN,
        turn_urls="turn:turn.example?transport=udp",
        turn_secret="shared",
        stun_urls=(),
    ) as running:
        yield running


async def test_tokens_are_asked_for_everywhere_but_on_preflights(guarded: Running) -> None:
    async with httpx.AsyncClient(base_url=guarded.url, timeout=20) as http:
        async with Client(http).publish() as made:
            refused = await made.post("/whip?consent=true")
            assert "needs a token" in error_of(refused, 401)
            assert refused.headers["www-authenticate"].startswith("Bearer")
            for value in ("Bearer", "Bearer wrong", f"Basic {TOKEN}", "Bearer " + "a.b.c"):
                answer = await http.post("/whip", headers={"Authorization": value, **IS_SDP})
                error_of(answer, 401)
            http.headers["Authorization"] = f"Bearer {TOKEN}"
            answer = await made.post("/whip?consent=true")
            assert answer.status_code == 201
            link = answer.headers["link"]
            assert link.startswith('<turn:turn.example?transport=udp>; rel="ice-server"; username=')
            assert 'credential-type="password"' in link
            del http.headers["Authorization"]
            fragment_headers = {"Content-Type": FRAGMENT, "If-Match": made.etag}
            for method, path, headers in (
                ("PATCH", made.location, fragment_headers),
                ("DELETE", made.location, {}),
                ("POST", f"/whep/{made.session}", IS_SDP),
                ("GET", made.location, {}),
                ("POST", f"/whip/{made.session}/voice", IS_SDP),
                ("GET", "/metrics", {}),
                ("GET", f"/api/sessions/{made.session}/stats", {}),
                ("POST", f"/api/sessions/{made.session}/interrupt", {}),
                ("DELETE", f"/api/sessions/{made.session}", {}),
            ):
                error_of(await http.request(method, path, headers=headers), 401)
            for path in ("/whip", made.location, f"/whep/{made.session}"):
                answer = await http.options(path)
                assert answer.status_code == 200, path
            for path in ("/", "/healthz", "/readyz", "/api/info"):
                assert (await http.get(path)).status_code == 200, path


async def test_pages_of_known_origins_may_and_others_may_not(guarded: Running) -> None:
    async with httpx.AsyncClient(base_url=guarded.url, timeout=20) as http:
        asks = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        answer = await http.options("/whip", headers={"Origin": ORIGIN, **asks})
        assert answer.status_code == 200 and not answer.content
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["accept-post"] == SDP
        allowed = answer.headers["access-control-allow-headers"].lower()
        assert {"authorization", "content-type", "if-match"} <= set(allowed.split(", "))
        assert {"POST", "PATCH", "DELETE"} <= set(
            answer.headers["access-control-allow-methods"].split(", ")
        )
        answer = await http.options("/whip", headers={"Origin": "https://evil.example", **asks})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers

        http.headers["Authorization"] = f"Bearer {TOKEN}"
        async with Client(http).publish() as made:
            sdp = await made.offer()
            foreign = {**IS_SDP, "Origin": "https://evil.example"}
            refused = await http.post("/whip?consent=true", content=sdp, headers=foreign)
            assert "evil.example" in error_of(refused, 403)
            known = {**IS_SDP, "Origin": ORIGIN}
            answer = await http.post("/whip?consent=true", content=sdp, headers=known)
            assert answer.status_code == 201
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {"Location", "ETag", "Link"} <= set(exposed)
            assert answer.headers["access-control-allow-origin"] == ORIGIN
        own = {"Origin": guarded.url}
        assert (await http.get("/api/info", headers=own)).status_code == 200
        refused = await http.get("/api/info", headers={"Origin": "null"})
        error_of(refused, 403)


async def test_who_asks_too_often_is_told_to_wait(engine: Engine) -> None:
    with Running(engine, rate_per_s=0.5, rate_burst=3) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as http:
            for _ in range(3):
                error_of(await http.post("/whip", content=b"x", headers=IS_SDP), 400)
            for path in ("/whip", "/api/sessions"):
                refused = await http.post(path)
                assert "too many" in error_of(refused, 429)
                assert 1 <= int(refused.headers["retry-after"]) <= 2
            assert (await http.get("/api/info")).status_code == 200  # looking is free
