"""Sessions that share devices: what each sees of the others, and their ladders, simulated."""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from lipwire.engine.config import EngineConfig
from lipwire.engine.overload.controller import QualityController
from lipwire.engine.overload.levels import FrameAction
from lipwire.engine.overload.load_tracker import WINDOW_S, LoadTracker
from lipwire.engine.runtime.batcher import Batcher, QueuedJob
from lipwire.engine.runtime.device_profile import DeviceProfile

OFFERED = (1, 2, 4, 8)
PATIENCE_S = EngineConfig().patience_s
DELAY_S = EngineConfig().longest_delay_s  # until it should be ready
PERIOD_S = 0.04


def test_a_load_shows_each_what_the_others_use() -> None:
    load = LoadTracker()
    load.worked("a", 0.2, 10.0)
    load.worked("b", 0.1, 10.1)
    assert load.others("a", 10.2) == (pytest.approx(0.1 / WINDOW_S), 1)
    assert load.others("b", 10.2) == (pytest.approx(0.2 / WINDOW_S), 1)
    load.promise("b", 0.3, 10.2)
    assert load.others("a", 10.2) == (pytest.approx(0.1 / WINDOW_S + 0.3), 1)
    assert load.others("b", 10.2) == (pytest.approx(0.2 / WINDOW_S), 1)
    assert load.others("c", 10.2) == (pytest.approx(0.3 / WINDOW_S + 0.3), 2)
    assert load.others("a", 10.3 + WINDOW_S) == (pytest.approx(0), 0)


# --- simulated: the batching policy, devices, sessions ---

PREPARE_S, COMPOSITE_S = 0.008, 0.004


class Street:
    """Sessions on devices in virtual time.

    Args:
        sessions: how many, at 25 frames a second each, at random phases.
        cost: seconds of a batch, by steps, size and time.
        steps: asked for.
        devices: how many.
        seed: of phases and noise.
    """

    def __init__(
        self,
        sessions: int,
        cost: Callable[[int, int, float], float],
        steps: int = 2,
        devices: int = 1,
        seed: int = 0,
        sizes: tuple[int, ...] = (1, 2, 4),
    ) -> None:
        self.random = random.Random(seed)
        self.cost = cost
        self.profiles = [DeviceProfile(str(k), sizes) for k in range(devices)]
        for profile in self.profiles:
            for size in sizes:
                profile.times.record(steps, size, cost(steps, size, 0.0), 0.0)
        self.batcher = Batcher(self.profiles)
        self.batcher.tail_s = COMPOSITE_S
        self.load = LoadTracker(devices)
        self.ladders = [
            QualityController(
                str(k), steps, OFFERED, delay_s=DELAY_S, patience_s=PATIENCE_S, load=self.load
            )
            for k in range(sessions)
        ]
        self.painted: list[tuple[float, int, float]] = []
        """of frames that were shown painted: when pushed, whose, how late"""
        self.pushed: list[tuple[float, int]] = []
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._slots: dict[int, tuple[int, float]] = {}  # waiting frame, when pushed
        self._busy: set[int] = set()  # sessions whose frame is being prepared
        self._phases = [self.random.uniform(0, PERIOD_S) for _ in self.ladders]

    def at(self, time_s: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), what))

    def run(self, seconds: float) -> Street:
        for who, phase_s in enumerate(self._phases):
            for index in range(int(seconds / PERIOD_S)):
                pushed_s = phase_s + index * PERIOD_S + abs(self.random.gauss(0, 0.002))
                self.at(pushed_s, lambda t, w=who, i=index: self._push(t, w, i))  # type: ignore[misc]
        while self._events:
            now, _, what = heapq.heappop(self._events)
            what(now)
            self._work(now)
        return self

    def _push(self, now: float, who: int, index: int) -> None:
        self.pushed.append((now, who))
        self.ladders[who].pushed(now)
        if who in self._slots:
            self.ladders[who].record_miss(self._slots[who][0], now)
        self._slots[who] = index, now

    def _work(self, now: float) -> None:
        for who in sorted(self._slots.keys() - self._busy, key=lambda w: self._slots[w][1]):
            index, pushed_s = self._slots[who]
            steps = self.ladders[who].rung.steps
            if not self.batcher.admits(steps, pushed_s + DELAY_S + PATIENCE_S, now):
                continue
            del self._slots[who]
            action = self.ladders[who].action(index, now)
            if action in (FrameAction.PASS, FrameAction.HOLD):
                continue
            self._busy.add(who)
            expires_s = pushed_s + DELAY_S + PATIENCE_S
            queued_job = QueuedJob(
                str(who), steps, pushed_s + DELAY_S, expires_s, job=(index, action)
            )
            self.at(now + PREPARE_S, lambda t, w=who, k=queued_job: self._put(t, w, k))  # type: ignore[misc]
        for queued_job in self.batcher.expire(now):
            index, action = queued_job.job
            if action is FrameAction.GENERATE:
                self.ladders[int(queued_job.source)].record_miss(index, now)
        for profile in self.profiles:
            pull = self.batcher.pull(profile, now)
            if pull.batch:
                size = profile.padded(len(pull.batch))
                took_s = self.cost(pull.batch[0].steps, size, now) * self.random.gauss(1, 0.05)
                self.at(
                    now + took_s,
                    lambda t, k=profile, b=pull.batch, s=took_s: self._done(t, k, b, s),
                )  # type: ignore[misc]  # noqa: E501
            elif pull.again_s is not None and pull.again_s > now:
                self.at(pull.again_s, lambda t: None)

    def _put(self, now: float, who: int, queued_job: QueuedJob) -> None:
        self._busy.discard(who)
        self.batcher.put(queued_job, now)

    def _done(
        self, now: float, profile: DeviceProfile, batch: tuple[QueuedJob, ...], took_s: float
    ) -> None:
        self.batcher.done(profile, batch, took_s, now)
        for queued_job in batch:
            who, (index, action) = int(queued_job.source), queued_job.job
            spent_s = now - queued_job.deadline_s + DELAY_S
            shown = action is FrameAction.GENERATE and now < queued_job.expires_s
            self.load.worked(queued_job.source, took_s / len(batch), now)
            if action is FrameAction.GENERATE and not shown:
                self.ladders[who].record_miss(index, now)
            self.ladders[who].record_generated(
                index, queued_job.steps, spent_s, now, took_s=took_s, mates=len(batch), shown=shown
            )
            if shown:
                late_s = max(now + COMPOSITE_S - queued_job.deadline_s, 0.0)
                self.painted.append((queued_job.deadline_s - DELAY_S, who, late_s))

    def changes(self, since_s: float, until_s: float, who: int | None = None) -> int:
        ladders = self.ladders if who is None else [self.ladders[who]]
        return sum(since_s <= c.at_s < until_s for ladder in ladders for c in ladder.changes)

    def back_s(self, ended_s: float) -> float:
        """Seconds after which all were on their highest rung and stayed there."""
        assert {ladder.rung.name for ladder in self.ladders} == {"full"}
        return max(ladder.changes[-1].at_s for ladder in self.ladders if ladder.changes) - ended_s

    def share(self, since_s: float, until_s: float, who: int | None = None) -> float:
        """Of the frames pushed in between, how many were shown painted."""

        def count(frames: Iterable[tuple[float, int]]) -> int:
            return sum(since_s <= at_s < until_s and who in (None, w) for at_s, w in frames)

        return count((at_s, w) for at_s, w, _ in self.painted) / count(self.pushed)


