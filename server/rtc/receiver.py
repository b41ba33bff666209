"""aiortc's receiver with our buffers in place of its own; bounded in time and in memory.

packet -> [aiortc: estimate, statistics, RTX, depayload] -> VideoBuffer or AudioBuffer
       -> DecodeQueue -> [aiortc: decoder thread] -> NewestQueue -> track

aiortc's flow stays; four of its private parts are replaced (`swap` fails loudly where one is
gone): its jitter buffer (stalls until 512 packets fill), its NACK generator (asks once), its
decoder queue and its track queue (both unbounded).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque

from aiortc import RTCRtpReceiver
from aiortc.codecs import is_rtx
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters
from aiortc.rtcrtpreceiver import RemoteStreamTrack
from aiortc.rtp import AnyRtcpPacket, RtcpByePacket, RtcpSrPacket, RtpPacket
from av.frame import Frame

from lipwire.server.rtc.bitstream import EncodedFrame
from lipwire.server.rtc.jitter import AudioBuffer, BufferCounts, VideoBuffer
from lipwire.server.rtc.privates import get_private, set_private
from lipwire.server.rtc.rtcp import ClockMap

log = logging.getLogger(__name__)

# Encoded pictures that may wait for the decoder. Fewer: a gap that is filled late sets free more
# than fit (HOLD_S of them); more: a decoder that is too slow shows the past. Beyond it all go, up
# to the next key frame.
WAITING_PICTURES = 16
WAITING_BLOCKS = 50  # one second of sound
# Decoded frames that may wait for whoever reads the track: of pictures only the newest count.
UNREAD_PICTURES, UNREAD_BLOCKS = 2, 50
# Sources that one section may send from in its life: picture, repeats, and some changes of both.
# aiortc remembers each for ever and puts each into its reports, which hold 31.
MAX_SSRCS = 8
PLI_EVERY_S = 0.1  # each broken picture asks; shorter is noise on the wire
QUIET_S = 2.0  # nothing is asked of a sender that has sent nothing for so long
JOIN_S = 5.0  # a decoder takes milliseconds for a picture

Task = tuple[RTCRtpCodecParameters, EncodedFrame]


class NewestQueue(asyncio.Queue[Frame | None]):
    """A track's queue that forgets the oldest frame instead of growing."""

    def __init__(self, bound: int) -> None:
        super().__init__()
        self._bound = bound
        self.dropped = 0

    async def put(self, item: Frame | None) -> None:
        """Add a frame, or None for the end."""
        while item is not None and self.qsize() >= self._bound:
            self.get_nowait()
            self.dropped += 1
        self.put_nowait(item)


class NewestTrack(RemoteStreamTrack):
    """A remote track that costs no memory when nobody reads it."""

    def __init__(self, kind: str, id: str | None = None) -> None:
        super().__init__(kind, id)
        self._queue = NewestQueue(UNREAD_PICTURES if kind == "video" else UNREAD_BLOCKS)

    def forget(self) -> None:
        """Let go of frames that nobody has read; an end that was put stays."""
        ended = False
        while not self._queue.empty():
            ended = self._queue.get_nowait() is None or ended
        if ended:
            self._queue.put_nowait(None)


class DecodeQueue:
    """Between the event loop and the decoder thread, in place of aiortc's `queue.Queue`.

    Args:
        bound: encoded frames that may wait.
        video: whether dropping one makes the next ones useless.
        overflow: set when a key frame is needed to go on.
    """

    def __init__(self, bound: int, video: bool, overflow: threading.Event) -> None:
        self._tasks: deque[Task] = deque()
        self._bound, self._video, self._overflow = bound, video, overflow
        self._change = threading.Condition()
        self._ended = False
        self._skipping = False
        self.dropped = 0

    def put(self, task: Task | None) -> None:
        """Add a frame; None ends the thread after the frame it is at."""
        with self._change:
            if task is None:
                self._tasks.clear()
                self._ended = True
            elif not self._ended:
                self._add(task)
            self._change.notify()

    def _add(self, task: Task) -> None:
        if len(self._tasks) >= self._bound:
            drop = len(self._tasks) if self._video else 1
            for _ in range(drop):
                self._tasks.popleft()
            self.dropped += drop
            self._skipping = self._video
        if self._skipping and not task[1].key:
            self.dropped += 1
            self._overflow.set()  # aiortc asks for a key frame with the next packet
            return
        self._skipping = False
        self._tasks.append(task)

    def get(self) -> Task | None:
        """The next frame, waiting for it; None at the end."""
        with self._change:
            self._change.wait_for(lambda: self._tasks or self._ended)
            return self._tasks.popleft() if self._tasks else None


class _Seam:
    """Stands where aiortc's jitter buffer was; what it takes, it delivers by itself."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Take a packet; aiortc is told that there is nothing to decode or to ask for."""
        self._receiver._take(packet)
        return False, None


