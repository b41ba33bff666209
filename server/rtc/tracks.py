"""The tracks that leave: a session's pictures and sound as av frames, each at its time.

They end when the peer ends them and for no other reason. RTP timestamps are places on the
session's clock, so the offset between lips and sound is the session's, not the network's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from fractions import Fraction
from typing import cast

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from lipwire.engine import PLAYOUT_RATE_HZ, AudioChunk, OutputFrame, Session
from lipwire.engine.media.planes import frame_of
from lipwire.engine.trace import Trace
from lipwire.engine.types import I16, U8, Planes
from lipwire.server.rtc.frame_trace import hang

log = logging.getLogger(__name__)

VIDEO_TIME_BASE = Fraction(1, 90_000)
AUDIO_TIME_BASE = Fraction(1, PLAYOUT_RATE_HZ)
AUDIO_BLOCK = PLAYOUT_RATE_HZ // 50  # 20 ms: aiortc gives longer frames one timestamp too few
# How often a frame that is being painted is looked for. Longer: adds to every picture's delay;
# shorter: the event loop has nothing else to do.
POLL_S = 0.004
IDLE_S = 0.02  # the same while nothing is in flight
# Sound older than this is skipped instead of sent in a burst. Shorter: a hiccup of the event loop
# is heard; longer: receivers build up a buffer that stays.
STALE_S = 0.5


def to_av(image: U8, planes: Planes | None = None) -> av.VideoFrame:
    """A picture as the encoders want it: its own planes, or uint8[H, W, 3] RGB converted."""
    if planes is not None:
        return cast(av.VideoFrame, frame_of(planes))
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")


def to_av_audio(samples: I16, start: int) -> av.AudioFrame:
    """int16[N] mono at 48 kHz from sample `start` on."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = PLAYOUT_RATE_HZ
    frame.pts, frame.time_base = start, AUDIO_TIME_BASE
    return frame


def to_mono(frame: av.AudioFrame) -> I16:
    """A decoded 16-bit audio frame as int16[N], channels averaged."""
    samples = frame.to_ndarray()
    channels = len(frame.layout.channels)
    planes = samples if frame.format.is_planar else samples.reshape(-1, channels).T
    if len(planes) == 1:
        return np.ascontiguousarray(planes[0], np.int16)
    return np.asarray(planes.astype(np.int32).sum(0) // len(planes), np.int16)


class _SessionTrack(MediaStreamTrack):
    """What both tracks share."""

    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        super().__init__()
        self._session, self._clock = session, clock
        self.faults = 0  # times that something inside failed; the track went on

    def media_time_s(self) -> float:
        """Where the clock that the track's times are on is now; sender reports are made of it."""
        return self._session.time_s(self._clock())

    def _fault(self, doing: str) -> None:
        self.faults += 1
        if self.faults == 1:  # once a track: a fault of every frame must not fill the disk
            log.exception("session %s: %s failed and goes on", self._session.name, doing)

    def _check_live(self) -> None:
        if self.readyState != "live":
            raise MediaStreamError


class PictureTrack(_SessionTrack):
    """A session's pictures."""

    kind = "video"

    def __init__(self, session: Session, clock: Callable[[], float], pool: Executor) -> None:
        super().__init__(session, clock)
        self._pool = pool
        self._last_pts = -1

    async def recv(self) -> av.VideoFrame:
        """The next picture, when it is due."""
        while True:
            self._check_live()
            try:
                out = self._session.pop_video(self._clock())
                if out is not None:
                    return await self._convert(out)
                wait_s = self._wait_s()
            except Exception:
                self._fault("sending a picture")
                wait_s = IDLE_S
            await asyncio.sleep(wait_s)

    def _wait_s(self) -> float:
        due_s = self._session.next_due()
        if due_s is None:
            return IDLE_S
        # `due` lies `patience` late for a picture that is still being painted.
        return max(min(due_s - self._clock(), POLL_S), 0.001)

    async def _convert(self, out: OutputFrame) -> av.VideoFrame:
        loop = asyncio.get_running_loop()
        frame: av.VideoFrame = await loop.run_in_executor(self._pool, to_av, out.image, out.planes)
        # Encoders refuse times that stand still.
        self._last_pts = max(round(out.playout_s / VIDEO_TIME_BASE), self._last_pts + 1)
        frame.pts, frame.time_base = self._last_pts, VIDEO_TIME_BASE
        hang(frame, out.trace)
        return frame


class VoiceTrack(_SessionTrack):
    """A session's sound, 20 ms at a time; silence where there is none."""

    kind = "audio"

    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        super().__init__(session, clock)
        self._next: int | None = None  # absolute 48 kHz sample that goes out next

    async def recv(self) -> av.AudioFrame:
        """The next 20 ms, when they are due."""
        while True:
            self._check_live()
            if self._next is not None:
                await asyncio.sleep(max(self._next / PLAYOUT_RATE_HZ - self.media_time_s(), 0))
                self._check_live()
            try:
                chunk = self._pop()
            except Exception:
                self._fault("sending sound")
                place = int(self.media_time_s() * PLAYOUT_RATE_HZ)
                chunk = AudioChunk(
                    np.zeros(AUDIO_BLOCK, np.int16),
                    place if self._next is None else self._next,
                    PLAYOUT_RATE_HZ,
                )
            if chunk is None:
                await asyncio.sleep(POLL_S)
                continue
            self._next = chunk.start + AUDIO_BLOCK
            frame = to_av_audio(chunk.samples, chunk.start)
            hang(frame, self._traced(chunk.start))
            return frame

    def _traced(self, start: int) -> Trace:
        """A trace of the block that has just been fetched."""
        trace, now = Trace(self._clock), self._clock()
        trace.pts = start
        trace.stamp("due", now - self._session.time_s(now) + start / PLAYOUT_RATE_HZ)
        trace.stamp("popped", now)
        return trace

    def _pop(self) -> AudioChunk | None:
        """The block that is due; what grew stale while nobody listened is skipped."""
        # The first block follows the connection: everything from before it is stale.
        stale_s = 0.0 if self._next is None else STALE_S
        while True:
            now = self._clock()
            chunk = self._session.pop_audio(now)
            if chunk is None:
                return None
            end_s = (chunk.start + AUDIO_BLOCK) / PLAYOUT_RATE_HZ
            if end_s + stale_s >= self._session.time_s(now):
                return chunk
