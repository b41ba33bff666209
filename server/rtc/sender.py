"""aiortc's sender, made to last: faults cost a frame, sound never queues behind pictures.

A track of frames is encoded here; a `Subscription` gives what is encoded already, for many senders
at once.

aiortc's loop (packets, history, transport) stays. Replaced: fetching and encoding a frame (any
exception there would end the sender while the peer stays connected), answers to requests for key
frames and repeats (unlimited), and what sender reports say (the time of sending).
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from aiortc import MediaStreamTrack, RTCRtpSender
from aiortc.codecs import is_rtx
from aiortc.codecs.base import Encoder
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpSendParameters
from aiortc.rtcrtpsender import RTCEncodedFrame
from aiortc.rtp import AnyRtcpPacket, RtcpRrPacket, RtcpRtpfbPacket, RtcpSrPacket
from av.frame import Frame
from av.packet import Packet

from lipwire.engine.runtime.engine import Observe, unobserved
from lipwire.engine.trace import UNTRACED
from lipwire.server.config import ServerConfig
from lipwire.server.rtc.codecs import GuardedEncoder, make_encoder
from lipwire.server.rtc.encoding import POOLS, encode
from lipwire.server.rtc.frame_trace import trace_of
from lipwire.server.rtc.privates import get_private, set_private
from lipwire.server.rtc.rate_control import KeyThrottle, RetransmissionBudget
from lipwire.server.rtc.rtcp import rtp_at, to_ntp
from lipwire.server.rtc.subscription import Encoded, Subscription

log = logging.getLogger(__name__)

PAUSE_S = 0.02  # after a fault: a track that fails at once must not occupy the event loop


class Sender(RTCRtpSender):
    """Sends one section of a call.

    A track with a method `media_time_s()` (where its clock, the one of its pts, is now) gets
    sender reports on that clock.
    """

    def __init__(
        self,
        trackOrKind: MediaStreamTrack | str,
        transport: RTCDtlsTransport,
        settings: ServerConfig,
        observe: Observe = unobserved,
    ) -> None:
        super().__init__(trackOrKind, transport)
        self._settings, self._observe = settings, observe
        self._source: GuardedEncoder | None = None
        self._cutter: _Cutter | None = None
        self._rate_hz = 90_000
        self._trace = UNTRACED  # of the last picture
        self._encoded: int | None = None  # RTP time of the last frame, before aiortc's offset
        self._origin: int | None = None  # that offset: the RTP time of pts 0
        self._keys, self._repeats = KeyThrottle(), RetransmissionBudget()
        self.faults = 0  # frames lost to exceptions
        self.lost_share = 0.0  # of the packets of the last seconds, by the receiver's last report

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        self._rate_hz = next(c.clockRate for c in parameters.codecs if not is_rtx(c))
        await super().send(parameters)

    async def stop(self) -> None:
        """End, and free the encoder."""
        await super().stop()
        if self._source is not None:
            self._source.close()

    # --- frames ---

    async def _next_encoded_frame(self, codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        self._trace.stamp("sent")  # all of it has been sent by now
        self._trace = UNTRACED
        if self._encoded is not None:
            sent: int = get_private(self, RTCRtpSender, "rtp_timestamp")
            self._origin = (sent - self._encoded) & 0xFFFF_FFFF
        try:
            return await self._fetch(codec)
        except (MediaStreamError, ConnectionError):
            raise  # the track or the connection is over
        except Exception:
            self.faults += 1
            if self.faults == 1:
                log.exception("sending a %s frame failed; the sender goes on", self.kind)
            await asyncio.sleep(PAUSE_S)
            return None

    async def _fetch(self, codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        if isinstance(self.track, Subscription):
            return await self._take(self.track, codec)
        data: Any = await self.track.recv()
        if not self._enabled:
            return None
        if self._source is None:
            self._source = GuardedEncoder(codec, self._settings)
            set_private(
                self, RTCRtpSender, "encoder", self._source
            )  # aiortc passes estimates to it
        encoder, level = self._source, None
        if isinstance(data, Frame):
            now = time.monotonic()
            trace = trace_of(data)
            trace.stamp("encoding", now)
            if encoder.fresh:
                self._keys.record(now)
            payloads, timestamp, level = await asyncio.get_running_loop().run_in_executor(
                POOLS[self.kind], encode, encoder, data, self._keys.take(now)
            )
            if self.kind == "video":
                self._observe("encode", time.monotonic() - now)
            trace.stamp("encoded")
            self._trace = trace
        else:
            payloads, timestamp = encoder.pack(data)
        if not payloads:
            return None
        self._encoded = timestamp
        return RTCEncodedFrame(payloads, timestamp, level)  # type: ignore[arg-type]

    async def _take(
        self, subscription: Subscription, codec: RTCRtpCodecParameters
    ) -> RTCEncodedFrame | None:
        """The next frame of a track that is encoded for many."""
        if self._cutter is None:
            self._cutter = _Cutter(subscription, codec)
            set_private(
                self, RTCRtpSender, "encoder", self._cutter
            )  # aiortc passes estimates to it
            subscription.tune(codec)
        frame: Encoded = await subscription.recv()
        if not self._enabled:
            return None
        payloads, timestamp, self._trace = frame.payloads, frame.timestamp, frame.trace
        if self.kind == "video":
            payloads, timestamp = self._cutter.pack(frame.packet())
            if frame.key:
                self._keys.record(time.monotonic())
        self._encoded = timestamp
        return RTCEncodedFrame(payloads, timestamp, frame.level)  # type: ignore[arg-type]

    # --- requests ---

    def _send_keyframe(self) -> None:
        self._keys.ask()
        if isinstance(self.track, Subscription):
            self.track.ask_key()

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpRtpfbPacket):
            # One packet may list thousands of numbers, the same ones many times.
            packet.lost = list(dict.fromkeys(packet.lost))[:1024]
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            for report in packet.reports:
                if report.ssrc == self._ssrc:
                    self.lost_share = report.fraction_lost / 256  # RFC 3550 section 6.4.1
        await super()._handle_rtcp_packet(packet)

    async def _retransmit(self, sequence_number: int) -> None:
        if self._repeats.take(sequence_number, time.monotonic()):
            await super()._retransmit(sequence_number)

    # --- reports ---

    async def _send_rtcp(self, packets: list[AnyRtcpPacket]) -> None:
        for packet in packets:
            if isinstance(packet, RtcpSrPacket) and not self._restate(packet):
                return  # nothing has been sent yet: there is nothing to report
        await super()._send_rtcp(packets)

    def _restate(self, packet: RtcpSrPacket) -> bool:
        """Make a report say where the track's own clock is now; False if that is not known."""
        if self._origin is None:
            return False
        clock = getattr(self.track, "media_time_s", None)
        if clock is None:
            return True
        info = packet.sender_info
        info.ntp_timestamp = to_ntp(time.monotonic())
        info.rtp_timestamp = rtp_at(self._origin, clock(), self._rate_hz)
        # What receivers echo, for the round-trip time (RFC 3550 section 6.4.1).
        set_private(self, RTCRtpSender, "lsr", info.ntp_timestamp >> 16 & 0xFFFF_FFFF)
        set_private(self, RTCRtpSender, "lsr_time", time.time())
        return True

    @property
    def round_trip_s(self) -> float:
        """To the receiver and back; 0 before its first report."""
        return get_private(self, RTCRtpSender, "rtt") or 0.0


class _Cutter(Encoder):
    """Stands where aiortc looks for an encoder, for a track that is encoded elsewhere."""

    def __init__(self, subscription: Subscription, codec: RTCRtpCodecParameters) -> None:
        self._seat = subscription
        self._inner = make_encoder(codec)  # packs only, with a picture count of its own

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Never called: frames do not come here."""
        raise NotImplementedError

    def pack(self, packet: Packet[Any]) -> tuple[list[bytes], int]:
        """Packets of a picture that is encoded already, and its RTP time."""
        return self._inner.pack(packet)

    @property
    def target_bitrate(self) -> int:
        """Bits per second of what the subscription is given."""
        return self._seat.target_bitrate

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._seat.estimate(bitrate)
