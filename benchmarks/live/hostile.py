"""`lipwire bench hostile`: strangers who wish a server ill, and a call that must not notice.

Each attack comes from this process; the bystander's call runs in another. What is measured is the
server: whether it lives, its event loop, its memory, and what the bystander saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import aiortc.rtcrtpsender
import httpx
import websockets
from aiortc import RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from annotated_types import Ge

from lipwire.benchmarks.live.transport import figures_of, start_probe, verdict
from lipwire.benchmarks.rig.bombs import BlankCamera, BombEncoder, h264_bomb, vp8_bomb
from lipwire.benchmarks.rig.client import new_peer, offer_of
from lipwire.benchmarks.rig.server import UNLIMITED, serving
from lipwire.benchmarks.rig.watch import glance, loop_figures, throw, udp_ports
from lipwire.server.rtc import ice

GROWTH_MIB = 50.0
SDP = {"Content-Type": "application/sdp"}
UPLOAD_MB = 1
Attack = Callable[["Attacker"], Awaitable[object]]


class Attacker:
    """One who attacks a server."""

    def __init__(self, url: str, pid: int, seconds: float) -> None:
        self.url, self.pid, self.seconds = url, pid, seconds
        self.http = httpx.AsyncClient(base_url=url, timeout=30)
        self.rng = random.Random(7)
        self.statuses: Counter[str] = Counter()

    async def post(self, path: str, content: Any, **headers: str) -> httpx.Response | None:
        """Send something and count what came back."""
        try:
            reply = await self.http.post(path, content=content, headers=headers)
        except httpx.HTTPError as error:  # a server may hang up on an endless body
            self.statuses[type(error).__name__] += 1
            return None
        self.statuses[str(reply.status_code)] += 1
        return reply

    @contextlib.asynccontextmanager
    async def session(self, codec: str = "VP8") -> AsyncIterator[tuple[str, RTCPeerConnection]]:
        """A WHIP session of one's own, connected."""
        peer = await self.offerer(codec)
        reply = await self.http.post(
            "/whip?consent=true", content=peer.localDescription.sdp, headers=SDP
        )
        reply.raise_for_status()
        where = reply.headers["location"]
        try:
            await peer.setRemoteDescription(RTCSessionDescription(reply.text, "answer"))
            ends = time.monotonic() + 15
            while peer.connectionState != "connected" and time.monotonic() < ends:
                await asyncio.sleep(0.05)
            yield where.rsplit("/", 1)[-1], peer
        finally:
            await self.http.delete(where)
            await peer.close()

    async def offerer(self, codec: str = "VP8") -> RTCPeerConnection:
        """A peer connection with its offer made."""
        peer = new_peer()
        peer.addTrack(BlankCamera())
        (sender,) = peer.getTransceivers()
        sender.direction = "sendonly"
        known = RTCRtpSender.getCapabilities("video").codecs
        sender.setCodecPreferences([c for c in known if c.mimeType == f"video/{codec}"])
        await offer_of(peer)
        return peer


def _candidates(count: int) -> str:
    """Lines that name addresses of this machine where nobody listens."""
    return "".join(
        f"a=candidate:{k} 1 udp 1 127.{k >> 16 & 255}.{k >> 8 & 255}.{k & 255} 9 typ host\r\n"
        for k in range(1, count + 1)
    )


async def many_candidates(attacker: Attacker) -> None:
    """3,000 candidates: in an offer, as many as an offer may hold, and trickled."""
    peer = await attacker.offerer()
    offer = peer.localDescription.sdp
    for count in (3000, 1000):
        reply = await attacker.post("/whip?consent=true", offer + _candidates(count), **SDP)
        if reply is not None and reply.status_code == 201:
            where, etag = reply.headers["location"], reply.headers["etag"]
            headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": etag}
            for _ in range(3):
                patch = await attacker.http.patch(
                    where, content="a=mid:0\r\n" + _candidates(1000), headers=headers
                )
                attacker.statuses[f"PATCH {patch.status_code}"] += 1
            await asyncio.sleep(attacker.seconds)
            await attacker.http.delete(where)
    await peer.close()


