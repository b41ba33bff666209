"""What callers send: a face as a track, a voice over the WebSocket."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import websockets
from aiortc.mediastreams import MediaStreamTrack
from av.packet import Packet

from lipwire.engine.types import I16, U8

SPEECH_RATE_HZ = 24_000  # what most TTS services send
BURST_S = 0.5
AHEAD_S = 4.0  # how far the voice is sent ahead of real time, as TTS services do


class PacedTrack(MediaStreamTrack):
    """A camera that keeps time; what it shows, `show` says.

    Args:
        fps: frames a second.
        phase_s: how much later than it is asked for the first picture comes.
        skew: how much faster the camera's clock is than ours, as a share.
    """

    kind = "video"

    def __init__(self, fps: int, phase_s: float = 0.0, skew: float = 0.0) -> None:
        super().__init__()
        self._fps, self._phase_s, self._skew = fps, phase_s, skew
        self._begun_s = 0.0
        self.sent_s: list[float] = []
        """when each was handed over"""

    async def recv(self) -> Any:
        """The next picture, when it is due."""
        number = len(self.sent_s)
        self._begun_s = self._begun_s or time.monotonic() + self._phase_s
        due_s = self._begun_s + number / self._fps / (1 + self._skew)
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        shown = self.show(number)
        shown.pts, shown.time_base = number * 90_000 // self._fps, Fraction(1, 90_000)
        self.sent_s.append(time.monotonic())
        return shown

    @abstractmethod
    def show(self, number: int) -> av.VideoFrame | Packet[Any]:
        """The picture of this number, raw or encoded; its time is set by the caller."""


def there_and_back(number: int, count: int) -> int:
    """Which of `count` pictures is shown: forwards, then backwards, so that no loop jumps."""
    place = number % (2 * count)
    return place if place < count else 2 * count - 1 - place


class FaceTrack(PacedTrack):
    """The pictures of a file, over and over.

    Args:
        images: uint8[H, W, 3] each.
        fps: frames a second.
        skew: how much faster the camera's clock is than ours, as a share.
    """

    def __init__(self, images: list[U8], fps: int, skew: float = 0.0) -> None:
        super().__init__(fps, skew=skew)
        self._frames = [av.VideoFrame.from_ndarray(i, format="rgb24").reformat(format="yuv420p")
                        for i in images]  # fmt: skip

    def show(self, number: int) -> av.VideoFrame:
        """One of the file's."""
        return self._frames[there_and_back(number, len(self._frames))]


async def speak(
    url: str,
    samples: I16,
    rate_hz: int = SPEECH_RATE_HZ,
    *,
    burst_s: float = BURST_S,
    ahead_s: float = AHEAD_S,
    skew: float = 0.0,
    sent: Callable[[], None] = lambda: None,
) -> None:
    """Send a voice over the WebSocket in bursts, for ever, by a clock of its own.

    Args:
        url: of the socket.
        samples: int16[N], over and over.
        rate_hz: theirs.
        burst_s: sound in each message.
        ahead_s: how far ahead of real time it is sent, as TTS services do.
        skew: how much faster its clock is than ours, as a share.
        sent: called as each message is handed over.
    """
    start, sent_s, place = time.monotonic(), 0.0, 0
    burst = int(burst_s * rate_hz)
    async with websockets.connect(url) as socket:
        while True:
            piece = np.take(samples, range(place, place + burst), mode="wrap")
            sent()
            await socket.send(piece.astype("<i2").tobytes())
            place, sent_s = (place + burst) % len(samples), sent_s + burst_s
            due_s = start + (sent_s - ahead_s) / (1 + skew)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
