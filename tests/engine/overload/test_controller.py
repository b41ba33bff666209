"""One overload ladder, step by step; several that share devices are in test_load_tracker.py."""

from __future__ import annotations

import itertools

import pytest

from lipwire.engine.config import EngineConfig
from lipwire.engine.overload.controller import QualityController
from lipwire.engine.overload.levels import FrameAction, Reason, make_rungs
from lipwire.engine.overload.load_tracker import LoadTracker
from lipwire.engine.overload.tuning import (
    AGAIN_FIRST_S,
    CLIMB_S,
    FULL,
    PROBE_S,
    RECENT_S,
    SPARED,
    TRY_S,
)

OFFERED = (1, 2, 4, 8)
PATIENCE_S = EngineConfig().patience_s
DELAY_S = EngineConfig().longest_delay_s  # until it should be ready
PERIOD_S = 0.04


class Walk:
    """A ladder whose frames come one after another, and whatever the test wants becomes of them."""

    def __init__(self, steps: int = 2, offered: tuple[int, ...] = OFFERED, **options: bool) -> None:
        self.load = LoadTracker()
        self.ladder = QualityController(
            "walk",
            steps,
            offered,
            delay_s=DELAY_S,
            patience_s=PATIENCE_S,
            load=self.load,
            **options,
        )
        self.now, self.index = 0.0, -1

    def frame(self, step_s: float, around_s: float = 0.01) -> FrameAction:
        """A frame whose batch takes `step_s` for each step and the encoding."""
        self.now += PERIOD_S
        self.index += 1
        self.ladder.pushed(self.now)
        action = self.ladder.action(self.index, self.now)
        if action in (FrameAction.GENERATE, FrameAction.PROBE):
            steps = self.ladder.rung.steps
            took_s = step_s * (steps + 1)
            self.ladder.record_generated(
                self.index,
                steps,
                around_s + took_s,
                self.now + around_s + took_s,
                took_s=took_s,
                shown=action is FrameAction.GENERATE,
            )
        return action

    def frames(self, seconds: float, step_s: float, around_s: float = 0.01) -> list[FrameAction]:
        return [self.frame(step_s, around_s) for _ in range(round(seconds / PERIOD_S))]

    def miss(self) -> None:
        """A frame that a newer one replaced."""
        self.now += PERIOD_S
        self.index += 1
        self.ladder.pushed(self.now)
        self.ladder.record_miss(self.index, self.now)

    @property
    def path(self) -> list[tuple[str, str]]:
        return [(change.before.name, change.after.name) for change in self.ladder.changes]


def test_frames_that_take_no_device_s_time_end_what_was_learned_under_load() -> None:
    walk = Walk()
    for index in range(12):
        walk.ladder.pushed(index * PERIOD_S)
        walk.ladder.action(index, index * PERIOD_S)
        walk.ladder.record_miss(index, index * PERIOD_S)
    assert walk.ladder.rung.name != "full"
    for index in range(SPARED - 1):
        walk.ladder.spared(1.0 + index * PERIOD_S)
    assert walk.ladder.rung.name != "full"
    walk.ladder.spared(2.0)
    assert walk.ladder.rung.name == "full" and walk.ladder.reason == Reason.ROOM


def test_frames_in_time_change_nothing() -> None:
    walk = Walk()
    assert walk.frames(10, 0.008) == [FrameAction.GENERATE] * 250
    assert walk.ladder.rung.name == "full" and walk.ladder.reason == ""
    assert walk.ladder.count() == 0


def test_a_few_misses_in_a_row_go_down_and_single_ones_do_not() -> None:
    walk = Walk()
    for _ in range(20):
        walk.miss()
        walk.frames(0.4, 0.008)
    assert walk.ladder.rung.name == "full"
    for _ in range(int(FULL)):
        walk.miss()
    assert walk.path == [("full", "one")]
    assert walk.ladder.reason == Reason.LATE


def test_one_late_frame_in_five_goes_down_too() -> None:
    walk = Walk()
    for _ in range(20):
        walk.miss()
        walk.frames(4 * PERIOD_S, 0.008)
        if walk.path:
            break
    assert walk.path == [("full", "one")]


