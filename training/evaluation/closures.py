"""Closures: where lips meet within speech, and how many of a person's are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lipwire.engine.types import F32, F64
from lipwire.training.evaluation.measures import over_speakers
from lipwire.training.lite.lips import SHUT

# Openings are in the person's own spreads, from the least one on. A closure lies between mouths
# that are open, at most so many frames away, and lasts no longer than a word's.
OPEN, NEAR, LONGEST = 0.6, 10, 8


class Closures(NamedTuple):
    """Of one film, counted."""

    there: int
    """closures of the person's"""
    shown: int
    """of those, shown within a frame"""
    said: int
    """closures that are shown"""
    right: int
    """of those, within a frame of shut lips of the person's"""


def closures(opening: F32) -> list[tuple[int, int]]:
    """First and last frame of each closure within speech, of f32[T] in spreads."""
    shut = np.flatnonzero(opening < SHUT)
    runs = np.split(shut, np.flatnonzero(np.diff(shut) > 1) + 1) if len(shut) else []
    found = []
    for run in runs:
        first, last = int(run[0]), int(run[-1])
        before, after = opening[max(0, first - NEAR) : first], opening[last + 1 :][:NEAR]
        opens = all(len(side) and side.max() > OPEN for side in (before, after))
        if opens and last - first < LONGEST:
            found.append((first, last))
    return found


def shown_within_a_frame(closures: Sequence[tuple[int, int]], opening: F32) -> int:
    """How many closures have a shut mouth in `opening`, f32[T], at most a frame beside them."""
    return sum(bool(opening[max(0, a - 1) : b + 2].min() < SHUT) for a, b in closures)


def count_closures(found: F32, wanted: F32) -> Closures:
    """What is shown against the person's, f32[T] each; frames that are NaN are bridged."""
    found, wanted = (_bridged(opening) for opening in (found, wanted))
    true, shown = closures(wanted), closures(found)
    return Closures(
        len(true),
        shown_within_a_frame(true, found),
        len(shown),
        shown_within_a_frame(shown, wanted),
    )


def _bridged(opening: F32) -> F32:
    known = np.flatnonzero(np.isfinite(opening))
    if not len(known):
        return np.full(len(opening), OPEN, np.float32)  # nothing opens or shuts
    return np.interp(np.arange(len(opening)), known, opening[known]).astype(np.float32)


def shares(counted: Sequence[Closures], speakers: Sequence[str]) -> dict[str, Any]:
    """Share of closures shown and share of those shown that are none, with 95 % over speakers."""
    there, shown, said, right = np.array(counted, np.float64).reshape(-1, 4).T

    def share(part: F64, whole: F64) -> float:
        return float(part.sum() / whole.sum()) if whole.sum() else float("nan")

    return {
        "closures": over_speakers(lambda rows: share(shown[rows], there[rows]), speakers),
        "of_closures": int(there.sum()),
        "false": over_speakers(lambda rows: 1 - share(right[rows], said[rows]), speakers),
        "of_shown": int(said.sum()),
    }
