"""How landmarks of mouth and jaw move with the articulation code: linear, measured on films.

`python -m lipwire.training.lite.shape` fits it; `shape.npz` is what it wrote.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from lipwire.engine.face.articulation import OPENING
from lipwire.engine.types import F32

FILE = Path(__file__).parent / "shape.npz"
# How far a unit goes towards what is asked for. Less: few units stand for few mouths, and those
# that follow each other jump; more: what was heard wrongly shows, which real mouths forgive
# (of six films r hardly differs from 0.5 to 1; realism is 0.90 to 0.94, and 0.89 at 0).
SHARE = 0.7
# Lips that are asked to be closer than this shut the more the closer: a gap in silence, or in p, b
# and m, is seen at once. Less: it stays; more: mumblers shut their lips all the time.
SHUT_PX = 2.0
# A unit is changed by at most so much of each code, pixels of the 128 px crop. Less: few units
# stand for few mouths; more: lips and chin are stretched as they never were.
MOST_PX = 4.0
# Shut lips have no teeth between them: a unit that is open less than this share of the wanted
# opening's rise would show a slit. Its opening grows at most by this and half of what it has.
SLIT_PX = 1.0


@cache
def _model() -> tuple[list[int], F32]:
    with np.load(FILE, allow_pickle=False) as file:
        return file["landmarks"].tolist(), np.asarray(file["moves"], np.float32)


def moved_landmarks(change: F32, indices: list[int]) -> F32:
    """Where landmarks go when a mouth's codes change.

    Args:
        change: f32[codes], pixels of the 128 px crop.
        indices: of landmarks, all of them known to the model.

    Returns:
        f32[N, 2], pixels of the crop.
    """
    known, moves = _model()
    places = [known.index(index) for index in indices]
    return np.asarray(np.tensordot(change, moves[:, places], 1), np.float32)


def allowed_change(asked: F32, shown: F32) -> F32:
    """By how much a unit's codes may be changed towards those that are asked for, f32[codes].

    Args:
        asked: f32[codes], as measured.
        shown: f32[codes], the unit's.
    """
    shut = float(np.clip(1 - asked[OPENING] / SHUT_PX, 0, 1))
    share = np.float32(SHARE + (1 - SHARE) * shut)
    change = np.clip(share * (asked - shown), -MOST_PX, MOST_PX)
    grows = SLIT_PX + 0.5 * float(shown[OPENING])
    if change[OPENING] > grows:  # the lips go apart together, or not at all
        change = change * np.float32(grows / change[OPENING])
    change[OPENING] = max(change[OPENING], -shown[OPENING])
    return np.asarray(change, np.float32)
