"""How landmarks of mouth and jaw move with the articulation code: linear, measured on films.

`python -m lipwire.training.lite.shape` fits it; `shape.npz` is what it wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from lipwire.engine.face.alignment import LIPS_OUTER
from lipwire.engine.face.articulation import OPENING, opening_px
from lipwire.engine.types import F32

FILE = Path(__file__).parent / "shape.npz"
# How far a unit goes towards what is asked for. Less: few units stand for few mouths, and those
# that follow each other jump; more: what was heard wrongly shows, which real mouths forgive
# (of six films r hardly differs from 0.5 to 1; realism is 0.90 to 0.94, and 0.89 at 0).
SHARE = 0.7
# Lips that are asked to be closer than this shut the more the closer: a gap in silence, or in p, b
# and m, is seen at once. Less: it stays; more: mumblers shut their lips all the time.
SHUT_PX = 2.0
OPENINGS = slice(0, 2)  # the codes that are absolute: a gap of 0 is shut, whoever it is
# A unit is changed by at most so much of each code, pixels of the 128 px crop. Less: few units
# stand for few mouths; more: lips and chin are stretched as they never were.
MOST_PX = 4.0
# Lips may come closer by so much: they slide over the teeth, and nothing is squeezed. Less: a wide
# mouth does not shut in silence; more: lips that were never near each other meet askew.
MOST_SHUT_PX = 8.0
# Shut lips have no teeth between them: a unit that is open less than this share of the wanted
# opening's rise would show a slit. Its opening grows at most by this and half of what it has.
SLIT_PX = 1.0
# The lips' edges from the right corner of the mouth to the left one, of the inner ones those that
# a warp is held by.
CORNERS_INNER = (78, 308)
UPPER_INNER, LOWER_INNER = (80, 82, 13, 312, 310), (88, 87, 14, 317, 318)
LIPS_INNER = (CORNERS_INNER[0], *LOWER_INNER, CORNERS_INNER[1], *reversed(UPPER_INNER))
LOWER_OUTER, UPPER_OUTER = LIPS_OUTER[1:10], LIPS_OUTER[:10:-1]
# How far each of an outer edge goes with each of the inner one.
_FOLLOW = np.array(
    [
        [0.5, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.5, 0.5],
        [0.0, 0.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 0.0, 0.0, 0.5],
    ],
    np.float32,
)
# Of what the lips come closer the lower one goes this share: the upper one hangs from the skull.
LOWER_SHARE = 0.8
# Landmarks lie on the lips' edges more or less, and teeth touch them: lips end so far before.
# Less: white dots between shut lips; more: lips that shut become thin.
RIM_PX = 0.5


@cache
def _model() -> tuple[list[int], F32]:
    with np.load(FILE, allow_pickle=False) as file:
        return file["landmarks"].tolist(), np.asarray(file["moves"], np.float32)


@cache
def _moves_of(indices: tuple[int, ...]) -> F32:
    """The model's rows for some landmarks, f32[codes, N, 2]."""
    known, moves = _model()
    return np.ascontiguousarray(moves[:, [known.index(index) for index in indices]])


def moved_landmarks(change: F32, indices: Sequence[int]) -> F32:
    """Where landmarks go when a mouth's codes change.

    Args:
        change: f32[codes], pixels of the 128 px crop.
        indices: of landmarks, all of them known to the model.

    Returns:
        f32[N, 2], pixels of the crop.
    """
    moves = _moves_of(tuple(indices))
    return np.asarray(change @ moves.reshape(len(moves), -1), np.float32).reshape(-1, 2)


def changed(mouth: F32, change: F32, indices: list[int]) -> F32:
    """Where landmarks are when a mouth's codes have changed, f32[N, 2].

    Args:
        mouth: f32[468, 2], pixels of the 128 px crop.
        change: f32[codes], pixels of it.
        indices: of landmarks, all of them known to the model, the lips' among them.
    """
    moved = mouth.copy()
    moved[indices] += moved_landmarks(change, indices)
    if change[OPENING] < 0:
        gap = float(opening_px(mouth[None])[0])
        share = max(gap + float(change[OPENING]), 0.0) / max(gap, 1e-3)
        moved = drawn_together(moved, mouth, share)
    return np.asarray(moved[indices], np.float32)


def drawn_together(mouth: F32, before: F32, share: float) -> F32:
    """Lips with gaps all along that are a share of what they were, f32[468, 2].

    A linear model of landmarks shuts the middle before the sides, or lets lips cross.

    Args:
        mouth: f32[468, 2], moved by such a model.
        before: f32[468, 2], as they were.
        share: 0 shuts them.
    """
    upper, lower = list(UPPER_INNER), list(LOWER_INNER)
    rims = np.array([0, 2 * RIM_PX], np.float32)
    wanted = np.float32(share) * (before[lower] - before[upper] + rims) - rims
    excess = mouth[lower] - mouth[upper] - wanted
    up, down = np.float32(1 - LOWER_SHARE) * excess, np.float32(-LOWER_SHARE) * excess
    out = mouth.copy()
    out[upper] += up
    out[lower] += down
    out[list(UPPER_OUTER)] += _FOLLOW @ up
    out[list(LOWER_OUTER)] += _FOLLOW @ down
    return out


def allowed_change(asked: F32, shown: F32) -> F32:
    """By how much a unit's codes may be changed towards those that are asked for, f32[codes].

    Args:
        asked: f32[codes], as measured.
        shown: f32[codes], the unit's.
    """
    shut = float(np.clip(1 - asked[OPENING] / SHUT_PX, 0, 1))
    share = np.float32(SHARE + (1 - SHARE) * shut)
    change = np.clip(share * (asked - shown), -MOST_PX, MOST_PX)
    change[OPENINGS] = np.clip(share * (asked - shown)[OPENINGS], -MOST_SHUT_PX, MOST_PX)
    grows = SLIT_PX + 0.5 * float(shown[OPENING])
    if change[OPENING] > grows:  # the lips go apart together, or not at all
        change = change * np.float32(grows / change[OPENING])
    change[OPENING] = max(change[OPENING], -shown[OPENING])
    return np.asarray(change, np.float32)
