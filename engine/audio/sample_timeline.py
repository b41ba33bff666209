"""A sample timeline: fed at any rate, it carries sound and silence to what lies along it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from lipwire.engine.audio.ring import Ring
from lipwire.engine.types import I16

FADE_OUT_S = 0.010  # of sound that is cut off: a hard cut clicks
SILENCE_PIECE = 48_000  # samples written at a time


class Sink(Protocol):
    """Something that lives along a sample timeline."""

    def append(self, samples: I16, /) -> None:
        """The next samples."""

    def append_silence(self, count: int, /) -> None:
        """The next samples are zeros."""

    def truncate(self, stop: int, /) -> None:
        """Take back what lies from absolute sample `stop` on."""

    def forget(self, start: int, /) -> None:
        """What lies before absolute sample `start` is needed no more."""


class PlayoutBuffer:
    """int16 sound kept for playing.

    Args:
        seconds: how much is kept.
        rate_hz: of the samples.
    """

    def __init__(self, seconds: float, rate_hz: int) -> None:
        self._ring = Ring(int(seconds * rate_hz), (), np.int16)
        self._fade = int(FADE_OUT_S * rate_hz)

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._ring.nbytes

    def append(self, samples: I16) -> None:
        """The next samples."""
        self._ring.append(samples)

    def append_silence(self, count: int) -> None:
        """The next samples are zeros."""
        for done in range(0, count, SILENCE_PIECE):
            self._ring.append(np.zeros(min(SILENCE_PIECE, count - done), np.int16))

    def truncate(self, stop: int) -> None:
        """Take back what lies from absolute sample `stop` on, fading out before it."""
        if stop >= self._ring.stop:
            return
        if stop < self._ring.start:  # all that is kept lies behind it
            self._ring = Ring(self._ring.capacity, (), np.int16)
            self._ring.forget(stop)
            return
        self._ring.truncate(stop)
        fade = min(self._fade, len(self._ring))
        tail = self._ring.read(self._ring.stop - fade, self._ring.stop)
        tail[:] = (tail * np.linspace(1, 0, fade)).astype(np.int16)

    def forget(self, start: int) -> None:
        """Forget what lies before absolute sample `start`."""
        self._ring.forget(start)

    def read(self, start: int, stop: int) -> I16:
        """Samples [start, stop), zeros where nothing is known."""
        out = np.zeros(stop - start, np.int16)
        low, high = max(start, self._ring.start), min(stop, self._ring.stop)
        if low < high:
            out[low - start : high - start] = self._ring.read(low, high)
        return out


def _make_resampler(source_hz: int, rate_hz: int) -> Any:
    import soxr

    # Not int16: soxr would add dither, and equal sound would no longer give equal samples.
    return soxr.ResampleStream(source_hz, rate_hz, 1, dtype="float32")


@lru_cache(64)
def resampler_lag_s(source_hz: int, rate_hz: int) -> float:
    """How much sound at most waits inside a resampler for more to come."""
    if source_hz == rate_hz:
        return 0.0
    resampler, given, lag_s = _make_resampler(source_hz, rate_hz), 0, 0.0
    piece = np.zeros(source_hz // 100, np.float32)
    for fed in range(len(piece), source_hz, len(piece)):
        given += len(resampler.resample_chunk(piece))
        lag_s = max(lag_s, fed / source_hz - given / rate_hz)
    return lag_s


class SampleTimeline:
    """One sample timeline at one rate, fed at any other rate.

    Args:
        rate_hz: of the timeline.
        *sinks: what receives it.
        resampled: called before they do.
    """

    def __init__(
        self, rate_hz: int, *sinks: Sink, resampled: Callable[[], None] | None = None
    ) -> None:
        self.rate_hz = rate_hz
        self.stop = 0  # absolute index one past the newest sample
        self._sinks, self._resampled = sinks, resampled
        self._source_hz = 0
        self._resampler: Any = None
        self._fed = 0  # source samples since the utterance began
        self._given = 0  # samples written since then

    @property
    def end_s(self) -> float:
        """Where the line ends once the resampler has given all that it was fed."""
        held_s = self._fed / self._source_hz - self._given / self.rate_hz if self._source_hz else 0
        return self.stop / self.rate_hz + held_s

    def append(self, samples: I16, rate_hz: int) -> None:
        """Add int16[N] at `rate_hz`; some of it may stay in the resampler until more comes."""
        if rate_hz != self._source_hz:
            self.finish()
            self._source_hz = rate_hz
            if rate_hz != self.rate_hz:
                self._resampler = _make_resampler(rate_hz, self.rate_hz)
        self._fed += len(samples)
        self._write(samples, last=False)

    def finish(self) -> None:
        """Push out what the resampler holds; the next samples start a new utterance."""
        if self._resampler is not None:
            self._write(np.zeros(0, np.int16), last=True)
        self._restart()

    def _restart(self) -> None:
        self._source_hz, self._resampler, self._fed, self._given = 0, None, 0, 0

    def _write(self, samples: I16, last: bool) -> None:
        if self._resampler is not None:
            resampled = self._resampler.resample_chunk(samples.astype(np.float32), last=last)
            samples = np.clip(np.rint(resampled), -32768, 32767).astype(np.int16)
        if self._resampled is not None:
            self._resampled()
        for sink in self._sinks:
            sink.append(samples)
        self.stop += len(samples)
        self._given += len(samples)

    def silence_until(self, stop: int) -> None:
        """Fill with silence up to absolute index `stop`."""
        if stop > self.stop:
            for sink in self._sinks:
                sink.append_silence(stop - self.stop)
            self.stop = stop

    def truncate(self, stop: int) -> None:
        """Take back what lies from absolute index `stop` on, and what the resampler holds."""
        self._restart()
        if stop < self.stop:
            for sink in self._sinks:
                sink.truncate(stop)
            self.stop = stop

    def forget(self, start: int) -> None:
        """What lies before absolute index `start` is needed no more; the line reaches it."""
        if start > self.stop:
            self.finish()
        for sink in self._sinks:
            sink.forget(start)
        self.stop = max(self.stop, start)
