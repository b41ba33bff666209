"""A call without a camera: an uploaded clip, shown forth and back, or a photo, is the face.

    clip = read_clip(path, 1280 * 720, find_faces)
    publisher = FilePublisher(clip, idle_s=30, needed=lambda: bool(call.links))

Forth and back a clip has no seam: the picture after the last is the one before it. A photo stays
still but for its mouth.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from lipwire.engine import EngineConfig, MediaError
from lipwire.engine.media.files import at_rate, probe_video, read_frames
from lipwire.engine.types import F32, U8
from lipwire.server.rtc.connection import Ending
from lipwire.server.rtc.tracks import VIDEO_TIME_BASE, to_av

log = logging.getLogger(__name__)

MAX_FPS = 25
# A longer clip is cut. More: memory of each call; fewer: the loop is seen to be one.
MAX_S, MAX_BYTES = 10.0, 128_000_000
LOOKED_AT = 5  # pictures of a clip that are searched for a face
LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Clip:
    """Pictures to show, yuv420p of one size, and how fast."""

    frames: list[av.VideoFrame]
    fps: float
    config: EngineConfig = field(default_factory=EngineConfig)


def read_clip(
    path: Path, max_pixels: int, find_faces: Callable[[U8], F32], config: EngineConfig | None = None
) -> Clip:
    """A file's pictures, at most MAX_FPS and as large as a camera's may be; blocks.

    Raises:
        MediaError: it cannot be read, nobody is in it, or two are in a photo.
    """
    try:
        info = probe_video(path)
        fps = min(float(info.rate) or MAX_FPS, MAX_FPS)
        kept: list[av.VideoFrame] = []
        seen: list[U8] = []
        with closing(read_frames(path)) as source:
            for image in at_rate(source, Fraction(fps).limit_denominator(1000)):
                if len(kept) >= MAX_S * fps or sum(map(_bytes, kept[-1:])) * len(kept) > MAX_BYTES:
                    break
                if len(kept) % max(1, int(MAX_S * fps / LOOKED_AT)) == 0:
                    seen.append(image)
                kept.append(_fitted(image, max_pixels))
    except MediaError as error:
        raise MediaError(str(error).replace(str(path), "the file")) from error
    if not kept:
        raise MediaError("the file holds no picture")
    counts = [len(find_faces(image)) for image in seen]
    if not any(counts):
        raise MediaError("no face is in the " + ("photo" if len(kept) == 1 else "clip"))
    if len(kept) == 1 and counts[0] > 1:
        raise MediaError(f"{counts[0]} faces are in the photo: cut it to one")
    return Clip(kept, fps if len(kept) > 1 else MAX_FPS, config or EngineConfig())


def _bytes(frame: av.VideoFrame) -> int:
    return int(frame.width * frame.height * 1.5)


def _fitted(image: U8, max_pixels: int) -> av.VideoFrame:
    """The picture in even sides, at most so large."""
    height, width = image.shape[:2]
    scale = min(1.0, (max_pixels / (width * height)) ** 0.5)
    width, height = (max(2, int(side * scale) & ~1) for side in (width, height))
    frame = to_av(image)
    if (frame.width, frame.height) != (width, height):
        frame = frame.reformat(width, height, "yuv420p", interpolation="AREA")
    return frame


class ClipTrack(MediaStreamTrack):
    """A clip as a camera: forth and back, in time."""

    kind = "video"

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self._clip, self._sent = clip, 0
        self._began_s = time.monotonic()

    async def recv(self) -> av.VideoFrame:
        """The next picture, when it is due."""
        if self.readyState != "live":
            raise MediaStreamError
        due_s = self._began_s + self._sent / self._clip.fps
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        frames = self._clip.frames
        shown = frames[place(self._sent, len(frames))]
        # Another frame on the same planes: its time and its trace are its own.
        frame = av.VideoFrame(shown.width, shown.height, shown.format.name)
        for there, here in zip(frame.planes, shown.planes, strict=True):
            there.update(bytes(here))
        frame.pts = round(self._sent / self._clip.fps / VIDEO_TIME_BASE)
        frame.time_base = VIDEO_TIME_BASE
        self._sent += 1
        return frame


def place(index: int, count: int) -> int:
    """Which of count pictures is shown as number index: 0 1 2 1 0 1 2 ..."""
    turn = max(1, 2 * (count - 1))
    return min(index % turn, turn - index % turn) if count > 1 else 0


class FilePublisher:
    """Stands where a call's publishing connection stands.

    Args:
        clip: what it shows.
        idle_s: it ends when nobody has needed it for so long.
        needed: whether somebody watches or speaks.
    """

    def __init__(self, clip: Clip, idle_s: float, needed: Callable[[], bool]) -> None:
        self.name, self.etag = secrets.token_urlsafe(24), f'"{secrets.token_urlsafe(12)}"'
        self.pc = None
        self.track = ClipTrack(clip)
        self._idle_s, self._needed = idle_s, needed
        self.ending: Ending | None = None
        self._over = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over.is_set()

    @property
    def connected(self) -> bool:
        """Whether it shows something."""
        return not self.over

    def end(self, ending: Ending) -> None:
        if not self.over:
            log.info("the avatar ends: %s", ending)
            self.ending = ending
            self._over.set()

    async def wait_connected(self) -> None:
        """Return at once."""

    async def run(self) -> None:
        """Return when it is over, or nobody has needed it for a while."""
        last_s = time.monotonic()
        while not self.over:
            if self._needed():
                last_s = time.monotonic()
            elif time.monotonic() - last_s > self._idle_s:
                self.end(Ending.UNWATCHED)
            try:
                await asyncio.wait_for(self._over.wait(), LOOK_EVERY_S)
            except TimeoutError:
                pass

    def traffic(self) -> tuple[int, int]:
        """None."""
        return 0, 0

    async def close(self) -> None:
        self._over.set()
        self.track.stop()