def test_the_way_down_leads_to_the_first_rung_that_will_do() -> None:
    slow_s = 0.035  # 105 ms at two steps, 70 ms at one: too much for 25 a second, not for 12
    walk = Walk()
    walk.frames(1, 0.008)
    walk.frames(0.4, slow_s)
    assert walk.path == [("full", "half")]
    turns = walk.frames(4, slow_s)
    assert set(turns) == {FrameAction.GENERATE, FrameAction.HOLD}
    assert turns.count(FrameAction.GENERATE) == pytest.approx(len(turns) / 2, abs=1)
    assert walk.path == [("full", "half")]
    walk.frames(1, 0.2)
    assert walk.path == [("full", "half"), ("half", "none")]


def test_the_lowest_rung_paints_only_to_measure() -> None:
    walk = Walk()
    walk.frames(1, 0.008)
    walk.frames(2, 0.3)
    assert walk.ladder.rung.name == "none"
    turns = walk.frames(10, 0.3)
    assert set(turns) == {FrameAction.PASS, FrameAction.PROBE}
    assert turns.count(FrameAction.PROBE) == pytest.approx(10 / PROBE_S, rel=0.2)
    assert walk.ladder.rung.name == "none"
    walk.miss()  # nothing is missed where nothing is painted
    assert walk.ladder.rung.name == "none"


def test_every_rung_is_climbed_when_the_load_ends_and_soon() -> None:
    walk = Walk(8)
    walk.frames(4, 0.004)  # 36 of 40 ms: more than would be risked, were it not known to go well
    walk.frames(6, 0.1)
    assert walk.ladder.rung.name == "none"
    down = walk.ladder.count()
    ended_s = walk.now
    while walk.ladder.rung.name != "full" and walk.now < ended_s + 10:
        walk.frame(0.004)
    assert walk.now - ended_s <= 3.0
    climbs = list(walk.ladder.changes)[down:]
    assert [change.after.steps for change in climbs] == [1, 1, 2, 4, 8]
    assert [change.after.name for change in climbs] == ["half", "one", "fewer", "fewer", "full"]
    assert {change.reason for change in climbs} == {Reason.ROOM}
    assert all(b.at_s - a.at_s >= CLIMB_S for a, b in itertools.pairwise(climbs))


def test_no_climb_where_the_next_rung_would_not_fit() -> None:
    walk = Walk()
    walk.frames(1, 0.008)
    walk.frames(
        60, 0.036, around_s=0.005
    )  # one step takes 72 ms of every 40: nothing to be unsure of
    assert walk.path == [("full", "half")]


def test_a_forecast_that_may_be_wrong_is_tried_now_and_then() -> None:
    """The next rung should need a little too much, and does: tries become rare."""
    walk = Walk()
    walk.frames(1, 0.008)
    walk.frames(120, 0.0275)  # 55 ms at one step, at half the rate
    tries = [change.at_s for change in walk.ladder.changes if change.reason is Reason.TRY]
    waits = [b - a for a, b in itertools.pairwise(tries)]
    assert 1 <= len(tries) <= 4
    assert all(later > sooner for sooner, later in itertools.pairwise(waits))


def test_a_forecast_that_was_wrong_is_found_out() -> None:
    """Encoding is nearly all: two steps cost hardly more than one."""
    walk = Walk()
    walk.frames(1, 0.008)
    for _ in range(int(FULL)):
        walk.miss()
    assert walk.ladder.rung.name == "one"
    for _ in range(round((TRY_S + 5) / PERIOD_S)):
        walk.frame(0.034 / (walk.ladder.rung.steps + 1))
    assert walk.path[-1] == ("one", "full") and walk.ladder.count() <= 4
    walk.frames(20, 0.034 / 3)
    assert walk.ladder.rung.name == "full"


def test_a_climb_that_fails_waits_longer_each_time() -> None:
    """Frames are missed at two steps for a cause that no measurement shows."""
    walk = Walk()
    walk.frames(1, 0.005)
    while walk.now < 60:
        if walk.ladder.rung.name == "full":
            walk.miss()
        else:
            walk.frame(0.005)
    climbs = [change.at_s for change in walk.ladder.changes if change.reason is Reason.ROOM]
    waits = [b - a for a, b in itertools.pairwise(climbs)]
    assert waits[0] >= AGAIN_FIRST_S and len(climbs) <= 5
    assert all(later > 1.8 * sooner for sooner, later in itertools.pairwise(waits))


