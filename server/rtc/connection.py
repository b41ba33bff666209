"""PeerConnection: one peer connection from its offer to its end; a call has one or several."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.sdp import candidate_from_sdp

from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice
from lipwire.server.rtc.receiver import Receiver
from lipwire.server.rtc.sdp import Fragment, Offer, finish_answer
from lipwire.server.rtc.sender import Sender

log = logging.getLogger(__name__)

CLOSE_S = 5.0  # closing takes milliseconds; a transport that hangs must not keep the slot


class Ending(StrEnum):
    """Why a link is over, as metrics count it."""

    CLOSED = "closed"  # by its DELETE
    LEFT = "left"
    LOST = "lost"  # nothing came any more
    UNCONNECTED = "unconnected"
    REFUSED = "refused"  # its offer could not be answered
    REPLACED = "replaced"  # another publisher took the name over
    UNWATCHED = "unwatched"  # a session from a file
    STOPPED = "stopped"  # the server
    OVER = "over"  # the session that it belonged to


class PeerConnection:
    """One RTCPeerConnection: answer, then `run` until it is over, then `close`."""

    def __init__(self, settings: ServerConfig, name: str | None = None) -> None:
        self.name = name or secrets.token_urlsafe(24)
        self.etag = f'"{secrets.token_urlsafe(12)}"'
        """strong; names this ICE session (RFC 9725 section 4.3.1)"""
        self._settings = settings
        # Everything on one transport: with aiortc's own choice a second audio section is left
        # behind on a transport that is closed.
        self.pc = RTCPeerConnection(
            RTCConfiguration(
                iceServers=ice.own_servers(settings, self.name[:6]),
                bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
            )
        )
        self.ending: Ending | None = None  # why it is over; None until it is
        self._connected, self._over, self._closed = (asyncio.Event() for _ in range(3))
        self._tracks: tuple[MediaStreamTrack, ...] = ()
        self._mids: set[str] = set()
        self._ufrag = ""
        self._candidates = 0  # taken from the offer and since
        self._bytes_out = self._bytes_in = 0

    @property
    def connected(self) -> bool:
        return self._connected.is_set() and not self._over.is_set()

    @property
    def over(self) -> bool:
        """Whether it has ended or is about to."""
        return self._over.is_set()

    def end(self, ending: Ending) -> None:
        if not self._over.is_set():
            log.info("link %s ends: %s", self.name[:6], ending)
            self.ending = ending
            self._over.set()
            self._connected.set()  # nobody need wait for it any more

    async def wait_connected(self) -> None:
        """Return when media flows, or it never will."""
        await self._connected.wait()

    async def wait_closed(self) -> None:
        """Return when everything of it is gone."""
        await self._closed.wait()

    async def answer(
        self,
        offer: Offer,
        tracks: Iterable[MediaStreamTrack] = (),
        direction: Literal["sendonly", "sendrecv"] = "sendrecv",
    ) -> str:
        """The answer's SDP, with all our candidates in it.

        Args:
            offer: the other side's.
            tracks: what we send, on the first section of each kind; kinds that were not offered
                are left out. They are stopped with the link.
            direction: of the sections that carry our tracks.

        Raises:
            Exception: aiortc's, of many kinds: no common codec, a nonsensical section.
        """
        pc = self.pc
        pc.on("connectionstatechange", self._on_state)
        await pc.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
        self._tracks = tuple(tracks)
        offered = {t.kind for t in pc.getTransceivers()}
        for track in self._tracks:
            if track.kind in offered:
                sender = pc.addTrack(track)
                if direction == "sendonly":
                    next(
                        t for t in pc.getTransceivers() if t.sender is sender
                    ).direction = direction
        await pc.setLocalDescription(await pc.createAnswer())
        sections = [t.mid for t in pc.getTransceivers()] + ([pc.sctp.mid] if pc.sctp else [])
        self._mids = {mid for mid in sections if mid is not None}
        self._ufrag, self._candidates = offer.ufrag, offer.candidates
        answer = offer.plain.complete(pc.localDescription.sdp)
        return finish_answer(answer, self._settings.start_kbps)

    def restarts(self, fragment: Fragment) -> bool:
        """Whether a fragment asks for new ICE credentials: aiortc cannot change them."""
        return fragment.ufrag is not None and fragment.ufrag != self._ufrag

    async def trickle(self, fragment: Fragment) -> None:
        """Take late candidates; what is unknown, unusable or too much is dropped in silence."""
        transceivers = self.pc.getTransceivers()
        if not transceivers or self.over:
            return
        # All sections share the first one's transport.
        transport = transceivers[0].receiver.transport.transport
        for mid, line in fragment.candidates:
            if self._candidates >= ice.MAX_CANDIDATES or (
                mid is not None and mid not in self._mids
            ):
                continue
            if not ice.usable(line, self._settings.private_candidates):
                continue
            try:
                candidate = candidate_from_sdp(line.removeprefix("a=candidate:"))
            except (ValueError, IndexError, AssertionError):
                continue
            self._candidates += 1
            await transport.addRemoteCandidate(candidate)
        if fragment.end and self._candidates:
            await transport.addRemoteCandidate(None)

    async def run(self) -> None:
        """Return when the link is over: ended, failed, left, or never connected."""
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await self._connected.wait()
        except TimeoutError:
            self.end(Ending.UNCONNECTED)
        await self._over.wait()

    def _on_state(self) -> None:
        state = self.pc.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self.end(Ending.LOST if state == "failed" else Ending.LEFT)

    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent so far."""
        transceivers = self.pc.getTransceivers()
        transport = transceivers[0].receiver.transport if transceivers else None
        if transport is not None:
            for figures in transport._get_stats().values():
                self._bytes_in, self._bytes_out = figures.bytesReceived, figures.bytesSent
        return self._bytes_in, self._bytes_out

    async def close(self) -> None:
        """Close the connection and stop the tracks."""
        self._over.set()
        self.traffic()
        for track in self._tracks:
            track.stop()
        try:
            await asyncio.wait_for(self.pc.close(), CLOSE_S)
        except TimeoutError:
            log.error("link %s: its connection did not close", self.name[:6])
        except Exception:  # half of it may never have been made
            log.exception("link %s: closing its connection failed", self.name[:6])
        finally:
            self._closed.set()


