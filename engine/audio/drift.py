"""Clocks that differ: how fast a voice comes against ours, and playing it that much faster.

A sound card's clock is off by 20 to 200 ppm: at 200 ppm a stream is 0.72 s away after an hour. How
far its sound reaches ahead of our clock is watched, and it is resampled by at most 0.1 %, which
nobody hears (1.7 cents), so that it stays where it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np

from lipwire.engine.types import F32, I16

# Positions are judged over this long. Shorter: jitter of the network is taken for drift; longer:
# half of a jitter margin is gone before it is noticed.
WINDOW_S = 4.0
# A distance is made good within about so long. Shorter: the pitch follows jitter; longer: at
# 1000 ppm, where it lies TAU_S / 1000 off for good, the margin is eaten.
TAU_S = 20.0
MAX_CORRECTION = 1e-3
SLEW = 4e-4  # of the correction from one window to the next
# What is nearer than this is left alone: a voice by a good clock stays bit by bit as it came.
NEAR_S = 0.005
# A voice of which nobody said that it is live, but which stays this near to one distance for two
# windows of HELD_S, comes by a clock. Less: jitter hides it; more: slow synthesis looks like it.
STEADY_S, HELD_S = 0.05, 10.0
# So much more ahead at once, without having run dry, was sent ahead on purpose.
AHEAD_S = 1.0
SEEN = 4096  # pieces of a window that count: crumbs must not fill the memory
# Windows whose distances a line is laid through, to say how fast the voice's clock is: 4 minutes.
# Less: a jitter of 10 ms looks like 100 ppm; more: what was last minute counts little.
LINE, LINE_LEAST = 60, 4

HALF = 16  # samples on either side of a point: flat to 0.9 of the band, images below -80 dB
PHASES = 512


@cache
def _kernels() -> F32:
    """Windowed sinc at 0 to 1 sample past the middle, f32[PHASES + 1, 2 * HALF]."""
    at = np.arange(PHASES + 1)[:, None] / PHASES - np.arange(1 - HALF, HALF + 1)
    inside = np.sqrt(np.maximum(0.0, 1 - (at / HALF) ** 2))
    return np.asarray(np.sinc(at) * np.i0(9.0 * inside) / np.i0(9.0), np.float32)


class DriftResampler:
    """Plays int16 sound a little faster or slower; nothing changes until it is first asked to.

    A ratio below 1 also makes more samples of it, for a higher rate. It starts and goes on without
    a seam. While it works it holds back HALF samples.
    """

    # Not soxr's variable rate: it shifts sound by a part of a sample when it begins, and cannot
    # take over in the middle of a word.

    def __init__(self) -> None:
        self.ratio = 1.0
        """source samples for each that is given, at most 1.001: more would alias"""
        self._kept = np.zeros(HALF, np.float32)
        self._place = float(HALF)  # of the next sample to give, in `_kept`

    @property
    def working(self) -> bool:
        """Whether what comes out may differ from what went in."""
        return self._place != HALF or len(self._kept) != HALF

    @property
    def held(self) -> float:
        """Source samples taken and not given yet."""
        return len(self._kept) - self._place

    def push(self, samples: I16) -> I16:
        """The next int16[N]; about as many come back."""
        if self.ratio == 1.0 and not self.working:
            if len(samples):
                self._kept = np.concatenate([self._kept, samples])[-HALF:].astype(np.float32)
            return samples
        self._kept = np.concatenate([self._kept, samples.astype(np.float32)])
        return self._give(len(self._kept) - HALF)

    def finish(self) -> I16:
        """What is held back; the next samples are a new beginning."""
        stop = len(self._kept)
        self._kept = np.concatenate([self._kept, np.zeros(HALF, np.float32)])
        rest = self._give(stop) if self.working and stop > self._place else np.zeros(0, np.int16)
        self.reset()
        return rest

    def reset(self) -> None:
        """Forget what is held back; the next samples are a new beginning."""
        self._kept, self._place = np.zeros(HALF, np.float32), float(HALF)

    def _give(self, stop: int) -> I16:
        """Samples at places before `stop`; HALF more are kept."""
        count = max(0, int(np.ceil((stop - self._place) / self.ratio)))
        places = self._place + self.ratio * np.arange(count)
        whole = places.astype(np.int64)
        fine = (places - whole) * PHASES
        phase = fine.astype(np.int64)
        between = (fine - phase).astype(np.float32)[:, None]
        kernels = _kernels()[phase] * (1 - between) + _kernels()[phase + 1] * between
        out = places
        if count:
            windows = np.lib.stride_tricks.sliding_window_view(self._kept, 2 * HALF)
            out = np.einsum("nk,nk->n", windows[whole - HALF + 1], kernels)
        place = self._place + self.ratio * count
        gone = int(place) - HALF + 1
        self._kept, self._place = self._kept[gone:], place - gone
        return np.clip(np.rint(out), -32768, 32767).astype(np.int16)


class DriftEstimator:
    """How much faster a voice must be played to stay at its distance ahead of our clock.

    Args:
        target_s: that distance; None finds it, for a voice that turns out to come by a clock.
        statistic: of the distances in a window. The least of them guards against running dry.
    """

    def __init__(
        self, target_s: float | None, statistic: Callable[[Iterable[float]], float] = min
    ) -> None:
        self._given = target_s is not None
        self.target_s = target_s
        self._statistic = statistic
        self._seen: deque[float] = deque(maxlen=SEEN)  # of this window
        self._since_s = self._until_s = 0.0
        self._last: tuple[float, float] | None = None  # distance and time of the window before
        # Of each window: time, and the distance that there would be without correction.
        self._line: deque[tuple[float, float]] = deque(maxlen=LINE)
        self._gained_s = 0.0  # by correction
        self._was_dry = False
        self.correction = 0.0
        """0.001 plays 0.1 % faster"""
        self._drift = 0.0

    def restart(self) -> None:
        """The voice ran dry or was put elsewhere: its distance has nothing to do with the last."""
        self._drift = self.drift
        self._last, self._was_dry = None, True
        self._seen.clear()
        self._line.clear()

    @property
    def drift(self) -> float:
        """How much faster the voice's clock is than ours, as a share; least squares."""
        if len(self._line) < LINE_LEAST:
            return self._drift
        time_s, ahead_s = np.array(self._line).T
        time_s = time_s - time_s.mean()
        return float((time_s * ahead_s).sum() / (time_s**2).sum())

    def record(self, ahead_s: float, now_s: float) -> None:
        """More of the voice has come.

        Args:
            ahead_s: how far the voice reaches ahead, before what has come.
            now_s: our clock.
        """
        if not self._seen:
            self._since_s = now_s
        self._until_s = now_s
        self._seen.append(ahead_s)
        if now_s - self._since_s >= (WINDOW_S if self.target_s is not None else HELD_S):
            self._judge(self._statistic(self._seen))
            self._seen.clear()

    def excess_s(self, ahead_s: float) -> float:
        """How much further ahead than it should be."""
        return ahead_s - self.target_s if self.target_s is not None else 0.0

    def _judge(self, ahead_s: float) -> None:
        middle_s = (self._since_s + self._until_s) / 2
        last, self._last = self._last, (ahead_s, middle_s)
        if self.target_s is None:
            if last is not None and abs(ahead_s - last[0]) < STEADY_S:
                self.target_s = max(ahead_s, 0.0)
            return
        if not self._given and not self._was_dry and ahead_s - self.target_s > AHEAD_S:
            self.target_s, self.correction = None, 0.0
            return
        if last is not None:
            self._gained_s += self.correction * (middle_s - last[1])
        self._line.append((middle_s, ahead_s + self._gained_s))
        off_s = ahead_s - self.target_s
        if abs(off_s) < STEADY_S:
            self._was_dry = False
        if self.correction or abs(off_s) > NEAR_S:
            wanted = np.clip(off_s / TAU_S, -MAX_CORRECTION, MAX_CORRECTION)
            self.correction += float(np.clip(wanted - self.correction, -SLEW, SLEW))


QUIET = 200  # of 32768: about -44 dBFS, room noise behind a microphone
BLOCK_S = 0.010
PAUSE_KEPT = 10  # blocks of each pause: less, and words run into each other


class PauseTrimmer:
    """Leaves out quiet stretches of pauses, for a voice that has fallen behind."""

    def __init__(self) -> None:
        self._quiet = 0  # blocks since something was heard

    def push(self, samples: I16, rate_hz: int, excess_s: float) -> I16:
        """int16[N] without what can be spared, at most `excess_s` of it."""
        size = round(BLOCK_S * rate_hz)
        count = len(samples) // size
        peaks = np.abs(samples[: count * size].reshape(count, size).astype(np.int32))
        keep = np.ones(len(samples), np.bool_)
        spare = int(excess_s / BLOCK_S + 1e-6)
        for index, peak in enumerate(peaks.max(axis=1, initial=0)):
            self._quiet = self._quiet + 1 if peak < QUIET else 0
            if self._quiet > PAUSE_KEPT and spare > 0:
                keep[index * size : (index + 1) * size] = False
                spare -= 1
        return samples if keep.all() else samples[keep]