async def large_offers(attacker: Attacker) -> None:
    """1 MB that says to be an offer: declared, in pieces, and as JSON."""
    text = "v=0\r\n" + "a=x:" + "y" * 1_000_000

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"a=" + b"z" * 10_000

    for _ in range(5):
        await attacker.post("/whip?consent=true", text, **SDP)
        await attacker.post("/whip?consent=true", pieces(), **SDP)
        body = json.dumps({"sdp": text, "type": "offer", "consent": True})
        await attacker.post("/api/sessions", body, **{"Content-Type": "application/json"})
        await attacker.post("/whip?consent=true", "v=0\r\n" + "m=audio 9\r\n" * 5000, **SDP)


async def large_uploads(attacker: Attacker) -> None:
    """Voices beyond the limit, and files that are none."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(UPLOAD_MB * 30):
            yield bytes(100_000)

    async with attacker.session() as (name, _):
        path = f"/api/sessions/{name}/speech"
        for _ in range(3):
            await attacker.post(path, bytes(UPLOAD_MB * 2_000_000))
            await attacker.post(path, pieces())
            await attacker.post(path, attacker.rng.randbytes(UPLOAD_MB * 900_000))


async def socket_abuse(attacker: Attacker) -> None:
    """Messages too large, floods of small ones, noise as text, and sockets that say nothing."""
    async with attacker.session() as (name, _):
        url = attacker.url.replace("http", "ws", 1) + f"/api/sessions/{name}/speech?rate=24000"
        made: list[list[Any]] = [
            [bytes(5_000_000)],
            ["{" * 3_000_000],
            [attacker.rng.randbytes(attacker.rng.randint(0, 64)) for _ in range(5000)],
            [attacker.rng.randbytes(40).decode("latin-1") for _ in range(1000)],
        ]
        for messages in made:
            with contextlib.suppress(websockets.WebSocketException, OSError, TimeoutError):
                async with asyncio.timeout(10), websockets.connect(url) as socket:
                    for message in messages:
                        await socket.send(message)
                    await socket.close()
        idle = [await websockets.connect(url) for _ in range(20)]
        await asyncio.sleep(1)
        for socket in idle:
            await socket.close()
            attacker.statuses[f"socket {socket.close_code}"] += 1


async def frame_bursts(attacker: Attacker) -> None:
    """The smallest frames and pieces of a body that there are, many thousands in one write."""
    bursts = {
        "binary": b"\x82\x80\0\0\0\0",
        "text": b"\x81\x81\0\0\0\0{",
        "ping": b"\x89\x80\0\0\0\0",
        "fragment": b"\x00\x80\0\0\0\0",
    }
    async with attacker.session() as (name, _):
        path = f"/api/sessions/{name}/speech"
        url = attacker.url.replace("http", "ws", 1) + path + "?rate=24000"
        for kind, frame in bursts.items():
            first = b"\x02\x80\0\0\0\0" if kind == "fragment" else b""
            with contextlib.suppress(websockets.WebSocketException, OSError, TimeoutError):
                async with asyncio.timeout(10), websockets.connect(url) as socket:
                    socket.transport.write(first + frame * 50_000)
                    await asyncio.sleep(attacker.seconds)
                    socket.transport.abort()  # the answers to all of it are not read
                attacker.statuses[f"{kind} {socket.close_code}"] += 1
        reader, writer = await asyncio.open_connection(*attacker.url[7:].split(":"))
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode() + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n")
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(20):
                attacker.statuses[(await reader.readline()).decode()[9:12]] += 1
        writer.close()


async def garbage(attacker: Attacker) -> None:
    """Random bytes at every media port, the bystander's too; all first bytes of RFC 7983."""
    rng = attacker.rng
    packets = [
        bytes([rng.randrange(256)]) + rng.randbytes(rng.randint(0, 1400))
        for _ in range(int(300 * attacker.seconds))
    ]
    ports = udp_ports(attacker.pid)
    sent = await asyncio.to_thread(throw, packets, ports, 2000.0)
    attacker.statuses[f"packets to {len(ports)} ports"] += sent