def _video_receiver(pc: RTCPeerConnection | None) -> Receiver | None:
    transceivers = pc.getTransceivers() if pc is not None else []
    receivers = (t.receiver for t in transceivers if t.kind == "video")
    receiver = next(receivers, None)
    return receiver if isinstance(receiver, Receiver) else None


def refusals(pc: RTCPeerConnection | None) -> tuple[int, tuple[int, int] | None]:
    """How many key pictures were too large to decode, and the newest one's size if it was."""
    receiver = _video_receiver(pc)
    return (0, None) if receiver is None else (receiver.refused, receiver.too_large)


def at_viewer(pc: RTCPeerConnection) -> tuple[float, float]:
    """What the receiver of our pictures reports: round-trip time, seconds, and share lost."""
    for transceiver in pc.getTransceivers():
        if transceiver.kind == "video" and isinstance(transceiver.sender, Sender):
            return transceiver.sender.round_trip_s, transceiver.sender.lost_share
    return 0.0, 0.0


def reception(pc: RTCPeerConnection | None) -> dict[str, float]:
    """What became of the packets of the pictures that a connection gets; empty without any."""
    receiver = _video_receiver(pc)
    if receiver is None:
        return {}
    counts = receiver.counts
    return {
        "recovered": counts.recovered,
        "lost": counts.lost,
        "packets_asked": receiver.nacks,
        "keys_asked": receiver.plis,
        "gap_to_key_request_max_ms": round(counts.gap_wait_max_s * 1000, 1),
    }
