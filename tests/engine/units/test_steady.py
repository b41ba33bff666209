"""Codes that tremble are steadied; closures stay, and nothing comes later."""

from __future__ import annotations

import numpy as np
import pytest

from lipwire.engine.types import F32
from lipwire.engine.units.shape import OPENINGS
from lipwire.engine.units.steady import NEAR_S, SHARE, SteadyCodes

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
    assert jerk(asked[:, free]) < 0.5 * jerk(codes[:-4, free])
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


def test_what_lies_on_a_parabola_stays_there() -> None:
    times = np.arange(12, dtype=np.float32)
    codes = np.repeat((0.1 * times**2 - times)[:, None], 7, axis=1)
    assert played(codes) == pytest.approx(codes[:-4], abs=1e-5)


def test_each_goes_towards_the_parabola_through_five() -> None:
    codes = np.zeros((9, 7), np.float32)
    codes[4, WIDTH] = 1.0
    fit = np.array([-3, 12, 17, 12, -3]) / 35
    wanted = SHARE * fit + (1 - SHARE) * np.eye(5)[2]
    assert played(codes, ahead=2)[2:, WIDTH] == pytest.approx(wanted)


def test_what_is_asked_of_the_next_pictures_is_steadied_as_far_as_it_can_be() -> None:
    codes = heard(9)
    steady = SteadyCodes()
    for i in range(2):
        steady.steady(codes[i : i + 5], 0.04 * i)
    told = steady.steady(codes[2:7], 0.08)
    assert told[:3] == pytest.approx(played(codes, ahead=2)[2:5])
    assert (told[3:] == codes[5:7]).all()


def test_what_has_no_neighbours_stays_as_it_was_heard() -> None:
    codes = heard(12)
    first = SteadyCodes()
    assert (first.steady(codes[:1], 0.0) == codes[:1]).all()
    assert (first.steady(codes[1:6], 0.04)[0] == codes[1]).all()  # one neighbour before
    late = SteadyCodes()
    for i in range(2):
        late.steady(codes[i : i + 5], 0.04 * i)
    asked = late.steady(codes[2:7], 0.04 + NEAR_S + 0.01)  # pictures were left out
    assert (asked[0] == codes[2]).all()
    unknown = SteadyCodes()
    for i in range(4):  # nothing is known of the next but one
        assert (unknown.steady(codes[i : i + 2], 0.04 * i) == codes[i : i + 2]).all()


def test_what_is_given_is_not_written_to() -> None:
    codes, steady = heard(6), SteadyCodes()
    before = codes.copy()
    steady.steady(codes[:5], 0.0)
    steady.steady(codes[1:6], 0.04)
    assert (codes == before).all()
