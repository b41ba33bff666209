"""Renditions: one encode for many viewers. A session's frames in, each viewer's packets out.

frame -> a rendition for each codec and class of bit rates that somebody takes -> encoder (thread)
      -> the whole encoded picture -> a short queue for each seat -> its sender packetises it

Only bytes are shared: sequence numbers, RTP times, repeats and reports stay each sender's own.
Sound has one rendition for each codec.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any, NamedTuple

import av
from aiortc import RTCRtpCodecParameters
from av.frame import Frame
from av.video.reformatter import VideoReformatter

from lipwire.engine.runtime.engine import Observe, unobserved
from lipwire.engine.trace import Trace
from lipwire.server.config import ServerConfig
from lipwire.server.rtc.bitstream import is_key
from lipwire.server.rtc.codecs import LOWEST_BITRATE, GuardedEncoder, audio_level_dbov
from lipwire.server.rtc.frame_trace import trace_of
from lipwire.server.rtc.rate_control import (
    KeyThrottle,
    LayerSelector,
    RateController,
    Rung,
    make_ladder,
)
from lipwire.server.rtc.subscription import Encoded, Subscription

log = logging.getLogger(__name__)

# Of the process. aiortc encodes in the loop's default pool, where a block of sound waits behind
# the pictures of all calls.
POOLS = {
    "audio": ThreadPoolExecutor(2, thread_name_prefix="lipwire-sound"),
    "video": ThreadPoolExecutor(os.cpu_count() or 2, thread_name_prefix="lipwire-picture"),
}
# Frames that wait for an encoder; the oldest is dropped. More pictures: delay; fewer: one is lost
# to every hiccup. Sound may wait longer, because a gap is heard: 0.2 s.
QUEUED = {"video": 2, "audio": 10}
# Key frames that several viewers ask for are at least so far apart. Shorter: the one with the worst
# path blurs the picture of all; longer: he sees none for as long.
SHARED_KEY_REST_S = 0.5


class _Waiting(NamedTuple):
    """A frame on its way to an encoder, with its time as it came."""

    frame: Any
    own: bool
    pts: int
    time_base: Fraction
    trace: Trace


def encode(encoder: GuardedEncoder, frame: Frame, key: bool) -> tuple[list[bytes], int, int | None]:
    """Payloads, RTP time and loudness of a frame; runs in a pool."""
    payloads, timestamp = encoder.encode(frame, key)
    level = audio_level_dbov(frame) if isinstance(frame, av.AudioFrame) else None
    return payloads, timestamp, level


class Rendition:
    """One running encode and those who take it."""

    def __init__(
        self,
        codec: RTCRtpCodecParameters,
        settings: ServerConfig,
        rung: Rung | None,
        start: int,
        observe: Observe,
    ) -> None:
        self._codec, self._rung, self._observe = codec, rung, observe
        self.kind = "audio" if rung is None else "video"
        rate_controller = None if rung is None else RateController(start, rung.floor, rung.ceiling)
        self._encoder = GuardedEncoder(codec, settings, rate_controller, whole=rung is not None)
        self.keys = KeyThrottle()
        self.subscriptions: list[Subscription] = []
        self._frames: deque[_Waiting] = deque(maxlen=QUEUED[self.kind])
        self._fresh = asyncio.Event()
        self.dropped = 0  # frames that the encoder was too slow for
        self._faults = 0
        self._scaler = VideoReformatter()
        self._task = asyncio.create_task(self._run())

    @property
    def target_bitrate(self) -> int:
        """Bits a second; 0 for sound."""
        return self._encoder.target_bitrate

    @property
    def shrink(self) -> int:
        """The picture's sides are divided by it."""
        return 1 if self._rung is None else self._rung.shrink

    @property
    def depth(self) -> int:
        """Frames that wait for the encoder."""
        return len(self._frames)

    def put(self, frame: Any, own: bool) -> None:
        """Hand a frame over; never waits.

        Args:
            frame: marked already.
            own: nobody else encodes it: encoders write kind and time into a frame.
        """
        self.dropped += len(self._frames) == self._frames.maxlen
        waiting = _Waiting(frame, own, frame.pts, frame.time_base, trace_of(frame))
        self._frames.append(waiting)
        self._fresh.set()

    def regulate(self, now: float) -> None:
        """Follow the slowest of those whose estimates count."""
        wanted = [
            subscription.layer_selector.bits_per_s
            for subscription in self.subscriptions
            if subscription.layer_selector is not None
            and subscription.layer_selector.bits_per_s is not None
            and (subscription.layer_selector.settled(now) or len(self.subscriptions) == 1)
        ]
        if wanted:
            self._encoder.target_bitrate = min(wanted)

    def stop(self) -> None:
        self._task.cancel()
        self._frames.clear()
        self._encoder.close()

    async def _run(self) -> None:
        while True:
            while not self._frames:
                self._fresh.clear()
                await self._fresh.wait()
            try:
                # Held by nobody else: a task that is cancelled keeps what its frames hold.
                encoded = await self._encode(self._frames.popleft())
            except Exception:  # this frame is lost; the next ones are not
                self._faults += 1
                if self._faults == 1:
                    log.exception("encoding a %s frame failed; the next ones go on", self.kind)
                continue
            if encoded is not None:
                for subscription in tuple(self.subscriptions):
                    subscription.put(encoded)

    async def _encode(self, waiting: _Waiting) -> Encoded | None:
        now = time.monotonic()
        if self._encoder.fresh:
            self.keys.record(now)
        key = self.kind == "video" and self.keys.take(
            now, SHARED_KEY_REST_S if len(self.subscriptions) > 1 else None
        )
        work = asyncio.get_running_loop().run_in_executor(
            POOLS[self.kind], self._work, waiting, key
        )
        trace = waiting.trace
        del waiting
        payloads, timestamp, level = await work
        if self.kind == "video":
            self._observe("encode", time.monotonic() - now)
        if not payloads:
            return None
        vp8 = self._codec.name.lower() == "vp8"
        key = self.kind == "audio" or is_key(payloads[0], vp8)
        return Encoded(payloads, timestamp, level, key, trace)

    def _work(self, waiting: _Waiting, key: bool) -> tuple[list[bytes], int, int | None]:
        frame = waiting.frame
        waiting.trace.stamp("encoding")
        if self.shrink > 1:
            # A frame's own scaler is one for all threads, and two of them in it wait for ever.
            frame = shrink_picture(frame, self.shrink, self._scaler)
        elif not waiting.own:
            frame = copy_picture(frame)
        frame.pts, frame.time_base = waiting.pts, waiting.time_base
        done = encode(self._encoder, frame, key)
        waiting.trace.stamp("encoded")
        return done


