"""Codes that tremble are steadied; closures stay, and nothing comes later."""

from __future__ import annotations

import numpy as np
import pytest

from lipwire.engine.types import F32
from lipwire.engine.units.shape import OPENINGS
from lipwire.engine.units.steady import NEAR_S, SIDE, SteadyCodes

WIDTH = 2  # a code that is no opening


def heard(frames: int, seed: int = 0) -> F32:
    """A slow movement and what hearing adds, f32[N, 7]."""
    rng, times = np.random.default_rng(seed), np.arange(frames) / 25
    slow = np.sin(2 * np.pi * 2.0 * times)[:, None] * np.ones(7)
    return (slow + rng.normal(0, 0.3, (frames, 7))).astype(np.float32)


def played(codes: F32, ahead: int = 4) -> F32:
    """What is asked of each picture when so many of the next are known."""
    steady = SteadyCodes()
    rows = [steady.steady(codes[i : i + 1 + ahead], 0.04 * i)[0] for i in range(len(codes) - ahead)]
    return np.stack(rows)


def jerk(codes: F32) -> float:
    return float(np.abs(np.diff(codes, 3, axis=0)).mean())


def test_trembling_is_less_and_the_movement_stays_where_it_was() -> None:
    codes = heard(400)
    asked = played(codes)
    free = [k for k in range(7) if k not in range(*OPENINGS.indices(7))]
    assert jerk(asked[:, free]) < 0.75 * jerk(codes[:-4, free])
    slow = np.sin(2 * np.pi * 2.0 * np.arange(len(asked)) / 25)
    lags = [np.corrcoef(slow[5:-5], np.roll(asked[:, WIDTH], k)[5:-5])[0, 1] for k in (-1, 0, 1)]
    assert int(np.argmax(lags)) == 1


def test_lips_are_never_further_open_than_was_heard() -> None:
    codes = heard(200, seed=1)
    asked = played(codes)
    assert (asked[:, OPENINGS] <= codes[:-4, OPENINGS] + 1e-6).all()
    shut = np.full((9, 7), 1.0, np.float32)
    shut[4] = -2.0  # a p between vowels
    assert played(shut)[4, 0] == pytest.approx(-2.0)


def test_each_takes_a_tenth_of_both_neighbours() -> None:
    codes = np.zeros((6, 7), np.float32)
    codes[2, WIDTH] = 1.0
    assert played(codes)[:, WIDTH] == pytest.approx([0.0, SIDE])
    assert played(codes, ahead=2)[:, WIDTH] == pytest.approx([0.0, SIDE, 1 - 2 * SIDE, SIDE])


def test_what_has_no_neighbours_stays_as_it_was_heard() -> None:
    codes = heard(8)
    first = SteadyCodes().steady(codes[:3], 0.0)
    assert (first == codes[:3]).all()
    late = SteadyCodes()
    late.steady(codes[:3], 0.0)
    assert (late.steady(codes[3:6], NEAR_S + 0.01) == codes[3:6]).all()  # pictures were left out
    unknown = SteadyCodes()
    unknown.steady(codes[:1], 0.0)
    assert (unknown.steady(codes[1:2], 0.04) == codes[1:2]).all()  # nothing is known of the next


def test_what_is_given_is_not_written_to() -> None:
    codes, steady = heard(6), SteadyCodes()
    before = codes.copy()
    steady.steady(codes[:5], 0.0)
    steady.steady(codes[1:6], 0.04)
    assert (codes == before).all()
