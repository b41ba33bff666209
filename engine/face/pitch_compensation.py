"""PitchCompensation: a head that nods forward shows a short lower face; the model sees it at its
usual length.

Eyes and nose are where they always are (`lipwire.engine.face.alignment`), but lips and chin lie
higher than in all faces that a model has learned from, and it paints a mouth where it expects one,
with a second lip below. So the hidden half is stretched downwards from its upper edge, painted, and
pressed together again. What it stretches out of the crop is neck. References are stretched each by
its own tilt and show the same face, whatever the head did.

Long lower faces, from heads that lean back, stay as they are: what would be pressed into the crop
is not in it.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.face.alignment import CHIN, CROP_SIZE, transform
from lipwire.engine.face.articulation import opening_px
from lipwire.engine.face.one_euro import OneEuro
from lipwire.engine.types import F32, U8, Alignment

# Rows (of 128) that a chin drops for each that the lips open: least squares over 64 people. The
# original's jaw must not move the new mouth.
DROP = 0.55
# A face is short whose shut mouth's chin lies above this row; 109 is the median of frames, one in a
# hundred is short. Higher: ordinary faces are resampled and shake (at 109 LMD grows by 3 %); lower:
# lips double.
SHORT_ROW = 101.0
# Rows that it is brought below this one for each that it was above: lips rise faster than chins.
# Less: what is left of the old lips shows; more: the chin's shaking shows.
OVER = 1.5
# More than this and it is a chest that one looks at.
LONGEST = 1.5
# Slower than the crop itself is smoothed, as what speech does to the chin beyond `DROP` is noise.
# Slower still, and a quick nod smears.
CUTOFF_HZ, BETA = 1.5, 0.1
# The length rests until it is off by so much, then it is drawn along: 0.4 pixels at the lips.
# Less: a mouth in a still head shakes with the chin's landmark (1.39 times the input's own with 0).
SLACK = 0.03


class PitchCompensation:
    """How short the lower face is, steadied; one per session."""

    def __init__(self) -> None:
        self._steady = OneEuro(CUTOFF_HZ, BETA)
        self._length: float | None = None

    def update(self, landmarks: F32, alignment: Alignment, time_s: float) -> float:
        """How many times its length the lower face must have for the model; mostly exactly 1.

        Args:
            landmarks: f32[468, 2], pixels of the frame.
            alignment: frame -> crop.
            time_s: when the frame was taken.
        """
        points = transform(landmarks, alignment.matrix) * (CROP_SIZE / alignment.size)
        now = length_of(float(self._steady(np.array([shut_chin(points)]), time_s)[0]))
        held = now if self._length is None else self._length
        self._length = min(max(held, now - SLACK), now + SLACK)
        return self._length

    def reset(self) -> None:
        """The movement is broken."""
        self._steady.reset()
        self._length = None


def shut_chin(points: F32) -> float:
    """The row on which the chin would be with the mouth shut; f32[468, 2], 128 px crop."""
    return float(points[CHIN, 1]) - DROP * float(opening_px(points[None])[0])


def length_of(chin: float) -> float:
    """What brings a shut mouth's chin from its row (of 128) to where models know it; 1 or more."""
    edge = _edge(CROP_SIZE)
    wanted = SHORT_ROW + OVER * max(SHORT_ROW - chin, 0.0)
    return float(np.clip((wanted - edge) / max(chin - edge, 1.0), 1.0, LONGEST))


def stretch(crop: U8, length: float) -> U8:
    """uint8[S, S, 3] with its hidden half so many times as high; the very same one for 1."""
    return crop if length == 1 else _stretched(crop, length, crop)


def unstretch(painted: U8, crop: U8, length: float) -> U8:
    """`lengthened` undone: the painted half at its place in the crop, uint8[S, S, 3] each.

    Args:
        painted: what a model made of the lengthened crop; the very same one comes back for 1.
        crop: as it was before; what lies below the painted half is taken from it.
        length: as it was lengthened.
    """
    return painted if length == 1 else _stretched(painted, 1 / length, crop)


def _stretched(picture: U8, factor: float, below: U8) -> U8:
    import cv2

    size = len(picture)
    matrix = np.array([[1, 0, 0], [0, factor, (1 - factor) * _edge(size)]], np.float32)
    over, cubic, edge = below.copy(), cv2.INTER_CUBIC, cv2.BORDER_TRANSPARENT
    whole = cv2.warpAffine(picture, matrix, (size, size), over, flags=cubic, borderMode=edge)
    return np.concatenate([picture[: size // 2], np.asarray(whole, np.uint8)[size // 2 :]])


def lengthened_alignment(alignment: Alignment, length: float) -> Alignment:
    """Where the hidden half's points lie in the lengthened crop."""
    matrix = alignment.matrix.copy()
    matrix[1] *= length
    matrix[1, 2] += (1 - length) * _edge(alignment.size)
    return Alignment(matrix, alignment.size)


def _edge(size: int) -> float:
    """Between the last visible row and the first hidden one."""
    return size / 2 - 0.5
