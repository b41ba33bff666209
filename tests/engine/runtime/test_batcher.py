"""The policy: what is taken, when a batch closes, what is never done."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipwire.engine.runtime.batcher import Batcher, QueuedJob
from lipwire.engine.runtime.device_profile import FORGET_S, DeviceProfile, StepTimes

SIZES = (1, 2, 4, 8)


def profile(
    name: str = "gpu", first_s: float = 0.010, more_s: float = 0.002, **other: Any
) -> DeviceProfile:
    """A device that was measured: `first_s` for one job and `more_s` for each further one."""
    made = DeviceProfile(name, SIZES, **other)
    for steps in (1, 2):
        for size in SIZES:
            made.times.record(steps, size, steps / 2 * (first_s + more_s * (size - 1)), 0.0)
    return made


def queued_job(
    source: str = "a", deadline_s: float = 0.1, steps: int = 2, **other: Any
) -> QueuedJob:
    return QueuedJob(source, steps, deadline_s, other.pop("expires_s", deadline_s + 0.08), **other)


def steady(batcher: Batcher, *sources: str, period_s: float = 0.040, last_s: float = 0.0) -> None:
    """Let the batcher learn that these sources give a job every `period_s`, last at `last_s`."""
    for back in (2, 1, 0):
        for source in sources:
            job = queued_job(source)
            batcher.put(job, last_s - back * period_s)
            batcher._waiting.remove(job)


# --- times ---


def test_nothing_is_expected_of_an_unknown_device() -> None:
    assert StepTimes().expect(2, 1, 0.0) is None
    assert DeviceProfile("new", SIZES).expect(2, 1, 0.0) == 0.0


def test_times_are_smoothed_and_scaled_to_what_was_not_measured() -> None:
    times = StepTimes()
    times.record(1, 1, 0.010, 0.0)
    assert times.expect(1, 1, 0.0) == pytest.approx(0.010)
    assert times.expect(3, 1, 0.0) == pytest.approx(0.020)  # encode + 3 steps against encode + 1
    eight = times.expect(1, 8, 0.0)
    assert eight is not None and 0.010 < eight < 0.080
    times.record(1, 1, 0.020, 0.0)
    smoothed = times.expect(1, 1, 0.0)
    assert smoothed is not None and 0.010 < smoothed < 0.020


def test_one_bad_measurement_is_forgotten() -> None:
    """Or a size that stumbled when it was first tried would never be tried again."""
    device = profile()
    device.times.record(2, 4, 5.0, 0.0)
    assert device.cheapest(2, SIZES, 0.0) != 4
    late = 10 * FORGET_S
    device.times.record(2, 8, 0.024, late)
    four = device.times.expect(2, 4, late)
    assert four is not None and four < 0.030


def test_the_cheapest_size_is_the_smallest_of_equals() -> None:
    assert profile(first_s=0.010, more_s=0.010).cheapest(2, SIZES, 0.0) == 1  # no gain: a CPU
    assert profile(first_s=0.010, more_s=0.001).cheapest(2, SIZES, 0.0) == 8
    padded = profile(first_s=0.010, more_s=0.001)
    assert padded.cheapest(2, padded.counts(5), 0.0) == 4  # 5 would run as 8


# --- when a batch closes ---


def test_a_lone_session_never_waits() -> None:
    batcher = Batcher([profile()])
    steady(batcher, "a", last_s=-0.040)
    batcher.put(queued_job("a", 0.055), 0.0)
    assert len(batcher.pull(batcher.profiles[0], 0.0).batch) == 1


def test_a_batch_waits_for_a_session_that_is_due() -> None:
    device = profile()
    batcher = Batcher([device])
    steady(batcher, "a", last_s=-0.040)
    steady(batcher, "b", last_s=-0.020)  # due at 0.020
    batcher.put(queued_job("a", 0.060), 0.0)
    held = batcher.pull(device, 0.0)
    assert held.batch == ()
    # Two jobs take 12 ms, a third of that is one step's worth of slack.
    assert held.again_s == pytest.approx(0.060 - 0.012 - 0.004)
    batcher.put(queued_job("b", 0.080), 0.020)
    assert [t.source for t in batcher.pull(device, 0.045).batch] == ["a", "b"]


def test_the_slack_ends_the_waiting() -> None:
    device = profile()
    batcher = Batcher([device])
    steady(batcher, "a", last_s=-0.040)
    steady(batcher, "b", last_s=-0.020)
    batcher.put(queued_job("a", 0.060), 0.0)
    again_s = batcher.pull(device, 0.0).again_s
    assert again_s is not None
    assert len(batcher.pull(device, again_s).batch) == 1


def test_nothing_waits_where_batches_save_nothing() -> None:
    device = profile(more_s=0.010)
    batcher = Batcher([device])
    steady(batcher, "b", last_s=-0.020)
    batcher.put(queued_job("a", 0.060), 0.0)
    assert len(batcher.pull(device, 0.0).batch) == 1


def test_a_full_batch_closes_at_once() -> None:
    device = profile()
    batcher = Batcher([device])
    steady(batcher, "z", last_s=-0.030)
    for index in range(9):
        batcher.put(queued_job(str(index), 0.1 + index), 0.0)
    batch = batcher.pull(device, 0.0).batch
    assert [t.source for t in batch] == [str(i) for i in range(8)]
    assert [t.source for t in batcher.waiting] == ["8"]


def test_a_session_that_pauses_is_waited_for_no_longer_than_a_period() -> None:
    device = profile()
    batcher = Batcher([device])
    steady(batcher, "b", last_s=-0.020)
    batcher.put(queued_job("a", 0.500), 0.0)
    again_s = batcher.pull(device, 0.0).again_s
    assert again_s == pytest.approx(0.060)  # it was due at 0.020
    assert len(batcher.pull(device, 0.0601).batch) == 1


def test_a_session_that_paused_is_not_waited_for() -> None:
    device = profile()
    batcher = Batcher([device])
    steady(batcher, "b", last_s=-0.100)  # at 40 ms a frame it has missed two
    batcher.put(queued_job("a", 0.060), 0.0)
    assert len(batcher.pull(device, 0.0).batch) == 1


def test_a_batch_is_no_larger_than_the_earliest_deadline_allows() -> None:
    device = profile()  # 8 take 24 ms, 4 take 16 ms
    batcher = Batcher([device])
    for index in range(8):
        batcher.put(queued_job(str(index), 0.018 + index), 0.0)
    assert len(batcher.pull(device, 0.0).batch) == 4


def test_compositing_is_reckoned_with() -> None:
    device = profile()
    batcher = Batcher([device])
    for _ in range(40):
        batcher.composited(0.008)
    for index in range(8):
        batcher.put(queued_job(str(index), 0.022 + index), 0.0)  # 22 ms less 8
    assert len(batcher.pull(device, 0.0).batch) == 2


# --- what mixes ---


def test_steps_do_not_mix() -> None:
    device = profile()
    batcher = Batcher([device])
    for steps in (2, 4, 1, 2):
        batcher.put(queued_job("s", 0.1, steps), 0.0)
    taken = []
    while batch := batcher.pull(device, 0.0).batch:
        taken.append([t.steps for t in batch])
        batcher.done(device, batch, 0.001, 0.0)
    assert sorted(map(len, taken)) == [1, 1, 2]
    assert all(len(set(steps)) == 1 for steps in taken)


def test_what_failed_travels_alone_and_elsewhere() -> None:
    first, second = profile("a"), profile("b")
    batcher = Batcher([first, second])
    bad = queued_job("bad", 0.05, failed_on={"a"})
    batcher.put(bad, 0.0)
    for index in range(3):
        batcher.put(queued_job(str(index), 1.0), 0.0)
    assert bad not in batcher.pull(first, 0.0).batch
    assert batcher.pull(second, 0.0).batch == (bad,)


def test_what_failed_is_tried_again_where_there_is_no_elsewhere() -> None:
    device = profile("a")
    batcher = Batcher([device])
    bad = queued_job("bad", failed_on={"a"})
    batcher.put(bad, 0.0)
    assert batcher.pull(device, 0.0).batch == (bad,)


# --- several devices ---


def test_idle_neighbours_share() -> None:
    profiles = [profile(str(i)) for i in range(4)]
    batcher = Batcher(profiles)
    for index in range(8):
        batcher.put(queued_job(str(index), 1.0), 0.0)
    assert [len(batcher.pull(each, 0.0).batch) for each in profiles] == [2, 2, 2, 2]


def test_a_slow_device_leaves_work_to_an_idle_quick_one_and_helps_a_busy_one() -> None:
    quick, slow = profile("quick", 0.005, 0.001), profile("slow", 0.030, 0.020)
    batcher = Batcher([slow, quick])
    batcher.put(queued_job("a", 0.1), 0.0)
    assert batcher.pull(slow, 0.0).batch == ()
    assert len(batcher.pull(quick, 0.0).batch) == 1
    batcher.put(queued_job("b", 0.1), 0.0)
    assert len(batcher.pull(slow, 0.0).batch) == 1


def test_a_slow_device_passes_over_what_only_the_quick_one_finishes_in_time() -> None:
    quick, slow = profile("quick", 0.005, 0.001), profile("slow", 0.030, 0.020)
    quick.free_s = 0.004
    batcher = Batcher([quick, slow])
    batcher.put(queued_job("urgent", 0.020), 0.0)
    batcher.put(queued_job("patient", 0.100), 0.0)
    assert [t.source for t in batcher.pull(slow, 0.0).batch] == ["patient"]


def test_dead_and_busy_devices_take_nothing() -> None:
    dead, busy = profile("dead", live=False), profile("busy", free_s=1.0)
    batcher = Batcher([dead, busy])
    batcher.put(queued_job(), 0.0)
    assert batcher.pull(dead, 0.0).batch == batcher.pull(busy, 0.0).batch == ()


# --- too much ---


def test_late_jobs_come_after_those_that_can_be_in_time() -> None:
    device = profile(more_s=0.010)
    batcher = Batcher([device])
    batcher.put(queued_job("late", 0.005), 0.0)
    batcher.put(queued_job("good", 0.050), 0.0)
    assert batcher.pull(device, 0.0).batch[0].source == "good"


def test_hopeless_jobs_are_given_back() -> None:
    device = profile()
    batcher = Batcher([device])
    hopeless = queued_job("old", -1.0)
    batcher.put(hopeless, 0.0)
    batcher.put(queued_job("new", 0.05), 0.0)
    assert batcher.expire(0.0) == [hopeless]
    assert [t.source for t in batcher.waiting] == ["new"]
    device.live = False
    assert len(batcher.expire(0.0)) == 1  # no device at all


def test_a_long_queue_admits_nobody() -> None:
    device = profile(more_s=0.010)  # 10 ms a job, however batched
    batcher = Batcher([device])
    for index in range(5):
        batcher.put(queued_job(str(index), 1.0), 0.0)
    assert not batcher.admits(2, 0.055, 0.0)
    assert batcher.admits(2, 0.065, 0.0)
    device.live = False
    assert not batcher.admits(2, 9.0, 0.0)


def test_a_hiccup_does_not_shut_the_door_for_ever() -> None:
    """Expectations are put right by painting only, so an idle device is always tried."""
    device = profile(first_s=9.0)
    batcher = Batcher([device])
    for _ in range(9):
        batcher.composited(3.0)
    assert batcher.admits(2, 0.140, 0.0)
    assert not batcher.admits(2, 0.140, 0.141)
    batcher.put(queued_job(deadline_s=0.060), 0.0)
    assert not batcher.expire(0.0)
    assert len(batcher.pull(device, 0.0).batch) == 1
    assert not batcher.admits(2, 0.140, 0.0), "it is busy now"


# --- whatever comes ---

jobs = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),
        st.floats(0.0, 0.5),
        st.sampled_from((1, 2)),
        st.floats(0.01, 0.3),
    ),
    min_size=1,
    max_size=40,
)


@given(
    jobs, st.lists(st.tuples(st.floats(0.001, 0.1), st.floats(0.0, 0.05)), min_size=1, max_size=4)
)
def test_every_job_is_painted_once_or_given_back(
    coming: list[tuple[str, float, int, float]], speeds: list[tuple[float, float]]
) -> None:
    """And no batch is mixed or too large, no device runs two, nobody waits for ever."""
    profiles = [profile(str(i), first, more) for i, (first, more) in enumerate(speeds)]
    batcher = Batcher(profiles)
    arrivals = [(at, queued_job(source, at + slack, steps)) for source, at, steps, slack in coming]
    arrivals.sort(key=lambda pair: pair[0])
    running: dict[str, tuple[float, tuple[QueuedJob, ...]]] = {}
    painted: list[QueuedJob] = []
    gone: list[QueuedJob] = []
    now, wakes = 0.0, 0
    while arrivals or running or batcher.waiting:
        wakes += 1
        assert wakes < 2000, "somebody waits for ever"
        while arrivals and arrivals[0][0] <= now:
            batcher.put(arrivals.pop(0)[1], now)
        for each in profiles:
            if each.name in running and running[each.name][0] <= now:
                batch = running.pop(each.name)[1]
                batcher.done(each, batch, 0.01, now)
                painted += batch
        gone += batcher.expire(now)
        again: list[float] = []
        for each in profiles:
            answer = batcher.pull(each, now)
            if answer.batch:
                assert each.name not in running
                assert len(answer.batch) <= SIZES[-1]
                assert len({t.steps for t in answer.batch}) == 1
                assert each.free_s is not None
                running[each.name] = max(each.free_s, now + 1e-4), answer.batch
            elif answer.again_s is not None:
                assert answer.again_s > now
                again.append(answer.again_s)
        again += [until for until, _ in running.values()] + [at for at, _ in arrivals[:1]]
        if not again:
            assert not batcher.waiting, "an idle device leaves work that nobody else takes"
            break
        now = max(min(again), now)
    assert len(painted) + len(gone) == len(coming)
    assert len(set(painted) | set(gone)) == len(coming)