def bomb(codec: str) -> Attack:
    """An attack by pictures that claim to be huge."""
    payloads = [vp8_bomb()] if codec == "VP8" else h264_bomb()

    async def attack(attacker: Attacker) -> None:
        sender: Any = aiortc.rtcrtpsender
        kept, sender.get_encoder = sender.get_encoder, lambda _: BombEncoder(payloads)
        try:
            async with attacker.session(codec) as (_, peer):
                attacker.statuses[peer.connectionState] += 1
                await asyncio.sleep(attacker.seconds)
                reports = (await peer.getSenders()[0].getStats()).values()
                sent = sum(r.packetsSent for r in reports if r.type == "outbound-rtp")
                attacker.statuses["packets"] += sent
        finally:
            sender.get_encoder = kept

    return attack


ATTACKS: dict[str, Attack] = {
    "candidates": many_candidates,
    "offers of 1 MB": large_offers,
    "uploads": large_uploads,
    "sockets": socket_abuse,
    "bursts of frames": frame_bursts,
    "random packets": garbage,
    "VP8 bomb": bomb("VP8"),
    "H.264 bomb": bomb("H264"),
}


async def _attack(url: str, server: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    ice.offer_addresses(["127.0.0.1"])
    found: dict[str, Any] = {}
    quiet = glance(url, server.pid)
    await asyncio.sleep(seconds)
    begun = before = glance(url, server.pid)
    found["none (for comparison)"] = loop_figures(quiet, begun)
    for name, attack in ATTACKS.items():
        attacker = Attacker(url, server.pid, seconds)
        await attack(attacker)
        await attacker.http.aclose()
        after = glance(url, server.pid)  # fails if the server does not answer any more
        found[name] = {
            **loop_figures(before, after),
            "growth_mib": round(after.resident_mib - begun.resident_mib, 1),
            "answers": dict(attacker.statuses),
        }
        before = after
    return found


def run(*, seconds: Annotated[float, Ge(1)] = 5) -> dict[str, Any]:
    """R7 and R13: every attack once, a bystander's call beside them.

    Args:
        seconds: of each attack that goes on.
    """
    # The limit on requests would be what is measured: all come from one address.
    with serving(max_upload_mb=UPLOAD_MB, max_sessions=8, **UNLIMITED) as (url, server):
        bystander = start_probe(url, 3600, "--settle", 5, "--until-told")
        try:
            while not _sessions(url):
                time.sleep(0.2)
            time.sleep(5)
            found = asyncio.run(_attack(url, server, seconds))
            (seen,) = figures_of(bystander, 60)  # which tells it
        finally:
            bystander.kill()
        alive = server.poll() is None
        left = _sessions(url)
    attacks = {name: f for name, f in found.items() if "answers" in f}
    met = {
        "the server lives": alive,
        "no session is left behind": left == 0,
        "the event loop stands still for 50 ms at most": not any(
            f["stalls_over_50_ms"] for f in attacks.values()
        ),
        "at most 50 MiB more": max(f["growth_mib"] for f in attacks.values()) <= GROWTH_MIB,
        "bystander: 95 % of the pictures": seen["pictures_share"] >= 0.95,
        "bystander: no freeze over 500 ms": seen["freezes_over_500_ms"] == 0,
        "bystander: no hole in the sound over 60 ms": seen["sound_holes_over_60_ms"] == 0,
    }
    return verdict({**found, "bystander": seen}, met, seconds=seconds)


def _sessions(url: str) -> int:
    return int(httpx.get(f"{url}/api/info", timeout=30).json()["sessions"])
