"""Subscription: one viewer's end of a session, a track that gives frames encoded for many."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import av
from aiortc import MediaStreamTrack, RTCRtpCodecParameters
from aiortc.mediastreams import MediaStreamError

from lipwire.engine.trace import UNTRACED, Trace
from lipwire.server.rtc.rate_control import KeyThrottle, LayerSelector
from lipwire.server.rtc.tracks import VIDEO_TIME_BASE

# Encoded ones that wait for one viewer's sender. A picture that is left out costs that viewer all
# until the next key frame, so more of them may wait; still more: delay that never goes away.
SENT = {"video": 8, "audio": 10}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as a whole, or the packets of a block of sound."""

    payloads: list[bytes]  # one for a picture, which is cut for the network by each sender
    timestamp: int  # RTP time before a sender's own offset
    level: int | None = None  # loudness of sound, dBov
    key: bool = False
    trace: Trace = UNTRACED  # told when a sender has sent it

    def packet(self) -> av.Packet[Any]:
        """A picture as aiortc's `pack` takes it."""
        packet: av.Packet[Any] = av.Packet(self.payloads[0])
        packet.pts, packet.time_base = self.timestamp, VIDEO_TIME_BASE
        return packet


class SharedEncode(Protocol):
    """The encode that a subscription takes from."""

    keys: KeyThrottle
    subscriptions: list[Subscription]

    @property
    def target_bitrate(self) -> int:
        """Bits a second that it is encoded at."""

    def regulate(self, now: float) -> None:
        """Follow what its receivers' paths carry."""

    def stop(self) -> None:
        """End it."""


class SharedEncoder(Protocol):
    """Encodes for all subscriptions of a kind, and places each at one of its encodes."""

    def place(self, subscription: Subscription, now: float) -> None:
        """Its codec is known."""

    def estimate(self, subscription: Subscription, bits_per_s: int, now: float) -> None:
        """Its receiver says what the path carries."""

    def leave(self, subscription: Subscription) -> None:
        """It has ended."""


class Subscription(MediaStreamTrack):
    """One viewer's end of one kind: a track that gives encoded frames.

    Its sender says once which codec was agreed on (`tune`), and passes on what the receiver wants
    (`ask_key`, `estimate`).

    Args:
        kind: "video" or "audio".
        media_time_s: where the clock that the frames' times are on is now; the two tracks of a
            viewer share it, so that what is said of it keeps sound and picture together.
        renditions: who encodes for it.
    """

    def __init__(
        self, kind: str, media_time_s: Callable[[], float], renditions: SharedEncoder
    ) -> None:
        super().__init__()
        self.kind, self.media_time_s = kind, media_time_s
        self._renditions = renditions
        self._frames: deque[Encoded] = deque()
        self._fresh = asyncio.Event()
        self._hungry = kind == "video"  # until a key frame comes
        self.codec: RTCRtpCodecParameters | None = None
        self.layer_selector: LayerSelector | None = None
        self.rendition: SharedEncode | None = None
        self.dropped = 0  # frames that the sender was too slow for

    def tune(self, codec: RTCRtpCodecParameters) -> None:
        """Say which codec to send; frames come from now on."""
        self.codec = codec
        if self.readyState == "live":
            self._renditions.place(self, time.monotonic())

    def put(self, frame: Encoded) -> None:
        """Hand a frame over; never waits."""
        if self._hungry and not frame.key:
            return
        self._hungry = False
        if len(self._frames) >= SENT[self.kind]:
            self.dropped += 1
            if self.kind == "video":  # what follows builds on what is left out
                self.dropped += len(self._frames)
                self.starve()
                self.ask_key()
                return
            self._frames.popleft()
        self._frames.append(frame)
        self._fresh.set()

    def starve(self) -> None:
        """Send nothing more until a key frame comes."""
        self._frames.clear()
        self._hungry = True

    def ask_key(self) -> None:
        """The receiver has lost a picture."""
        if self.rendition is not None:
            self.rendition.keys.ask()

    def estimate(self, bits_per_s: int) -> None:
        """The receiver says what its path carries."""
        self._renditions.estimate(self, bits_per_s, time.monotonic())

    @property
    def target_bitrate(self) -> int:
        """Bits a second of what it is given; 0 for sound."""
        return self.rendition.target_bitrate if self.rendition is not None else 0

    @property
    def depth(self) -> int:
        return len(self._frames)

    async def recv(self) -> Any:
        """The next `Encoded`.

        Raises:
            MediaStreamError: the track was stopped.
        """
        while not self._frames:
            if self.readyState != "live":
                raise MediaStreamError
            self._fresh.clear()
            await self._fresh.wait()
        return self._frames.popleft()

    def stop(self) -> None:
        if self.readyState == "live":
            super().stop()
            self._frames.clear()
            self._fresh.set()
            self._renditions.leave(self)
