"""Cover: is something before the mouth? A face mesh draws lips on a hand without a doubt.

At some forty places around the mouth the colour and the contrast of this very person's skin and
lips are learned, as logarithms, colours against those of the upper face, so that another light is
the same face. A hand may have the right skin, but no lips, no line between them and no shade under
the chin. How well this works is in docs/adr/011-tracking-has-states.md.
"""

from __future__ import annotations

import numpy as np

from engine.types import F32, U8

# Lips, chin and lower cheeks, well inside the contour: behind it lies the room.
_LOWER = [
    0, 13, 14, 17, 32, 40, 43, 57, 81, 82, 83, 86, 88, 106, 181, 194, 199, 200, 201, 208, 210, 211,
    214, 262, 273, 287, 311, 312, 313, 316, 318, 335, 405, 415, 418, 421, 428, 430, 431, 434,
]  # fmt: skip
# Nose bridge and cheeks under the eyes, which tell the light.
_UPPER = [6, 197, 195, 50, 280, 118, 347, 101, 330]

DARK = 12.0  # of 255, added before the logarithm: black is noise
NO_CONTRAST = 0.03  # the same of contrast
# A face is known after so many looks. Fewer: a mouth that opens wide for the first time alarms (5 %
# of frames with 8, 1 % with 20); more: a hand in the first second is painted over.
KNOWN = 20
# Then the newest look weighs so much: about two seconds at 25 a second.
RATE = 0.02
# Half-width of what counts as the same, in logarithms, beside the person's own. More: a hand of the
# right colour passes; less: every turn of the head alarms.
SLACK = 0.10
OWN = 2.0  # times the person's own mean deviation
# What contrast weighs against colour. Less: only a microphone is seen; more: stubble that comes in
# and out of focus alarms.
CONTRAST = 0.5
# Share of places that differ: covered from the first on, bare again below the second.
COVERED, BARE = 0.5, 0.38
# Somebody who stays covered for so long (a mask, a light that came) is learned afresh.
FORGET_S = 10.0


class Cover:
    """Learns one person's lower face and says when it is hidden."""

    def __init__(self) -> None:
        self._looks = 0
        self._mean: F32 = np.zeros((len(_LOWER), 4), np.float32)
        self._spread: F32 = np.zeros((len(_LOWER), 4), np.float32)
        self._since_s: float | None = None
        self.share = 0.0
        """of the places that differ in the newest look"""

    @property
    def covered(self) -> bool:
        """Whether something was before the mouth in the newest look."""
        return self._since_s is not None

    def clear(self) -> None:
        """Forget the person."""
        self._looks, self._since_s, self.share = 0, None, 0.0

    def see(self, crop: U8, points: F32, time_s: float) -> bool:
        """Whether the mouth is covered.

        Args:
            crop: uint8[S, S, 3].
            points: f32[468, 2], landmarks in pixels of the crop.
            time_s: when it was taken.
        """
        seen = _look(crop, points)
        if self._looks < KNOWN:
            self._learn(seen)
            return False
        apart = np.abs(seen - self._mean).max(1)
        own = SLACK + OWN * self._spread.max(1)
        self.share = float((apart > own).mean())
        if self.share > (BARE if self.covered else COVERED):
            if self._since_s is None:
                self._since_s = time_s
            if not 0 <= time_s - self._since_s < FORGET_S:
                self.clear()
                self._learn(seen)
            return self.covered
        self._since_s = None
        if self.share < BARE:  # not from what is half on its way
            self._learn(seen)
        return False

    def _learn(self, seen: F32) -> None:
        self._looks += 1
        rate = max(RATE, 1 / self._looks)
        apart = np.abs(seen - self._mean) if self._looks > 1 else np.zeros_like(seen)
        self._spread += np.float32(rate) * (apart - self._spread)
        self._mean += np.float32(rate) * (seen - self._mean)


def _look(crop: U8, points: F32) -> F32:
    """Colours around the mouth against those of the upper face, and contrast, f32[K, 4]."""
    import cv2

    size = len(crop)
    near, around = (max(3, round(size * side / 128)) | 1 for side in (5, 9))
    soft = cv2.blur(crop, (near, near))
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean, square = (cv2.blur(grey**power, (around, around)) for power in (1, 2))
    places = np.clip(np.rint(points[_LOWER + _UPPER]), 0, size - 1).astype(np.intp)
    colours = np.log(soft[places[:, 1], places[:, 0]].astype(np.float32) + np.float32(DARK))
    light = np.median(colours[len(_LOWER) :], axis=0)
    x, y = places[: len(_LOWER)].T
    deviation = np.sqrt(np.maximum(square[y, x] - mean[y, x] ** 2, 0))
    contrast = CONTRAST * np.log(deviation / (mean[y, x] + DARK) + NO_CONTRAST)
    return np.column_stack([colours[: len(_LOWER)] - light, contrast]).astype(np.float32)
