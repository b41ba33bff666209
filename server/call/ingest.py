"""Ingest: a call's tracks into its session.

video   -> newest-frame slot -> RGB (thread) -> push_video
audio 1 -> push_original;  audio 2 or a voice link -> Voice
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import Executor
from fractions import Fraction

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av.video.reformatter import Interpolation, VideoReformatter

from lipwire.engine import Session, SessionClosed, VideoFrame
from lipwire.engine.media.files import to_rgb
from lipwire.engine.media.planes import planes_of
from lipwire.engine.runtime.engine import Observe
from lipwire.server.call.speech_queue import SpeechQueue
from lipwire.server.rtc.frame_trace import trace_of
from lipwire.server.rtc.tracks import to_mono

log = logging.getLogger(__name__)


class Ingest:
    """What comes into one call; each coroutine runs until its track or the session ends."""

    def __init__(
        self,
        name: str,
        session: Session,
        voice: SpeechQueue,
        clock: Callable[[], float],
        pool: Executor,
        observe: Observe,
        max_pixels: int,
    ) -> None:
        self._name, self._session, self._voice = name, session, voice
        self._clock, self._pool, self._observe = clock, pool, observe
        self._newest: tuple[av.VideoFrame, float] | None = None
        self._max_pixels = max_pixels
        self.size: tuple[int, int] | None = None
        self.scaled_to: tuple[int, int] | None = None
        """of the newest picture, width and height: as it came, and what it was scaled to"""
        self._fresh = asyncio.Event()  # set while `_newest` waits
        self.skipped = 0  # pictures replaced in the slot before they were converted

    async def drain_video(self, track: MediaStreamTrack) -> None:
        """Take every picture at once, so that aiortc's queue stays empty; keep the newest."""
        try:
            while True:
                frame = await track.recv()
                self.skipped += self._fresh.is_set()
                self._newest = frame, self._clock()  # type: ignore[assignment]
                trace_of(frame).stamp("taken")
                self._fresh.set()
        except MediaStreamError:
            pass  # the camera stopped; the connection's own state says whether the call is over

    async def push_video(self) -> None:
        """Hand the newest picture to the session, each once."""
        loop = asyncio.get_running_loop()
        faults, scaler, shrinker = 0, VideoReformatter(), VideoReformatter()
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            assert self._newest is not None
            frame, now = self._newest
            trace = trace_of(frame)
            trace.stamp("converting")
            try:
                self.size = frame.width, frame.height
                self.scaled_to = fitting(*self.size, self._max_pixels)
                if self.scaled_to is not None:
                    frame = await loop.run_in_executor(
                        self._pool, _scaled, frame, self.scaled_to, shrinker
                    )
                image = await loop.run_in_executor(self._pool, to_rgb, frame, False, scaler)
                self._observe("convert", self._clock() - now)
                base = Fraction(frame.time_base or Fraction(1, 90_000))
                taken = VideoFrame(image, frame.pts or 0, base, planes_of(frame), trace)
                trace.stamp("pushed")
                self._session.push_video(taken, now)
            except SessionClosed:
                return
            except Exception:
                faults += 1
                if faults == 1:
                    log.exception("call %s: taking a picture failed", self._name[:6])

    async def drain_audio(self, track: MediaStreamTrack, original: bool) -> None:
        """Hand every block of sound on, as the original voice or the new one."""
        faults = 0
        while True:
            try:
                frame = await track.recv()
                assert isinstance(frame, av.AudioFrame)
                if not original:
                    self._voice.push_live(to_mono(frame), frame.sample_rate, trace_of(frame))
                elif self._session.wants_original:
                    now = self._clock()
                    self._session.push_original(to_mono(frame), frame.sample_rate, now)
            except (MediaStreamError, SessionClosed):
                return
            except Exception:
                faults += 1
                if faults == 1:
                    log.exception("call %s: taking sound failed", self._name[:6])

    def forget(self) -> None:
        """Let go of the picture that is kept."""
        self._newest = None


def fitting(width: int, height: int, max_pixels: int) -> tuple[int, int] | None:
    """The largest even size of the same shape within `max_pixels`; None: it is within."""
    if width * height <= max_pixels:
        return None
    share = math.sqrt(max_pixels / (width * height))
    # The little more keeps 1280 from becoming 1279.999.
    even = (max(2, int(side * share / 2 + 1e-6) * 2) for side in (width, height))
    return next(even), next(even)


def _scaled(frame: av.VideoFrame, size: tuple[int, int], scaler: VideoReformatter) -> av.VideoFrame:
    small = scaler.reformat(frame, *size, format="yuv420p", interpolation=Interpolation.AREA)
    small.pts, small.time_base = frame.pts, frame.time_base
    return small