class Renditions:
    """All encodes of one kind of one session; each runs while somebody takes it.

    Args:
        kind: "video" or "audio".
        settings: bit rates.
        observe: told how long each picture took to encode, once for all who take it.
    """

    def __init__(self, kind: str, settings: ServerConfig, observe: Observe = unobserved) -> None:
        self.kind, self._settings, self._observe = kind, settings, observe
        highest = settings.max_kbps * 1000
        self.ladder = make_ladder(min(LOWEST_BITRATE, highest), highest)
        self._seats: list[Subscription] = []
        self.running: dict[tuple[str, int], Rendition] = {}  # by codec and place in the ladder

    def subscription(self, media_time_s: Callable[[], float]) -> Subscription:
        """A track for one more viewer; he leaves when it is stopped."""
        subscription = Subscription(self.kind, media_time_s, self)
        self._seats.append(subscription)
        return subscription

    def put(self, frame: Any) -> None:
        """Encode a frame for all who watch; never waits."""
        taken = False
        for rendition in tuple(self.running.values()):
            shrinks = rendition.shrink > 1 or self.kind == "audio"
            rendition.put(frame, own=shrinks or not taken)
            taken = taken or not shrinks

    def place(self, subscription: Subscription, now: float) -> None:
        """Give a seat the rendition that it belongs to; stop the one that nobody takes any more."""
        assert subscription.codec is not None
        if self.kind == "video" and subscription.layer_selector is None:
            subscription.layer_selector = LayerSelector(
                self.ladder, self._settings.start_kbps * 1000, now
            )
        rung = subscription.layer_selector.rung if subscription.layer_selector is not None else 0
        key = (subscription.codec.mimeType.lower(), rung)
        rendition = self.running.get(key)
        if rendition is None:
            known = (
                subscription.layer_selector.bits_per_s
                if subscription.layer_selector is not None
                else None
            )
            start = known or self._settings.start_kbps * 1000
            rendition = self.running[key] = Rendition(
                subscription.codec,
                self._settings,
                self.ladder[rung] if self.kind == "video" else None,
                start,
                self._observe,
            )
        if subscription.rendition is rendition:
            return
        self._free(subscription)
        subscription.rendition = rendition
        rendition.subscriptions.append(subscription)
        if self.kind == "video":
            subscription.starve()
            rendition.keys.ask()

    def estimate(self, subscription: Subscription, bits_per_s: int, now: float) -> None:
        """Take what a viewer's receiver says that its path carries."""
        if subscription.layer_selector is None or subscription.rendition is None:
            return
        if subscription.layer_selector.estimate(bits_per_s, subscription.target_bitrate, now):
            self.place(subscription, now)
        subscription.rendition.regulate(now)

    def leave(self, subscription: Subscription) -> None:
        self._seats.remove(subscription)
        self._free(subscription)

    def _free(self, subscription: Subscription) -> None:
        rendition, subscription.rendition = subscription.rendition, None
        if rendition is None:
            return
        rendition.subscriptions.remove(subscription)
        if not rendition.subscriptions:
            rendition.stop()
            self.running = {k: r for k, r in self.running.items() if r is not rendition}

    @property
    def depth(self) -> int:
        """Frames that wait, where most do."""
        encoders = max((r.depth for r in self.running.values()), default=0)
        return max((s.depth for s in self._seats), default=0) + encoders

    @property
    def dropped(self) -> int:
        """Frames that encoders or senders were too slow for, of those that run."""
        encoders = sum(r.dropped for r in self.running.values())
        return sum(s.dropped for s in self._seats) + encoders

    def figures(self) -> list[dict[str, Any]]:
        """What runs, for people: codec, bits a second, scale and viewers of each."""
        return [
            {
                "codec": codec.partition("/")[2],
                "kbps": rendition.target_bitrate // 1000,
                "shrink": rendition.shrink,
                "viewers": len(rendition.subscriptions),
            }
            for (codec, _), rendition in sorted(self.running.items())
        ]

    def stop(self) -> None:
        """End every viewer's track, and the encodes with them."""
        for subscription in tuple(self._seats):
            subscription.stop()


def copy_picture(frame: av.VideoFrame) -> av.VideoFrame:
    """The same picture in a frame of its own, without a time."""
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for there, here in zip(copy.planes, frame.planes, strict=True):
        there.update(bytes(here))
    return copy


def shrink_picture(frame: av.VideoFrame, by: int, scaler: VideoReformatter) -> av.VideoFrame:
    """The picture with its sides divided, even and at least 16 pixels; without a time."""
    width, height = (max(16, side // by & ~1) for side in (frame.width, frame.height))
    return scaler.reformat(frame, width, height, "yuv420p")
