"""The rungs of the overload ladder."""

from __future__ import annotations

from lipwire.engine.overload.levels import RUNGS, make_rungs

OFFERED = (1, 2, 4, 8)


def names(steps: int, offered: tuple[int, ...] | None = OFFERED) -> list[tuple[str, int, int]]:
    return [(rung.name, rung.steps, rung.every) for rung in make_rungs(steps, offered)]


def test_the_rungs_go_down_by_what_the_model_offers() -> None:
    assert names(8) == [
        ("full", 8, 1),
        ("fewer", 4, 1),
        ("fewer", 2, 1),
        ("one", 1, 1),
        ("half", 1, 2),
        ("none", 1, 0),
    ]
    assert names(2, (1, 2, 25)) == [("full", 2, 1), ("one", 1, 1), ("half", 1, 2), ("none", 1, 0)]
    assert names(1) == [("full", 1, 1), ("half", 1, 2), ("none", 1, 0)]
    assert names(4, (2, 4)) == [("full", 4, 1), ("fewer", 2, 1), ("half", 2, 2), ("none", 2, 0)]
    assert [steps for _, steps, _ in names(5, None)] == [5, 2, 1, 1, 1]
    assert {name for name, *_ in names(25, (1, 2, 25))} == set(RUNGS)
