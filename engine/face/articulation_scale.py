"""How far a person's mouth goes when it speaks, against a typical speaker's; learned from the call.

For the same sound people open their mouths up to five times as far as others. A voice cannot tell;
a few seconds of the person's own, original speech can.

The opening's range over moving frames is the evidence, log(range / typical) is normal over people,
and a sample of n frames says it with a variance that falls as 1 / n: the posterior mean is the
measured logarithm times n / (n + PRIOR_FRAMES) (Gelman et al., Bayesian Data Analysis, sec. 2.5).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from lipwire.engine.face.alignment import transform
from lipwire.engine.face.articulation import CODES, opening_px
from lipwire.engine.types import F32, F64, Alignment

# A mouth counts as speaking while it has moved by so much within STIR_S. Lower: a tracker's jitter
# on a silent face is taken for a very small mouth. Higher: mumblers stay typical for long.
STIR_PX = 1.2
STIR_S = 0.5
# The range lies between these: a yawn, a laugh or a lost lip is a few frames and changes nothing.
LOW, HIGH = 10, 90
# Frames whose evidence weighs as much as knowing how people are: n times the squared error of n
# frames over the variance between speakers, 21 to 24 for n from 25 to 200. Fewer: the first word
# decides how the second is spoken; more: it takes long until a mouth is the person's own.
PRIOR_FRAMES = 22
LEAST_FRAMES = 25  # a second; fewer do not hold the widest mouth yet and tell half of the range
# A minute of moving frames: rooms, seats and moods change.
KEPT_FRAMES = 1500
LIMIT = 2.5  # nobody is believed to move more than this times as far as the typical, or as little
# What the other codes do as the opening grows: slopes of log(spread) over speakers.
GROWTH: F32 = np.array([1, 1, 0.6, 0.4, 0.6, 0.5, 0.4], np.float32)
assert len(GROWTH) == CODES


class ArticulationScale:
    """Watches one person's mouth; an own one per session.

    Args:
        typical_px: how far a typical speaker's opening ranges, in 128 px crops.
    """

    def __init__(self, typical_px: float) -> None:
        self._typical_px = typical_px
        self._recent: deque[tuple[float, float]] = deque()
        self._moving: deque[float] = deque(maxlen=KEPT_FRAMES)
        self._value: F32 | None = None

    def update(self, landmarks: F32, alignment: Alignment, time_s: float) -> None:
        """Consider a frame.

        Args:
            landmarks: f32[468, 2], pixels of the frame.
            alignment: frame -> crop.
            time_s: when it was taken.
        """
        points = transform(landmarks, alignment.matrix) * (128 / alignment.size)
        self.see_opening(float(opening_px(points[None])[0]), time_s)

    def see_opening(self, opening: float, time_s: float) -> None:
        """Consider a mouth, `opening` pixels of a 128 px crop wide; what is no number is passed."""
        if not np.isfinite(opening):
            return
        recent = self._recent
        while recent and not 0 <= time_s - recent[0][1] <= STIR_S:
            recent.popleft()
        recent.append((opening, time_s))
        seen = [o for o, _ in recent]
        if max(seen) - min(seen) >= STIR_PX:
            self._moving.append(opening)
            self._value = None

    @property
    def value(self) -> F32:
        """f32[codes], how many times as far as a typical speaker's each code goes; read-only."""
        if self._value is None:
            self._value = grown(believed(list(self._moving), self._typical_px))
        return self._value

    @property
    def moving(self) -> list[float]:
        """Openings of the frames in which the mouth moved, crop pixels."""
        return list(self._moving)

    def learn(self, openings: Sequence[float] | F32) -> None:
        """Take what was `moving` in another call of this person."""
        self._moving.extend(float(opening) for opening in openings)
        self._value = None

    def clear(self) -> None:
        """Forget the person: typical again."""
        self._recent.clear()
        self._moving.clear()
        self._value = None


def moving(openings: Sequence[float] | F32, fps: float) -> list[float]:
    """Those openings of an evenly timed run at which the mouth moves."""
    watching = ArticulationScale(1.0)
    for index, opening in enumerate(openings):
        watching.see_opening(float(opening), index / fps)
    return watching.moving


def range_px(openings: Sequence[float] | F64) -> float:
    """How far moving openings range, without the rare ones; 0 for none."""
    if len(openings) == 0:
        return 0.0
    # numpy's percentiles take ten times as long, and every frame asks.
    ordered = np.sort(np.asarray(openings, np.float64))
    low, high = np.interp(
        np.array((LOW, HIGH)) / 100 * (len(ordered) - 1), np.arange(len(ordered)), ordered
    )
    return float(high - low)


def believed(openings: Sequence[float], typical_px: float) -> float:
    """How many times as far as typical a mouth goes, given its moving frames' openings; 1 = as far.

    Args:
        openings: crop pixels.
        typical_px: a typical speaker's range, above 0.
    """
    found = range_px(openings)
    if len(openings) < LEAST_FRAMES or found <= 0:
        return 1.0
    weight = len(openings) / (len(openings) + PRIOR_FRAMES)
    return float(np.clip((found / typical_px) ** weight, 1 / LIMIT, LIMIT))


def grown(opening: float) -> F32:
    """The reach of every code, f32[codes], from that of the opening."""
    return np.asarray(np.float32(opening) ** GROWTH, np.float32)


TYPICAL: F32 = grown(1.0)
