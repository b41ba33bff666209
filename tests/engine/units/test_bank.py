"""MouthBank: what is kept, what goes, and when it can speak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mouths import STATS, unit

from lipwire.engine.units.bank import LEAST_UNITS, MouthBank
from lipwire.engine.units.usual import OPENINGS, SHUT_MORE_PX


def filled(openings: list[float], capacity: int = 200, period_s: float = 0.04) -> MouthBank:
    bank = MouthBank(STATS, capacity)
    for index, opening in enumerate(openings):
        made = unit(opening, index * period_s)
        bank.usual.update(made.codes)
        bank.add(made)
    return bank


def openings(bank: MouthBank) -> list[float]:
    return sorted(round(float(u.codes[0]), 1) for u in bank.units)


def test_a_newcomer_replaces_what_it_resembles_most() -> None:
    bank = filled([8, 4, 0], capacity=3)
    assert bank.add(unit(7.6, 0.12))
    found = openings(bank)
    assert len(found) == 3 and found[0] == pytest.approx(0, abs=0.3)
    assert found[-1] == pytest.approx(7.6, abs=0.4)


def test_rare_mouths_stay_however_long_one_is_shut() -> None:
    bank = filled([0, 10] + [0.1 * (i % 3) for i in range(60)], capacity=8)
    assert len(bank) == 8
    assert max(openings(bank)) == pytest.approx(10, abs=0.5)


def test_a_full_bank_takes_stray_frames_only_where_nothing_is_like_them() -> None:
    bank = filled([0, 1, 2, 3], capacity=4)
    assert not bank.add(unit(2.0, 60.0))
    assert bank.add(unit(12.0, 120.0))


def test_units_follow_each_other_as_they_did_in_life() -> None:
    bank = filled([0, 6, 1, 7])
    joins = bank.joins()
    assert [joins[i, i + 1] for i in range(3)] == [0, 0, 0]
    assert joins[1, 0] > 0 and joins[0, 3] > 0
    apart = filled([0, 6, 1, 7], period_s=0.5)
    assert apart.joins()[0, 1] > 0


def test_a_replaced_unit_follows_nothing_any_more() -> None:
    bank = filled([0, 6, 12], capacity=3)
    bank.add(unit(6.1, 0.12))  # in place of the second
    joins = bank.joins()
    assert joins[0, 1] > 0 and joins[1, 2] > 0
    assert joins[2, 1] == 0  # it came after the third


@pytest.mark.parametrize("change", ["yawn", "blurred", "lost"])
def test_what_is_not_fit_to_be_shown_is_not_taken(change: str) -> None:
    bank = filled([i % 10 for i in range(LEAST_UNITS)])
    good = unit(5.0, 9.0)
    codes = good.codes.copy()
    codes[0] = 20 if change == "yawn" else np.nan
    bad = {
        "yawn": replace(good, codes=codes),
        "blurred": replace(good, detail=0.3 * good.detail),
        "lost": replace(good, codes=codes),
    }[change]
    assert not bank.add(bad)
    assert bank.add(good)


def test_it_speaks_once_its_mouths_range_as_far_as_the_person_s() -> None:
    shut = filled([0.1 * (i % 5) for i in range(30)])
    assert not shut.ready(6.0)
    few = filled([0, 9, 0, 9])
    assert not few.ready(6.0)
    bank = filled([i % 10 for i in range(30)])
    assert bank.ready(6.0)
    for index in range(300):  # and goes on speaking
        bank.add(unit(0.1 * (index % 3), 10 + index / 25))
    assert bank.ready(6.0) and bank.coverage.ready


def test_memory_is_bounded_and_told() -> None:
    bank = filled([float(i % 12) for i in range(40)], capacity=10)
    assert len(bank) == 10
    held = sum(u.nbytes for u in bank.units) / 2**20
    assert bank.coverage.mib == pytest.approx(held)
    assert sum(bank.coverage.openings) == bank.coverage.units == 10


def test_clearing_forgets_the_person() -> None:
    bank = filled([float(i % 10) for i in range(30)])
    bank.ready(6.0)
    bank.clear()
    assert len(bank) == 0 and not bank.ready(0.1)
    assert bank.coverage.mib == 0 and (bank.usual.median == 0).all()


def test_codes_count_from_the_person_s_usual_mouth() -> None:
    bank = filled([2.0] * 20)
    wanted = np.zeros((1, 7), np.float32)
    # The opening of all its units, else as usual.
    wanted[0, OPENINGS] = (2.0 + SHUT_MORE_PX - 4.0) / 3.0 / STATS.expression
    cost = bank.costs(wanted, bank.units[0].look)
    assert float(cost.max()) == pytest.approx(0, abs=0.05)


def test_mouths_of_the_picture_itself_are_never_the_cheapest() -> None:
    bank = filled([0, 2, 4, 6])
    wanted = np.zeros((2, 7), np.float32)
    look = bank.units[0].look
    free = bank.costs(wanted, look)
    barred = bank.costs(wanted, look, (0.03, 0.09))
    assert (barred[:, [1, 2]] > 1e5).all() and (barred[:, [0, 3]] == free[:, [0, 3]]).all()
