"""The pictures of a person that a model is given as references, picked from the live call.

A call offers what a file of pairs never had: seconds of the same face, its mouth shut and wide. The
frame to be repainted is a poor reference: it shows the very mouth that must be forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipwire.engine.face.alignment import CROP_SIZE, transform, turned_px
from lipwire.engine.face.articulation import OPENING, raw_codes
from lipwire.engine.face.identity import face_similarity, likeness_of
from lipwire.engine.types import F32, U8, Alignment

# A mouth wider than this (pixels of a 128 px crop) shows no more teeth; one wider than the other,
# one in a hundred, is a yawn. Lower: those who speak with wide mouths are not shown so; higher:
# whoever has yawned speaks with a black hole.
WIDE_PX, YAWN_PX = 12.0, 16.0
# What a second of age costs, in pixels of opening. Lower: old light stays. Higher: the references
# follow the present mouth so closely that they are the present mouth.
AGE_PX_PER_S = 0.5
# What eyes and nose cost that look otherwise than now (`alike`: 0.9 for a head that nods, 0.7 for
# one turned by 40 degrees). Lower: old poses stay and the painted mouth sits askew. Higher:
# references change with every movement: at 15 half as often again, at 20 twice as often.
UNLIKE_PX = 10.0
# A face turned further than this, `turned_px`, shows half a mouth, and beside it the room: its
# pictures cost so much more, and go as soon as a better one comes. A head that turns keeps what it
# showed before; one that stays turned gets its own pictures after some seconds. Less, or a lower
# limit: faces that differ from the usual are taken for turned. More: what a turned head shows is
# painted on it when it is back.
TURNED_PX = 1.5
TURNED_PX_PER_PX = 12.0
# By how much a newcomer must be better. Lower: references change every few frames and the painted
# mouth changes its look with them: with 1 nearly five times a second on a speaking face, with 2.5
# two. Higher: a mouth that opens wider is passed over.
MARGIN_PX = 2.5
# An incumbent older than this goes whatever it shows: rooms and clothes change.
MAX_AGE_S = 20.0


@dataclass(frozen=True, slots=True)
class _Held:
    crop: U8
    codes: F32
    opening_px: float
    likeness: F32
    turned_px: float
    time_s: float


class ReferenceBank:
    """The best pictures so far for each of `count` ranks, from the most closed mouth to the widest.

    Args:
        count: of references; a single one is always the newest frame (the paper's cross setting).
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[_Held] = []

    def update(self, crop: U8, landmarks: F32, alignment: Alignment, time_s: float) -> None:
        """Consider a frame.

        Args:
            crop: uint8[S, S, 3], not to be modified any more.
            landmarks: f32[468, 2], pixels of the frame.
            alignment: frame -> crop.
            time_s: when it was taken.
        """
        points = transform(landmarks, alignment.matrix) * np.float32(CROP_SIZE / alignment.size)
        codes = raw_codes(points[None])[0]
        seen = _Held(
            crop, codes, float(codes[OPENING]), likeness_of(crop), turned_px(landmarks), time_s
        )
        if self._count == 1 or not self._held:
            self._held = [seen] * self._count
            return
        for rank, held in enumerate(self._held):
            wanted_px = WIDE_PX * rank / (self._count - 1)
            age_s = time_s - held.time_s
            loss = _loss(held, wanted_px, seen) + AGE_PX_PER_S * age_s
            if loss > _loss(seen, wanted_px, seen) + MARGIN_PX or not 0 <= age_s < MAX_AGE_S:
                self._held[rank] = seen

    @property
    def empty(self) -> bool:
        """Whether nothing has been seen."""
        return not self._held

    @property
    def references(self) -> U8:
        """uint8[R, S, S, 3], the most closed mouth first; `see` must have been called."""
        return np.stack([held.crop for held in self._held])

    @property
    def codes(self) -> F32:
        """f32[R, codes], what they show, see `lipwire.engine.face.articulation.raw_codes`."""
        return np.stack([held.codes for held in self._held])

    def clear(self) -> None:
        self._held = []


def _loss(held: _Held, wanted_px: float, now: _Held) -> float:
    """How far a picture is from what its rank wants now, in pixels of opening."""
    return (
        abs(min(held.opening_px, WIDE_PX) - wanted_px)
        + max(held.opening_px - YAWN_PX, 0.0)
        + UNLIKE_PX * (1 - face_similarity(held.likeness, now.likeness))
        + TURNED_PX_PER_PX * max(held.turned_px - TURNED_PX, 0.0)
    )
