"""Broadcaster: what one session gives, to any number of viewers; every picture is marked here.

PictureTrack, VoiceTrack -> pump -> mark -> Renditions (one encode for many) -> each viewer's sender
                                      +-> taps: the recording

Nothing leaves a session by another way, so nothing leaves without the mark.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError

from lipwire.engine import Session
from lipwire.engine.runtime.engine import Observe, unobserved
from lipwire.engine.trace import Trace
from lipwire.server.config import ServerConfig
from lipwire.server.media.watermark import Watermark
from lipwire.server.rtc.encoding import Renditions
from lipwire.server.rtc.frame_trace import trace_of
from lipwire.server.rtc.subscription import Subscription
from lipwire.server.rtc.tracks import PictureTrack, VoiceTrack

log = logging.getLogger(__name__)

TRACES = 1500  # pictures whose traces are kept: a minute
# Stages that nobody times as they happen, by the points between which they lie.
TRACED = {
    "track": ("listened", "tracked"),
    "queue": ("aligned", "generating"),
    "pace": ("headed", "popped"),
}


class Broadcaster:
    """A session's output; `run_pictures` and `run_sound` are for the call's task group."""

    def __init__(
        self,
        session: Session,
        clock: Callable[[], float],
        pool: Executor,
        settings: ServerConfig,
        mark: Watermark | None,
        observe: Observe = unobserved,
    ) -> None:
        self._session, self._clock, self._mark, self._observe = session, clock, mark, observe
        self._pictures = PictureTrack(session, clock, pool)
        self._sound = VoiceTrack(session, clock)
        self.renditions = {kind: Renditions(kind, settings, observe) for kind in ("video", "audio")}
        self.taps: list[Callable[[Any], None]] = []
        """each is handed every marked picture and every block of sound; must not wait or write"""
        self.traces: deque[Trace] = deque(maxlen=TRACES)
        """of the pictures that left last; those of the very last ones go on"""
        self.sounds: deque[Trace] = deque(maxlen=TRACES)
        """of the blocks of sound that left last: half a minute"""
        self._late_s = {"video": 0.0, "audio": 0.0}  # how far behind its time the last one left

    def subscribe(self) -> tuple[Subscription, Subscription]:
        """A picture and a sound track for one viewer; they leave when they are stopped."""
        video, audio = self.renditions["video"], self.renditions["audio"]
        return video.subscription(self._time_s), audio.subscription(self._time_s)

    def _time_s(self) -> float:
        return self._session.time_s(self._clock())

    @property
    def av_offset_s(self) -> float:
        """Sound ahead of the picture as they leave (ITU-R BT.1359: positive is sound early)."""
        return self._late_s["video"] - self._late_s["audio"]

    @property
    def depth(self) -> int:
        """Frames that wait for the slowest viewer."""
        return max(each.depth for each in self.renditions.values())

    @property
    def dropped(self) -> int:
        """Frames that encoders or viewers' senders were too slow for."""
        return sum(each.dropped for each in self.renditions.values())

    async def run_pictures(self) -> None:
        """Pump pictures until the session's track is stopped."""
        faults = 0
        while True:
            try:
                frame = await self._pictures.recv()
                if self._mark is not None:
                    self._mark.draw(frame)
                self._note("video", frame)
                trace = trace_of(frame)
                trace.stamp("drawn")
                if trace.kept:
                    self._trace(trace)
                self._give(frame)
            except MediaStreamError:
                return
            except Exception:  # this picture is lost; the next ones are not
                faults += 1
                if faults == 1:
                    log.exception("marking a picture failed")

    async def run_sound(self) -> None:
        """Pump sound until the session's track is stopped."""
        try:
            while True:
                frame = await self._sound.recv()
                self._note("audio", frame)
                if (trace := trace_of(frame)).kept:
                    self.sounds.append(trace)
                self._give(frame)
        except MediaStreamError:
            return

    def _trace(self, trace: Trace) -> None:
        self.traces.append(trace)
        for stage, (since, until) in TRACED.items():
            if until in trace.at_s and since in trace.at_s:
                self._observe(stage, trace.at_s[until] - trace.at_s[since])

    def _give(self, frame: Any) -> None:
        kind = "video" if isinstance(frame, av.VideoFrame) else "audio"
        self.renditions[kind].put(frame)
        for tap in tuple(self.taps):
            tap(frame)

    def _note(self, kind: str, frame: Any) -> None:
        due_s = float(frame.pts * frame.time_base)
        late_s = self._late_s[kind] = self._time_s() - due_s
        if kind == "video":
            self._observe("picture", late_s + self._session.config.delay_s)

    def stop(self) -> None:
        """End the pumps and every viewer's tracks."""
        self._pictures.stop()
        self._sound.stop()
        for renditions in self.renditions.values():
            renditions.stop()
