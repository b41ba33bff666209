"""Relay: what one session gives, to any number of viewers; every picture is marked here.

PictureTrack, VoiceTrack -> pump -> mark -> a short queue for each viewer -> its sender

Nothing leaves a session by another way, so nothing leaves without the mark.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from engine import Session
from engine.workers import Observe, unobserved
from server.mark import Mark
from server.tracks import PictureTrack, VoiceTrack

log = logging.getLogger(__name__)

# What waits for a viewer whose sender is slow; the oldest is dropped. More pictures: delay; fewer:
# one is lost to every hiccup. Sound may wait longer, because a gap is heard: 0.2 s.
QUEUED = {"video": 2, "audio": 10}


class RelayTrack(MediaStreamTrack):
    """One viewer's end.

    Args:
        kind: "video" or "audio".
        media_time_s: where the clock that the frames' times are on is now; the two tracks of a
            viewer share it, so that what is said of it keeps sound and picture together.
        leave: called when it is stopped.
    """

    def __init__(
        self, kind: str, media_time_s: Callable[[], float], leave: Callable[[RelayTrack], None]
    ) -> None:
        super().__init__()
        self.media_time_s = media_time_s
        self.kind = kind
        self._frames: deque[Any] = deque(maxlen=QUEUED[kind])
        self._fresh = asyncio.Event()
        self._leave = leave
        self._begun = False
        self.dropped = 0
        """frames that the sender was too slow for"""

    def put(self, frame: av.VideoFrame | av.AudioFrame) -> None:
        """Hand a frame over; never waits."""
        self.dropped += self._begun and len(self._frames) == self._frames.maxlen
        self._frames.append(frame)
        self._fresh.set()

    @property
    def depth(self) -> int:
        """Frames that wait."""
        return len(self._frames) if self._begun else 0

    async def recv(self) -> Any:
        """The next frame.

        Raises:
            MediaStreamError: the track was stopped.
        """
        if not self._begun:
            self._begun = True
            self._frames.clear()  # from before the connection: it would only be a delay
            self._fresh.clear()
        while not self._frames:
            if self.readyState != "live":
                raise MediaStreamError
            self._fresh.clear()
            await self._fresh.wait()
        return self._frames.popleft()

    def stop(self) -> None:
        """End it."""
        if self.readyState == "live":
            super().stop()
            self._frames.clear()
            self._fresh.set()
            self._leave(self)


class Relay:
    """A session's output; `run_pictures` and `run_sound` are for the call's task group.

    Args:
        session: whose output leaves.
        clock: the engine's.
        pool: converts colours beside the event loop.
        mark: drawn on every picture; None where the settings turn it off.
        observe: told how long each picture was in here, from its arrival on.
    """

    def __init__(
        self,
        session: Session,
        clock: Callable[[], float],
        pool: Executor,
        mark: Mark | None,
        observe: Observe = unobserved,
    ) -> None:
        self._session, self._clock, self._mark, self._observe = session, clock, mark, observe
        self._pictures = PictureTrack(session, clock, pool)
        self._sound = VoiceTrack(session, clock)
        self._viewers: dict[str, list[RelayTrack]] = {"video": [], "audio": []}
        self._late_s = {"video": 0.0, "audio": 0.0}  # how far behind its time the last one left

    def subscribe(self) -> tuple[RelayTrack, RelayTrack]:
        """A picture and a sound track for one viewer; they leave when they are stopped."""
        tracks = (
            RelayTrack("video", self._time_s, self._leave),
            RelayTrack("audio", self._time_s, self._leave),
        )
        for track in tracks:
            self._viewers[track.kind].append(track)
        return tracks

    def _time_s(self) -> float:
        return self._session.time_s(self._clock())

    def _leave(self, track: RelayTrack) -> None:
        self._viewers[track.kind].remove(track)

    @property
    def av_offset_s(self) -> float:
        """Sound ahead of the picture as they leave (ITU-R BT.1359: positive is sound early)."""
        return self._late_s["video"] - self._late_s["audio"]

    @property
    def depth(self) -> int:
        """Frames that wait for the slowest viewer."""
        return max((t.depth for tracks in self._viewers.values() for t in tracks), default=0)

    @property
    def dropped(self) -> int:
        """Frames that viewers' senders were too slow for."""
        return sum(t.dropped for tracks in self._viewers.values() for t in tracks)

    async def run_pictures(self) -> None:
        """Pump pictures until the session's track is stopped."""
        faults = 0
        while True:
            try:
                frame = await self._pictures.recv()
                if self._mark is not None:
                    self._mark.draw(frame)
                self._note("video", frame)
                for number, track in enumerate(tuple(self._viewers["video"])):
                    # Encoders write into a frame (which kind it must be), each in its own thread.
                    track.put(frame if number == 0 else copy_picture(frame))
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
                for track in tuple(self._viewers["audio"]):
                    track.put(frame)
        except MediaStreamError:
            return

    def _note(self, kind: str, frame: Any) -> None:
        due_s = float(frame.pts * frame.time_base)
        late_s = self._late_s[kind] = self._time_s() - due_s
        if kind == "video":
            self._observe("picture", late_s + self._session.config.delay_s)

    def stop(self) -> None:
        """End the pumps and every viewer's tracks."""
        self._pictures.stop()
        self._sound.stop()
        for tracks in self._viewers.values():
            for track in tuple(tracks):
                track.stop()


def copy_picture(frame: av.VideoFrame) -> av.VideoFrame:
    """The same picture and time in a frame of its own."""
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for there, here in zip(copy.planes, frame.planes, strict=True):
        there.update(bytes(here))
    copy.pts, copy.time_base = frame.pts, frame.time_base
    return copy