class Receiver(RTCRtpReceiver):
    """Receives one section of a call."""

    def __init__(self, kind: str, transport: RTCDtlsTransport) -> None:
        super().__init__(kind, transport)
        self._video = kind == "video"
        self._buffer: VideoBuffer | AudioBuffer = AudioBuffer()
        overflow = threading.Event()
        set_private(self, RTCRtpReceiver, "decoder_error", overflow)
        self._waiting = DecodeQueue(
            WAITING_PICTURES if self._video else WAITING_BLOCKS, self._video, overflow
        )
        set_private(self, RTCRtpReceiver, "decoder_queue", self._waiting)
        set_private(self, RTCRtpReceiver, "nack_generator", None)
        set_private(self, RTCRtpReceiver, "jitter_buffer", _Seam(self))
        self._mapper = get_private(self, RTCRtpReceiver, "timestamp_mapper")
        self._codecs: dict[int, RTCRtpCodecParameters] = {}
        self._thread: threading.Thread | None = None
        self._ssrcs: set[int] = set()
        self._media_ssrc: int | None = None
        self._clock_map: ClockMap | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._ended = False
        self._packet_s = self._pli_s = float("-inf")
        self.faults = self.plis = self.nacks = 0
        """packets that made us fail; requests sent for key frames; packets asked for again"""
        self.refused, self.too_large = 0, None  # type: int, tuple[int, int] | None
        """key pictures that were too large to decode; the newest one's size, if it was"""

    # --- life ---

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """Begin; the decoder thread starts."""
        if self._thread is None and not self._ended:
            self._codecs = {c.payloadType or 0: c for c in parameters.codecs if not is_rtx(c)}
            if self._video:
                vp8 = frozenset(number for number, c in self._codecs.items() if c.name == "VP8")
                self._buffer = VideoBuffer(vp8)
            await super().receive(parameters)
            self._thread = get_private(self, RTCRtpReceiver, "decoder_thread")

    async def stop(self) -> None:
        """End; the decoder's last picture is waited for beside the event loop."""
        self._end()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, JOIN_S)
            if self._thread.is_alive():
                log.error("a %s decoder did not end", "video" if self._video else "sound")
        await super().stop()
        if isinstance(track := self.track, NewestTrack):
            track.forget()

    def _handle_disconnect(self) -> None:
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._waiting.put(None)
            # From here on aiortc believes that it has joined the thread, on the event loop.
            set_private(self, RTCRtpReceiver, "decoder_thread", None)
            if self._timer is not None:
                self._timer.cancel()

    # --- packets ---

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        if not self._admit(packet.ssrc):
            return
        try:
            await super()._handle_rtp_packet(packet, arrival_time_ms)
            await self._ask()
        except ConnectionError:
            raise
        except Exception:
            self._fault("a packet")  # it would end the transport of the whole call

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpByePacket):
            self._end()
            return
        if isinstance(packet, RtcpSrPacket) and packet.ssrc == self._media_ssrc:
            if self._clock_map is not None:
                info = packet.sender_info
                self._clock_map.learn(info.ntp_timestamp, info.rtp_timestamp)
        await super()._handle_rtcp_packet(packet)

    def _admit(self, ssrc: int) -> bool:
        if ssrc not in self._ssrcs:
            if len(self._ssrcs) >= MAX_SSRCS:
                self.transport._rtp_router.ssrc_table.pop(ssrc, None)
                return False
            self._ssrcs.add(ssrc)
        return True

    def _fault(self, what: str) -> None:
        self.faults += 1
        if self.faults == 1:
            log.exception("%s could not be handled and is dropped", what)

    def _take(self, packet: RtpPacket) -> None:
        if packet.ssrc != self._media_ssrc:
            self._media_ssrc = packet.ssrc
            codec = self._codecs.get(packet.payload_type)
            self._clock_map = ClockMap(codec.clockRate if codec else 90_000)
        self._packet_s = time.monotonic()
        data: bytes = packet._data  # type: ignore[attr-defined]
        self._deliver(self._buffer.add(packet, data, self._packet_s))
        # Clients in this process read frames' times where aiortc keeps them.
        self._mapper._origin = self._buffer.origin

    def _deliver(self, frames: list[EncodedFrame]) -> None:
        for frame in frames:
            codec = self._codecs.get(frame.payload_type)
            if codec is not None:
                frame.complete_s = time.monotonic()
                frame.on_size = self._note_size if self._video else None
                self._waiting.put((codec, frame))

    def _note_size(self, size: tuple[int, int], decoded: bool) -> None:
        self.refused += not decoded
        self.too_large = None if decoded else size

    # --- requests ---

    async def _ask(self) -> None:
        """Do what is due: give up gaps, ask for packets and key frames, set the next alarm."""
        now, buffer = time.monotonic(), self._buffer
        self._deliver(buffer.poll(now))
        ssrc = self._media_ssrc
        if isinstance(buffer, VideoBuffer) and ssrc is not None:
            if lost := buffer.nacks(now):
                self.nacks += len(lost)
                await self._send_rtcp_nack(ssrc, lost)
            if buffer.wants_key(now):
                await self._send_rtcp_pli(ssrc)
        self._set_alarm(now)

    def _set_alarm(self, now: float) -> None:
        at_s = self._buffer.next_s
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at_s is not None and not self._ended and now - self._packet_s < QUIET_S:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(at_s - now, 0.001), self._ring)

    def _ring(self) -> None:
        self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _send_rtcp_pli(self, media_ssrc: int) -> None:
        now = time.monotonic()
        if now - self._pli_s >= PLI_EVERY_S:
            self._pli_s = now
            self.plis += 1
            await super()._send_rtcp_pli(media_ssrc)

    # --- figures ---

    def wall_clock_s(self, pts: int) -> float | None:
        """When a frame of this pts was due at its sender, seconds since 1900; None: not known."""
        if self._clock_map is None:
            return None
        return self._clock_map.seconds(pts + self._buffer.origin)

    @property
    def counts(self) -> BufferCounts:
        """What the buffer has seen."""
        return self._buffer.counts

    @property
    def dropped(self) -> int:
        """Encoded frames dropped because the decoder was too slow."""
        return self._waiting.dropped
