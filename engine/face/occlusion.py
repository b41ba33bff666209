"""OcclusionDetector: is something before the mouth? A face mesh draws lips on a hand without a
doubt.

At some forty places around the mouth the colour and the contrast of this very person's skin and
lips are learned, as logarithms, colours against those of the upper face, so that another light is
the same face. A hand may have the right skin, but no lips, no line between them and no shade under
the chin; a microphone under the lip hides little, but is like no skin. How well this works is in
docs/research.md.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.types import F32, U8

# Lips, chin and lower cheeks, well inside the contour: behind it lies the room.
_LOWER = [
    0, 13, 14, 17, 32, 40, 43, 57, 81, 82, 83, 86, 88, 106, 181, 194, 199, 200, 201, 208, 210, 211,
    214, 262, 273, 287, 311, 312, 313, 316, 318, 335, 405, 415, 418, 421, 428, 430, 431, 434,
]  # fmt: skip
# The line between the lips, where a bare mouth has contrast whatever it does,
_LINE = [13, 14, 81, 82, 83, 86, 88, 311, 312, 313, 316, 318]
# the lips, and what is neither: cheeks and chin.
_LIPS = [*_LINE, 0, 17, 40, 57, 181, 287, 405, 415]
_ON_LINE, _ON_LIPS = np.isin(_LOWER, _LINE), np.isin(_LOWER, _LIPS)
# Nose bridge and cheeks under the eyes, which tell the light.
_UPPER = [6, 197, 195, 50, 280, 118, 347, 101, 330]

DARK = 12.0  # of 255, added before the logarithm: black is noise
NO_CONTRAST = 0.03  # the same of contrast
# A face is known after so many looks. Fewer: half-way through a hand's rise nothing is bare.
KNOWN = 4
# What n looks have shown may be off by so many n-ths of the slack more. Less: a mouth that opens
# wide for the first time alarms (2 % of pictures with 0, 0.8 % with 4); more: a hand in the first
# second is painted over.
DOUBT = 4.0
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
# The same if the line between the lips has gone as well. Lower: people who press their lips alarm;
# higher: hands of the speaker's own skin pass (a third of them, with 0.5).
LINELESS, LINED = 0.25, 0.2
# By how much the line must have gone, in logarithms, beside the person's own.
LINE_SLACK = 0.08
# And this share of places beside the mouth's line if they differ so many times as far: metal, a
# cup. Lower: a beard in another light alarms; higher: a microphone under the lip is painted over.
STRANGE_TIMES = 3.0
STRANGE, FAMILIAR = 0.1, 0.07
# Somebody who stays covered for so long (a mask, a light that came) is learned afresh.
FORGET_S = 10.0


class OcclusionDetector:
    """Learns one person's lower face and says when it is hidden."""

    def __init__(self) -> None:
        self._looks = 0
        self._line_spread = 0.0
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

    def update(self, crop: U8, points: F32, time_s: float) -> bool:
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
        if self._differs(seen):
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

    def _differs(self, seen: F32) -> bool:
        """Whether this is not the bare face, which a covered one must resemble more."""
        doubt = 1 + DOUBT / self._looks
        own = SLACK * doubt + OWN * self._spread.max(1)
        times = np.abs(seen - self._mean).max(1) / own
        self.share = float((times > 1).mean())
        strange = float((times > STRANGE_TIMES)[~_ON_LINE].mean())
        lost = _line(self._mean) - _line(seen)
        lineless = lost > LINE_SLACK * doubt + OWN * self._line_spread
        if self.covered:
            least = LINED if lineless else BARE
            return self.share > least or strange > FAMILIAR
        return self.share > (LINELESS if lineless else COVERED) or strange > STRANGE

    def _learn(self, seen: F32) -> None:
        self._looks += 1
        rate = max(RATE, 1 / self._looks)
        first = self._looks == 1
        apart = np.zeros_like(seen) if first else np.abs(seen - self._mean)
        line = 0.0 if first else abs(_line(seen) - _line(self._mean))
        self._line_spread += rate * (line - self._line_spread)
        self._spread += np.float32(rate) * (apart - self._spread)
        self._mean += np.float32(rate) * (seen - self._mean)


def _line(look: F32) -> float:
    """How much more contrast the line between the lips has than cheeks and chin."""
    return float(look[_ON_LINE, 3].mean() - look[~_ON_LIPS, 3].mean())


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