def slowed(
    step_s: float, factor: float, since_s: float, until_s: float, growth: float = 0.9
) -> Callable[[int, int, float], float]:
    """A device that takes `step_s` a step, and so many times as long for a while."""

    def cost(steps: int, size: int, now: float) -> float:
        slow = factor if since_s <= now < until_s else 1.0
        return step_s * (steps + 1) * size**growth * slow

    return cost


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("factor", [2.0, 3.0, 4.0, 6.0, 10.0])
@pytest.mark.parametrize("seed", range(2))
def test_a_slow_down_is_answered_quickly_and_without_flapping(
    steps: int, factor: float, seed: int
) -> None:
    """The device has a little to spare until 10 s, is slow until 50 s, and well again."""
    step_s = 0.024 / (steps + 1)
    street = Street(1, slowed(step_s, factor, 10, 50), steps, seed=seed).run(60)
    assert street.changes(0, 10) == 0
    assert street.share(0, 10) > 0.98
    first_s = street.ladders[0].changes[0].at_s
    assert first_s < 11
    for since_s in range(12, 30):
        assert street.changes(since_s, since_s + 20) <= 4
    assert street.back_s(50) <= 3.0
    assert street.share(53, 60) > 0.98


@pytest.mark.parametrize("trace", ["load-8", "load-10"])
@pytest.mark.parametrize("share", [0.7, 0.5, 0.35, 0.25, 0.15])
def test_a_busy_machine_s_noise_moves_the_ladder_seldom(trace: str, share: float) -> None:
    """As recorded, and on machines that are so much faster: nothing changes but by chance."""
    took_ms = json.loads((Path(__file__).parents[2] / "data/busy-machine.json").read_text())[trace]
    step_s = itertools.cycle([share * took / 1000 / 3 for took in took_ms])
    street = Street(1, lambda steps, size, at: next(step_s) * (steps + 1) * size).run(120)
    assert street.changes(60, 120) <= 2


@pytest.mark.parametrize("sessions", [2, 3, 4])
@pytest.mark.parametrize("seed", range(2))
def test_sessions_of_one_device_do_not_push_each_other_about(sessions: int, seed: int) -> None:
    step_s = 0.024 / 3 / sessions
    street = Street(sessions, slowed(step_s, 4, 10, 50), seed=seed).run(60)
    assert street.changes(0, 10) == 0
    for who in range(sessions):
        assert street.changes(13, 33, who) <= 4 and street.changes(30, 50, who) <= 4
    assert street.back_s(50) <= 3.0
    assert street.share(53, 60) > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_more_sessions_than_a_device_carries_find_rungs_and_keep_them(seed: int) -> None:
    """Two steps for all would need one and a half times what there is."""
    street = Street(4, slowed(0.005, 1, 0, 0, growth=1.0), seed=seed).run(60)
    for who in range(4):
        assert street.changes(20, 40, who) <= 4 and street.changes(40, 60, who) <= 4
    assert street.share(10, 60) > 0.7
    for who in range(4):  # and nobody is left without
        assert street.share(20, 60, who) > 0.4


def test_two_devices_carry_what_one_does_not() -> None:
    street = Street(2, slowed(0.009, 1, 0, 0, growth=1.0), devices=2).run(20)
    assert street.changes(0, 20) == 0 and street.share(0, 20) > 0.98
