"""What callers send: a face as a track, a voice over the WebSocket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import websockets
from aiortc.mediastreams import MediaStreamTrack

from engine.types import I16, U8

SPEECH_RATE_HZ = 24_000  # what most TTS services send
BURST_S = 0.5
AHEAD_S = 4.0  # how far the voice is sent ahead of real time, as TTS services do


class FaceTrack(MediaStreamTrack):
    """The pictures of a file, over and over, at a constant rate.

    Args:
        images: uint8[H, W, 3] each.
        fps: frames a second.
        skew: how much faster the camera's clock is than ours, as a share.
    """

    kind = "video"

    def __init__(self, images: list[U8], fps: int, skew: float = 0.0) -> None:
        super().__init__()
        self._frames = [av.VideoFrame.from_ndarray(i, format="rgb24").reformat(format="yuv420p")
                        for i in images]  # fmt: skip
        self._fps, self._index, self._start, self._skew = fps, 0, 0.0, skew

    async def recv(self) -> av.VideoFrame:
        """The next picture, when it is due."""
        if self._index == 0:
            self._start = time.monotonic()
        due = self._start + self._index / self._fps / (1 + self._skew)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        # Forwards, then backwards, so that the loop has no jump.
        count = len(self._frames)
        place = self._index % (2 * count)
        frame = self._frames[place if place < count else 2 * count - 1 - place]
        frame.pts, frame.time_base = self._index * 90_000 // self._fps, Fraction(1, 90_000)
        self._index += 1
        return frame


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
