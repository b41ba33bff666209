"""Who paints what, and when: micro-batches across sessions, earliest deadline first.

Pure policy: it knows no clock, no threads and no backends, only tickets, the names of devices and
how long their batches took; callers pass `now`. `engine/runtime/device_pool.py` runs it for real,
`benchmarks/model/simulate.py` in virtual time.

    batcher.put(queued, now)                 a job is ready to be painted
    batcher.pull(profile, now) -> Pull       an idle device asks: a batch, or when to ask again
    batcher.done(profile, batch, took_s, now) it has painted it

Plan: devices pull, so a fast one simply asks more often. A batch stays open while another job that
would make it cheaper is expected in time, and closes when it is as large as pays, or when the
earliest deadline has less than one step of slack left. Pictures are shown at their deadline and not
before, so waiting until then costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, inf
from operator import add
from typing import Any

from lipwire.engine.runtime.device_profile import EWMA, DeviceProfile

# Where not all can be in time, a batch that takes longer must paint so much more a second: what
# comes meanwhile waits for it.
WORTH = 1.15
# A device leaves a job to another that is at least so much quicker.
CLEARLY_SOONER = 0.95
# A gap this long between two jobs of a session is a pause and says nothing about its pace. Longer:
# batches would be held open for sessions that have stopped.
PAUSE_S = 0.15


@dataclass(eq=False, slots=True)
class QueuedJob:
    """A job on its way to a device."""

    source: str  # whose job it is: jobs of one source come at a steady pace
    steps: int  # jobs for different step counts do not mix
    deadline_s: float  # when the finished picture is wanted
    expires_s: float  # when it is of no more use
    job: Any = None  # what a backend is given
    owner: Any = None  # the caller's own
    failed_on: set[str] = field(default_factory=set)
    """devices that raised or hung on it; from the first on it travels alone"""
    started_s: float | None = None  # when a device began with it, for the last time
    took_s: float = 0.0  # what its batch took; set when that is painted
    mates: int = 1  # jobs in that batch


@dataclass(frozen=True, slots=True)
class Pull:
    """The answer to a device that asks for work."""

    batch: tuple[QueuedJob, ...] = ()
    again_s: float | None = None
    """ask again at this time, or when something changes; None: only when something changes"""


@dataclass(slots=True)
class _Source:
    """When a session's jobs come."""

    steps: int
    last_s: float
    period_s: float = 0.0


