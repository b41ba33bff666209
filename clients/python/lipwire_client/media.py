"""Frames in and out of a call: the camera's newest picture, and what comes back with its time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TypeVar

import av
import numpy as np
from aiortc import MediaStreamTrack, RTCRtpReceiver
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtcpSrPacket
from numpy.typing import NDArray

SOUND_RATE_HZ = 48_000
CLOCK_HZ = {"video": 90_000, "audio": SOUND_RATE_HZ}  # RFC 7741 and RFC 7587
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that came back."""

    frame: av.VideoFrame
    """as it was decoded, yuv420p"""
    time_s: float | None
    """on a clock that pictures and sound share; None until the server's first report, a second"""

    def rgb(self) -> NDArray[np.uint8]:
        """uint8[H, W, 3]."""
        return np.asarray(self.frame.to_ndarray(format="rgb24"), np.uint8)


@dataclass(frozen=True, slots=True)
class Sound:
    """20 ms of sound that came back."""

    samples: NDArray[np.int16]
    """int16[960] mono at 48 kHz"""
    time_s: float | None
    """see `Picture`"""


class Newest(Generic[Item]):
    """A queue whose oldest item gives way: a slow reader sees the present, and memory is bounded.

    Args:
        size: items at most.
    """

    def __init__(self, size: int) -> None:
        self._items: deque[Item] = deque(maxlen=size)
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self._ended = False
        self.dropped = 0

    def put(self, item: Item) -> None:
        """Add one."""
        self.dropped += len(self._items) == self._items.maxlen
        self._items.append(item)
        self._changed.set()

    def clear(self) -> None:
        """Forget what waits."""
        self._items.clear()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes; whoever waits gets the error, or the end."""
        self._ended, self._error = True, self._error or error
        self._changed.set()

    async def get(self) -> Item:
        """The next one.

        Raises:
            StopAsyncIteration: it has ended.
            Exception: that it ended with.
        """
        while not self._items:
            if self._ended:
                raise self._error or StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()


class Camera(MediaStreamTrack):
    """The picture that was given last, each at most once."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._slot: Newest[av.VideoFrame] = Newest(1)
        self._last_pts = -1

    def put(self, rgb: bytes | NDArray[np.uint8], size: tuple[int, int]) -> None:
        """Send a picture, in place of one that has not left yet.

        Args:
            rgb: uint8, rows of RGB.
            size: width and height.

        Raises:
            ValueError: their product does not fit the bytes.
        """
        width, height = size
        pixels = np.frombuffer(rgb, np.uint8) if isinstance(rgb, bytes) else rgb
        if pixels.size != width * height * 3 or pixels.dtype != np.uint8:
            raise ValueError(f"{pixels.size} bytes are no RGB picture of {width}x{height}")
        shaped = np.ascontiguousarray(pixels).reshape(height, width, 3)
        self._slot.put(av.VideoFrame.from_ndarray(shaped, format="rgb24"))

    async def recv(self) -> av.VideoFrame:
        """The next picture, when it is there."""
        try:
            frame = await self._slot.get()
        except StopAsyncIteration:
            raise MediaStreamError from None
        pts = max(self._last_pts + 1, int(time.monotonic() * CLOCK_HZ["video"]))
        frame.pts, frame.time_base = pts, Fraction(1, CLOCK_HZ["video"])
        self._last_pts = pts
        return frame

    def stop(self) -> None:
        """No more."""
        super().stop()
        self._slot.end()


class MediaClock:
    """RTP times of one received track as seconds of the server's clock (RFC 3550 section 6.4.1).

    Args:
        receiver: of the track. aiortc keeps to itself what sender reports say and which time it
            counts frames from; where a version keeps them elsewhere, times stay None.
        kind: of the track.
    """

    def __init__(self, receiver: RTCRtpReceiver, kind: str) -> None:
        self._hz = CLOCK_HZ[kind]
        self._mapper = getattr(receiver, "_RTCRtpReceiver__timestamp_mapper", None)
        self._at: tuple[float, int] | None = None
        handle = receiver._handle_rtcp_packet

        async def listen(packet: Any) -> None:
            if isinstance(packet, RtcpSrPacket):
                info = packet.sender_info
                self._at = info.ntp_timestamp / 2**32, info.rtp_timestamp
            await handle(packet)

        receiver._handle_rtcp_packet = listen  # type: ignore[method-assign]

    def time_s(self, pts: int) -> float | None:
        """When a frame belongs, seconds; None before the first report."""
        origin: int | None = getattr(self._mapper, "_origin", None)
        if self._at is None or origin is None:
            return None
        ntp_s, rtp = self._at
        return ntp_s + ((pts + origin - rtp + 2**31) % 2**32 - 2**31) / self._hz


def to_picture(frame: av.VideoFrame, clock: MediaClock) -> Picture:
    """A decoded picture with its time."""
    return Picture(frame, clock.time_s(frame.pts or 0))


def to_sound(frame: av.AudioFrame, clock: MediaClock) -> Sound:
    """Decoded sound with its time; the server sends the same on both channels."""
    samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0]
    return Sound(np.ascontiguousarray(samples), clock.time_s(frame.pts or 0))
