"""Selection: the cheapest sequence of mouths, and what a session is given of it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mouths import STATS, unit

from lipwire.engine.types import F32
from lipwire.engine.units.selection import Selector, best_path
from lipwire.engine.units.usual import OPENINGS, SHUT_MORE_PX


@given(
    steps=st.integers(1, 4),
    units=st.integers(1, 5),
    seed=st.integers(0, 2**20),
    previous=st.booleans(),
)
def test_it_is_the_cheapest_of_all_sequences(
    steps: int, units: int, seed: int, previous: bool
) -> None:
    random = np.random.default_rng(seed)
    targets = random.random((steps, units)).astype(np.float32)
    joins = random.random((units, units)).astype(np.float32)
    before = int(random.integers(units)) if previous else None

    def cost(path: tuple[int, ...]) -> float:
        whole = sum(float(targets[k, n]) for k, n in enumerate(path))
        whole += sum(float(joins[m, n]) for m, n in itertools.pairwise(path))
        return whole + (float(joins[before, path[0]]) if before is not None else 0.0)

    path, found = best_path(targets, joins, before)
    least = min(cost(p) for p in itertools.product(range(units), repeat=steps))
    assert found == pytest.approx(least, abs=1e-5)
    assert cost(tuple(path)) == pytest.approx(least, abs=1e-5)


def wanted(selector: Selector, *openings_px: float) -> F32:
    """Codes that ask for such mouths once they are as expressive as people are."""
    codes = np.stack([unit(opening).codes for opening in openings_px]) - selector.bank.usual.median
    codes[:, OPENINGS] += SHUT_MORE_PX
    return (codes - np.array(STATS.mean)) / np.array(STATS.spread) / STATS.expression


def knowing(openings_px: list[float]) -> Selector:
    selector = Selector(STATS, typical_px=5.0)
    for index, opening in enumerate(openings_px):
        made = unit(opening, index / 25)
        selector.bank.usual.update(made.codes)
        selector.bank.add(made)
    return selector


def test_the_mouth_that_is_asked_for_is_shown() -> None:
    selector = knowing([float(i % 10) for i in range(30)])
    look = selector.bank.units[0].look
    for opening in (1.0, 5.0, 9.0):
        selector.pause()
        found = selector.choose(wanted(selector, opening), look, 60.0)
        assert found is not None
        assert float(found.unit.codes[0]) == pytest.approx(opening, abs=0.8)
        shown = found.unit.codes + found.change
        assert float(shown[0]) == pytest.approx(float(unit(opening).codes[0]), abs=0.25)


def test_a_movement_is_taken_as_it_was_in_life() -> None:
    speech = [0, 2, 5, 8, 6, 3, 1, 0, 4, 9, 7, 2]
    selector = knowing([*speech, *[float(i % 4) for i in range(20)]])
    look = selector.bank.units[0].look
    times = []
    for index in range(len(speech)):
        found = selector.choose(wanted(selector, *speech[index : index + 3]), look, 60 + index / 25)
        assert found is not None
        times.append(round(found.unit.time_s * 25))
    assert times == list(range(len(speech)))


def test_equal_calls_are_shown_equal_mouths() -> None:
    random = np.random.default_rng(3)
    asked = random.normal(size=(20, 5, 7)).astype(np.float32)
    told = []
    for _ in range(2):
        selector = knowing([float(i * 7 % 11) for i in range(40)])
        look = selector.bank.units[0].look
        units = [selector.choose(codes, look, 60 + i / 25) for i, codes in enumerate(asked)]
        told.append([u.unit.time_s if u is not None else None for u in units])
    assert told[0] == told[1]


def test_a_pose_that_no_unit_has_is_left_to_the_model_until_one_resembles_it() -> None:
    selector = knowing([float(i % 10) for i in range(30)])
    look = selector.bank.units[0].look
    other = np.roll(look, len(look) // 2)
    other -= look * float(other @ look)
    other /= np.linalg.norm(other)
    assert float(look @ other) == pytest.approx(0, abs=1e-5)
    between = np.float32(0.56) * look + np.float32(np.sqrt(1 - 0.56**2)) * other
    alike = []
    for seen in (between, other, between, look):  # no flicker between the second and the third
        found = selector.choose(wanted(selector, 5.0), seen, 60.0)
        assert found is not None
        alike.append(found.alike)
    assert alike == [True, False, False, True]


def test_the_mouths_of_this_moment_are_not_chosen() -> None:
    selector = knowing([float(i % 10) for i in range(8)])  # all within 0.4 s
    look = selector.bank.units[0].look
    assert selector.choose(wanted(selector, 5.0), look, 0.2) is None
    assert selector.choose(wanted(selector, 5.0), look, 60.0) is not None


def test_an_empty_bank_chooses_nothing() -> None:
    selector = Selector(STATS, typical_px=5.0)
    assert not selector.ready()
    assert selector.choose(np.zeros((1, 7), np.float32), np.zeros(264, np.float32), 0.0) is None


def test_lips_that_shall_be_shut_come_from_where_they_were() -> None:
    """A mouth of another pose that is shut is better than one of this pose that is moved shut."""
    selector = knowing([2.0 + i % 8 for i in range(24)])
    look = selector.bank.units[0].look
    shut = unit(0.0, 2.0)
    tilted = look + 0.55 * np.random.default_rng(0).normal(size=len(look)) / len(look) ** 0.5
    selector.bank.add(replace(shut, look=np.float32(tilted / np.linalg.norm(tilted))))
    for ahead in (1, 5):
        found = selector.choose(wanted(selector, *[0.0] * ahead), look, 60.0)
        assert found is not None and found.unit.time_s == 2.0
        assert found.codes[0] == pytest.approx(0.0, abs=1e-5)


def test_shut_lips_of_this_very_moment_may_be_shut_again_and_no_other_mouth_shown() -> None:
    selector = knowing([0.0, 5.0, 0.0, 7.0])
    look = selector.bank.units[0].look
    assert selector.choose(wanted(selector, 5.0), look, 0.1) is None  # all of them are of now
    found = selector.choose(wanted(selector, 0.0), look, 0.1)
    assert found is not None and found.unit.codes[0] < 1
