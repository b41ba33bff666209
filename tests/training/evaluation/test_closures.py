"""Closures: which lips meet within speech, and how many of them are shown."""

from __future__ import annotations

import numpy as np

from lipwire.training.evaluation.closures import (
    Closures,
    closures,
    count_closures,
    shares,
    shown_within_a_frame,
)


def test_closures_are_those_between_open_mouths() -> None:
    opening = np.array([0, 0, 1, 1, 0.1, 0, 1, 1, 0.4, 1, 0, 0, 0], np.float32)
    assert closures(opening) == [(4, 5)], "neither before speech nor after it, nor one half shut"
    assert closures(np.concatenate([[1], np.zeros(30), [1]]).astype(np.float32)) == [], "a pause"
    late = np.roll(opening, 1)
    assert shown_within_a_frame([(4, 5)], late) == 1
    assert shown_within_a_frame([(4, 5)], np.ones(13, np.float32)) == 0


def test_closures_are_counted_both_ways() -> None:
    wanted = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 1], np.float32)
    found = np.array([1, 0, 1, 1, 1, 0, 1, 1, 1, 1], np.float32)
    assert count_closures(found, wanted) == Closures(there=2, shown=1, said=2, right=1)
    assert count_closures(wanted, wanted) == Closures(2, 2, 2, 2)


def test_frames_without_a_face_neither_open_nor_shut_lips() -> None:
    wanted = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 1], np.float32)
    gap = np.where(np.arange(10) == 7, np.nan, wanted).astype(np.float32)
    assert count_closures(gap, wanted) == Closures(2, 1, 1, 1)
    nothing = np.full(10, np.nan, np.float32)
    assert count_closures(nothing, wanted) == Closures(2, 0, 0, 0)


def test_shares_are_of_all_closures_and_drawn_over_speakers() -> None:
    told = shares([Closures(4, 4, 2, 1), Closures(4, 0, 2, 2)], ["ann", "ben"])
    assert told["closures"] == [0.5, 0.0, 1.0] and told["false"] == [0.25, 0.0, 0.5]
    assert (told["of_closures"], told["of_shown"]) == (8, 4)
    assert shares([Closures(0, 0, 0, 0)], ["ann"])["closures"] == [None, None, None]