def test_a_failed_climb_is_forgotten_when_the_device_becomes_faster() -> None:
    walk = Walk()
    walk.frames(1, 0.01)
    for _ in range(3):  # twice wrong: the next try would be ten seconds away
        while walk.ladder.rung.name == "full":
            walk.miss()
        climbing = walk.now
        while walk.ladder.rung.name != "full" and walk.now < climbing + 30:
            walk.frame(0.01)
    while walk.ladder.rung.name == "full":
        walk.miss()
    walk.frames(3, 0.01)
    assert walk.ladder.rung.name == "one"
    walk.frames(RECENT_S + CLIMB_S, 0.004)
    assert walk.ladder.rung.name == "full"


def test_a_fixed_ladder_never_moves() -> None:
    walk = Walk(fixed=True)
    walk.frames(2, 0.3)
    for _ in range(20):
        walk.miss()
    assert walk.ladder.rung.name == "full" and walk.ladder.count() == 0
    assert walk.frame(0.3) is FrameAction.GENERATE


def test_jobs_of_the_rung_before_do_not_count() -> None:
    walk = Walk()
    walk.frames(1, 0.008)
    for _ in range(int(FULL)):
        walk.miss()
    assert walk.ladder.rung.name == "one"
    for index in range(walk.index - 3, walk.index + 1):  # they come back late
        walk.ladder.record_generated(index, 2, 0.2, walk.now + 0.01)
    walk.frames(0.2, 0.008)
    assert walk.ladder.rung.name == "one" and walk.ladder.count() == 1


def test_the_first_mouth_that_is_held_is_painted_on_that_rung() -> None:
    """One from before was painted for its own picture alone: held, it would be late."""
    walk = Walk()
    walk.frames(1, 0.008)
    assert walk.ladder.stands_s == pytest.approx(PERIOD_S)
    while walk.ladder.rung.name != "half":
        assert walk.frame(0.06) is FrameAction.GENERATE
    assert walk.ladder.stands_s == pytest.approx(2 * PERIOD_S)
    assert walk.frames(4 * PERIOD_S, 0.06) == [FrameAction.GENERATE, FrameAction.HOLD] * 2


def test_the_user_sets_the_top() -> None:
    walk = Walk(8)
    walk.ladder.set_top(4, OFFERED)
    assert walk.ladder.rung == make_rungs(4, OFFERED)[0] and walk.ladder.count() == 0
    for _ in range(int(FULL)):
        walk.miss()
    assert (walk.ladder.rung.name, walk.ladder.rung.steps) == ("fewer", 2)
    walk.ladder.set_top(8, OFFERED)  # it stays where it is
    assert (walk.ladder.rung.name, walk.ladder.rung.steps) == ("fewer", 2)
    walk.ladder.set_top(2, OFFERED)  # which is now all that is asked for
    assert (walk.ladder.rung.name, walk.ladder.rung.steps) == ("full", 2)
    assert walk.path[-1] == ("fewer", "full") and walk.ladder.reason == Reason.ASKED
    walk.frames(1, 0.008)
    walk.frames(2, 0.3)
    assert walk.ladder.rung.name == "none"
    walk.ladder.set_top(4, OFFERED)
    assert walk.ladder.rung.name == "none"
    walk.ladder.set_top(4, (2, 4))  # another model
    assert (walk.ladder.rung.name, walk.ladder.rung.steps) == ("none", 2)


def test_changes_are_numbered_and_counted() -> None:
    walk = Walk()
    walk.frames(1, 0.008)
    walk.frames(3, 0.3)
    walk.frames(5, 0.008)
    ladder = walk.ladder
    assert [change.number for change in ladder.changes] == list(range(1, ladder.count() + 1))
    assert ladder.since(0) == list(ladder.changes) and ladder.since(ladder.count()) == []
    assert ladder.transitions["one", "full"] == 1 and ladder.count() == sum(
        ladder.transitions.values()
    )
