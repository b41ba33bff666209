"""One connection: its ports, its candidates, and how it ends."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator

import pytest
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from calls import Camera, until

from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice, patch
from lipwire.server.rtc.connection import Ending, PeerConnection
from lipwire.server.rtc.sdp import Fragment, Offer, Purpose, read_fragment, read_offer

NOWHERE = "a=candidate:1 1 udp 1 127.0.0.1 {} typ host"


def free_ports(count: int) -> list[int]:
    """UDP ports in a row that nobody uses."""
    for first in range(40_000, 60_000, 50):
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
        try:
            for number, made in enumerate(sockets):
                made.bind(("127.0.0.1", first + number))
            return list(range(first, first + count))
        except OSError:
            continue
        finally:
            for made in sockets:
                made.close()
    raise AssertionError("no free ports")


async def make_offer() -> tuple[RTCPeerConnection, Offer]:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    pc.addTransceiver(Camera(), "sendonly")
    await pc.setLocalDescription(await pc.createOffer())
    return pc, read_offer(pc.localDescription.sdp, Purpose.INGEST)


@pytest.fixture
async def offered() -> AsyncIterator[tuple[RTCPeerConnection, Offer]]:
    """A client and its offer."""
    patch.apply(ServerConfig())
    ice.apply(ServerConfig())
    pc, offer = await make_offer()
    yield pc, offer
    await pc.close()


def ports(sdp: str) -> list[int]:
    return [int(port) for port in re.findall(r"a=candidate:\S+ 1 udp \d+ \S+ (\d+)", sdp)]


async def test_media_stays_within_its_ports(offered: tuple[RTCPeerConnection, Offer]) -> None:
    first, last = free_ports(2)
    settings = ServerConfig(ice_ports=f"{first}-{last}", ice_announce="192.0.2.7")
    ice.apply(settings)
    links = [PeerConnection(settings) for _ in range(3)]
    answers = [await link.answer(offered[1]) for link in links[:2]]
    assert sorted(port for sdp in answers for port in ports(sdp)) == [first, last]
    assert all(" 192.0.2.7 " in sdp and " 127.0.0.1 " not in sdp for sdp in answers)
    with pytest.raises(ConnectionError, match="every UDP port"):
        await links[2].answer(offered[1])
    await links[0].close()
    assert ports(await (late := PeerConnection(settings)).answer(offered[1]))[0] in (first, last)
    for link in (*links, late):
        await link.close()


async def test_who_vanishes_is_noticed(offered: tuple[RTCPeerConnection, Offer]) -> None:
    settings = ServerConfig(dead_after_s=2)
    ice.apply(settings)
    pc, offer = offered
    link = PeerConnection(settings)
    await pc.setRemoteDescription(RTCSessionDescription(await link.answer(offer), "answer"))
    run = asyncio.create_task(link.run())
    await until(lambda: link.connected, "connected")
    # As after SIGKILL: nothing is said any more, and nothing heard.
    transport = pc.getTransceivers()[0].receiver.transport.transport
    for protocol in transport._connection._protocols:
        protocol.transport.abort()
    await until(lambda: link.over, "the link is over", 20)
    await run
    await link.close()


async def test_who_never_connects_is_dropped(offered: tuple[RTCPeerConnection, Offer]) -> None:
    link = PeerConnection(ServerConfig(connect_timeout_s=0.2))
    await link.answer(offered[1])
    await asyncio.wait_for(link.run(), 10)
    assert link.over and not link.connected
    await link.close()
    await link.close()  # twice does no harm


async def test_who_is_ended_before_it_connects_ends_at_once(
    offered: tuple[RTCPeerConnection, Offer],
) -> None:
    link = PeerConnection(ServerConfig(connect_timeout_s=120))
    await link.answer(offered[1])
    run = asyncio.create_task(link.run())
    await asyncio.sleep(0)
    link.end(Ending.CLOSED)
    await asyncio.wait_for(run, 30)
    assert link.over and not link.connected
    await link.close()


async def test_a_stranger_cannot_trickle_without_end(
    offered: tuple[RTCPeerConnection, Offer],
) -> None:
    link = PeerConnection(ServerConfig())
    await link.answer(offered[1])
    connection = link.pc.getTransceivers()[0].receiver.transport.transport._connection
    known = len(connection.remote_candidates)
    lines = [(None, NOWHERE.format(port)) for port in range(1, 4000)]
    await link.trickle(Fragment(None, (("unknown", NOWHERE.format(5)),), False))
    assert len(connection.remote_candidates) == known
    await link.trickle(Fragment(None, tuple(lines), False))
    assert len(connection.remote_candidates) <= ice.MAX_CANDIDATES
    await link.close()
    await link.trickle(Fragment(None, tuple(lines), True))  # too late, and no harm


def test_fragments_are_read() -> None:
    text = (
        "a=ice-ufrag:EsAw\r\na=ice-pwd:x\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:7\r\n"
        f"{NOWHERE.format(9)}\r\n\r\nm=video 9 RTP 0\r\n{NOWHERE.format(8)}\r\n"
        "a=end-of-candidates\r\n"
    )
    fragment = read_fragment(text)
    assert fragment.ufrag == "EsAw" and fragment.end
    assert fragment.candidates == (("7", NOWHERE.format(9)), (None, NOWHERE.format(8)))