class Batcher:
    """The queue that all devices pull from."""

    def __init__(self, profiles: Iterable[DeviceProfile]) -> None:
        self.profiles = list(profiles)
        self.tail_s = 0.0  # what a picture still needs once it is painted: compositing, smoothed
        self._waiting: list[QueuedJob] = []
        self._sources: dict[str, _Source] = {}

    @property
    def waiting(self) -> tuple[QueuedJob, ...]:
        """Jobs that no device has begun."""
        return tuple(self._waiting)

    def live(self) -> list[DeviceProfile]:
        """Devices that take jobs."""
        return [profile for profile in self.profiles if profile.live]

    def put(self, queued_job: QueuedJob, now: float) -> None:
        """A job is ready."""
        self._waiting.append(queued_job)
        if queued_job.failed_on:
            return  # it comes a second time; that says nothing about its source's pace
        source = self._sources.get(queued_job.source)
        if source is None:
            self._sources[queued_job.source] = _Source(queued_job.steps, now)
            return
        if (gap := now - source.last_s) < PAUSE_S:
            source.period_s += (EWMA if source.period_s else 1.0) * (gap - source.period_s)
        source.steps, source.last_s = queued_job.steps, now

    def pull(self, profile: DeviceProfile, now: float) -> Pull:
        """What an idle device should do now."""
        if not profile.live or profile.free_s is not None or not self._waiting:
            return Pull()
        offered = self._offered(profile, now)
        if not offered:
            return Pull()
        first = offered[0]
        mates = _mates(first, offered)
        closes_s = self._closes_s(first, len(mates), profile, now)
        if closes_s > now:
            return Pull(again_s=closes_s)
        batch = tuple(self._pick(mates, profile, now))
        self._waiting = [queued_job for queued_job in self._waiting if queued_job not in batch]
        profile.free_s = now + profile.expect(first.steps, len(batch), now)
        return Pull(batch)

    def done(
        self, profile: DeviceProfile, batch: tuple[QueuedJob, ...], took_s: float | None, now: float
    ) -> None:
        """The batch is painted, in `took_s` seconds; None if it failed."""
        profile.free_s = None
        if took_s is not None:
            profile.times.record(batch[0].steps, profile.padded(len(batch)), took_s, now)

    def composited(self, took_s: float) -> None:
        """A painted picture took so long to be put into its frame, waiting included."""
        self.tail_s += EWMA * (took_s - self.tail_s)

    def expire(self, now: float) -> list[QueuedJob]:
        """Take out the jobs that no device can finish before they are of no use."""
        live = self.live()
        soon = self._spare(1)

        def hopeless(queued_job: QueuedJob) -> bool:
            soonest = min(
                (profile.expect(queued_job.steps, 1, now) for profile in live), default=inf
            )
            left_s = 0.0 if soon else soonest + self.tail_s
            return not live or now + left_s > queued_job.expires_s

        gone = [queued_job for queued_job in self._waiting if hopeless(queued_job)]
        self._waiting = [queued_job for queued_job in self._waiting if queued_job not in gone]
        return gone

    def _spare(self, waiting: int) -> bool:
        """Whether a device is idle and next to nothing waits. Then expectations do not count.

        They are put right by painting only; after a hiccup nothing might ever be tried again.
        """
        return len(self._waiting) <= waiting and any(
            profile.free_s is None for profile in self.live()
        )

    def admits(self, steps: int, expires_s: float, now: float) -> bool:
        """Whether one more job would be done before `expires_s`, by the queue's length.

        Where it would not, tracking its face is wasted work.
        """
        live = self.live()
        if not live:
            return False
        if self._spare(0):
            return now <= expires_s
        rate = 0.0  # jobs a second, all devices at their best
        for profile in live:
            count = profile.cheapest(steps, profile.counts(profile.limit), now)
            cost = profile.expect(steps, count, now) / count
            rate += 1 / cost if cost else inf
        begun_s = min(max(now, profile.free_s or now) for profile in live)
        alone_s = min(profile.expect(steps, 1, now) for profile in live)
        return begun_s + len(self._waiting) / rate + alone_s + self.tail_s <= expires_s

    # --- inside ---

    def _offered(self, profile: DeviceProfile, now: float) -> list[QueuedJob]:
        """What this device should take, most urgent first; jobs that are late anyway come last.

        Strictly by deadline, an overloaded queue would finish every job a little late; this way
        those that can be in time are, and the others pass through.
        """
        others = [other for other in self.live() if other is not profile]
        names = [other.name for other in others]
        mine_s: dict[int, float] = {}
        idle_s: dict[int, float] = {}  # the quickest idle device, and
        any_s: dict[int, float] = {}  # the device that would be done first
        for steps in {queued_job.steps for queued_job in self._waiting}:
            mine_s[steps] = profile.expect(steps, 1, now)
            alone_s = [other.expect(steps, 1, now) for other in others]
            waits_s = [max((other.free_s or now) - now, 0.0) for other in others]
            idle_s[steps] = min(
                (s for s, other in zip(alone_s, others, strict=True) if other.free_s is None),
                default=inf,
            )
            any_s[steps] = min(map(add, alone_s, waits_s), default=inf)
        offered: list[tuple[bool, float, int, QueuedJob]] = []
        for queued_job in self._waiting:
            mine = mine_s[queued_job.steps]
            late = now + mine + self.tail_s > queued_job.deadline_s
            if queued_job.failed_on:
                # Not where it failed, unless there is no other; and speed does not matter.
                welcome = (
                    profile.name not in queued_job.failed_on
                    or queued_job.failed_on.issuperset(names)
                )
            else:
                # A quicker idle device has it, or one that is in time where this one is not.
                theirs = any_s[queued_job.steps] if late else idle_s[queued_job.steps]
                welcome = theirs >= CLEARLY_SOONER * mine
            if welcome:
                offered.append((late, queued_job.deadline_s, len(offered), queued_job))
        return [queued_job for *_, queued_job in sorted(offered)]

    def _closes_s(self, first: QueuedJob, count: int, profile: DeviceProfile, now: float) -> float:
        """Until when `first`'s batch of `count` stays open; not after `now`: it closes."""
        full = profile.cheapest(first.steps, profile.counts(profile.limit), now)
        if first.failed_on or count >= full:
            return now
        took_s = profile.expect(first.steps, count + 1, now)
        one_step_s = took_s / (first.steps + 1)
        latest_s = first.deadline_s - self.tail_s - took_s - one_step_s
        return min(latest_s, self._awaited_s(latest_s, first.steps, now))

    def _awaited_s(self, until_s: float, steps: int, now: float) -> float:
        """How long it is worth waiting for another job like these, due by `until_s`."""
        known = self._sources.items()
        self._sources = {name: s for name, s in known if now - s.last_s < 2 * PAUSE_S}
        alike = [source for source in self._sources.values() if source.steps == steps]
        due = [source for source in alike if source.last_s + source.period_s <= until_s]
        # What is a whole period late has paused.
        return max((source.last_s + 2 * source.period_s for source in due), default=now)

    def _pick(self, mates: list[QueuedJob], profile: DeviceProfile, now: float) -> list[QueuedJob]:
        """Which of them this device should take at once."""
        steps = mates[0].steps
        idle = sum(other.free_s is None for other in self.live())
        # Idle neighbours take their share: that is sooner for everybody.
        counts = profile.counts(ceil(len(mates) / idle))
        done_s = {n: now + profile.expect(steps, n, now) + self.tail_s for n in counts}
        timely = [n for n in counts if done_s[n] <= mates[0].deadline_s]
        if timely:
            count = profile.cheapest(steps, timely, now)
            rest = mates[count:]
            more_s = profile.expect(steps, min(len(rest), profile.limit), now) if rest else 0.0
            if not rest or done_s[count] + more_s <= rest[0].deadline_s:
                return mates[:count]
        # Not all can be in time. Then as many as possible a second, whoever comes first: small
        # batches for the most urgent would make the next ones as urgent, and so for ever.
        best, best_rate = mates[:1], 0.0  # all are late: one may still be of use
        for n in counts:
            ready = [queued_job for queued_job in mates if queued_job.deadline_s >= done_s[n]][:n]
            rate = len(ready) / max(done_s[n] - now - self.tail_s, 1e-9)
            if rate > WORTH * best_rate:
                best, best_rate = ready, rate
        return best


def _mates(first: QueuedJob, offered: list[QueuedJob]) -> list[QueuedJob]:
    """Who of those offered could travel with `first`, itself at the head."""
    if first.failed_on:
        return [first]  # one bad job must not take its neighbours with it again
    return [t for t in offered if t.steps == first.steps and not t.failed_on]
