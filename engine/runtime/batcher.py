"""Who paints what, and when: micro-batches across sessions, earliest deadline first.

Pure policy: it knows no clock, no threads and no backends, only tickets, the names of devices and
how long their batches took; callers pass `now`. `engine/runtime/device_pool.py` runs it for real,
`benchmarks/model/simulate.py` in virtual time.

    batcher.put(ticket, now)                 a job is ready to be painted
    batcher.pull(lane, now) -> Pull          an idle device asks: a batch, or when to ask again
    batcher.done(lane, batch, took_s, now)   it has painted it

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

from lipwire.engine.runtime.device_profile import EWMA, Lane

# Where not all can be in time, a batch that takes longer must paint so much more a second: what
# comes meanwhile waits for it.
WORTH = 1.15
# A device leaves a job to another that is at least so much quicker.
CLEARLY_SOONER = 0.95
# A gap this long between two jobs of a session is a pause and says nothing about its pace. Longer:
# batches would be held open for sessions that have stopped.
PAUSE_S = 0.15


@dataclass(eq=False, slots=True)
class Ticket:
    """A job on its way to a device."""

    source: str
    """whose job it is: jobs of one source come at a steady pace"""
    steps: int
    """jobs for different step counts do not mix"""
    deadline_s: float
    """when the finished picture is wanted"""
    expires_s: float
    """when it is of no more use"""
    job: Any = None
    """what a backend is given"""
    owner: Any = None
    """the caller's own"""
    failed_on: set[str] = field(default_factory=set)
    """devices that raised or hung on it; from the first on it travels alone"""
    started_s: float | None = None
    """when a device began with it, for the last time"""
    took_s: float = 0.0
    """what its batch took; set when that is painted"""
    mates: int = 1
    """jobs in that batch"""


@dataclass(frozen=True, slots=True)
class Pull:
    """The answer to a device that asks for work."""

    batch: tuple[Ticket, ...] = ()
    again_s: float | None = None
    """ask again at this time, or when something changes; None: only when something changes"""


@dataclass(slots=True)
class _Source:
    """When a session's jobs come."""

    steps: int
    last_s: float
    period_s: float = 0.0


class Batcher:
    """The queue that all devices pull from.

    Args:
        lanes: the devices.
    """

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self.lanes = list(lanes)
        self.tail_s = 0.0
        """what a picture still needs once it is painted: compositing, smoothed"""
        self._waiting: list[Ticket] = []
        self._sources: dict[str, _Source] = {}

    @property
    def waiting(self) -> tuple[Ticket, ...]:
        """Jobs that no device has begun."""
        return tuple(self._waiting)

    def live(self) -> list[Lane]:
        """Devices that take jobs."""
        return [lane for lane in self.lanes if lane.live]

    def put(self, ticket: Ticket, now: float) -> None:
        """A job is ready."""
        self._waiting.append(ticket)
        if ticket.failed_on:
            return  # it comes a second time; that says nothing about its source's pace
        source = self._sources.get(ticket.source)
        if source is None:
            self._sources[ticket.source] = _Source(ticket.steps, now)
            return
        if (gap := now - source.last_s) < PAUSE_S:
            source.period_s += (EWMA if source.period_s else 1.0) * (gap - source.period_s)
        source.steps, source.last_s = ticket.steps, now

    def pull(self, lane: Lane, now: float) -> Pull:
        """What an idle device should do now."""
        if not lane.live or lane.free_s is not None or not self._waiting:
            return Pull()
        offered = self._offered(lane, now)
        if not offered:
            return Pull()
        first = offered[0]
        mates = _mates(first, offered)
        closes_s = self._closes_s(first, len(mates), lane, now)
        if closes_s > now:
            return Pull(again_s=closes_s)
        batch = tuple(self._pick(mates, lane, now))
        self._waiting = [ticket for ticket in self._waiting if ticket not in batch]
        lane.free_s = now + lane.expect(first.steps, len(batch), now)
        return Pull(batch)

    def done(self, lane: Lane, batch: tuple[Ticket, ...], took_s: float | None, now: float) -> None:
        """The batch is painted, in `took_s` seconds; None if it failed."""
        lane.free_s = None
        if took_s is not None:
            lane.times.record(batch[0].steps, lane.padded(len(batch)), took_s, now)

    def composited(self, took_s: float) -> None:
        """A painted picture took so long to be put into its frame, waiting included."""
        self.tail_s += EWMA * (took_s - self.tail_s)

    def expire(self, now: float) -> list[Ticket]:
        """Take out the jobs that no device can finish before they are of no use."""
        live = self.live()
        soon = self._spare(1)

        def hopeless(ticket: Ticket) -> bool:
            soonest = min((lane.expect(ticket.steps, 1, now) for lane in live), default=inf)
            left_s = 0.0 if soon else soonest + self.tail_s
            return not live or now + left_s > ticket.expires_s

        gone = [ticket for ticket in self._waiting if hopeless(ticket)]
        self._waiting = [ticket for ticket in self._waiting if ticket not in gone]
        return gone

    def _spare(self, waiting: int) -> bool:
        """Whether a device is idle and next to nothing waits. Then expectations do not count.

        They are put right by painting only; after a hiccup nothing might ever be tried again.
        """
        return len(self._waiting) <= waiting and any(lane.free_s is None for lane in self.live())

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
        for lane in live:
            count = lane.cheapest(steps, lane.counts(lane.limit), now)
            cost = lane.expect(steps, count, now) / count
            rate += 1 / cost if cost else inf
        begun_s = min(max(now, lane.free_s or now) for lane in live)
        alone_s = min(lane.expect(steps, 1, now) for lane in live)
        return begun_s + len(self._waiting) / rate + alone_s + self.tail_s <= expires_s

    # --- inside ---

    def _offered(self, lane: Lane, now: float) -> list[Ticket]:
        """What this device should take, most urgent first; jobs that are late anyway come last.

        Strictly by deadline, an overloaded queue would finish every job a little late; this way
        those that can be in time are, and the others pass through.
        """
        others = [other for other in self.live() if other is not lane]
        names = [other.name for other in others]
        mine_s: dict[int, float] = {}
        idle_s: dict[int, float] = {}  # the quickest idle device, and
        any_s: dict[int, float] = {}  # the device that would be done first
        for steps in {ticket.steps for ticket in self._waiting}:
            mine_s[steps] = lane.expect(steps, 1, now)
            alone_s = [other.expect(steps, 1, now) for other in others]
            waits_s = [max((other.free_s or now) - now, 0.0) for other in others]
            idle_s[steps] = min(
                (s for s, other in zip(alone_s, others, strict=True) if other.free_s is None),
                default=inf,
            )
            any_s[steps] = min(map(add, alone_s, waits_s), default=inf)
        offered: list[tuple[bool, float, int, Ticket]] = []
        for ticket in self._waiting:
            mine = mine_s[ticket.steps]
            late = now + mine + self.tail_s > ticket.deadline_s
            if ticket.failed_on:
                # Not where it failed, unless there is no other; and speed does not matter.
                welcome = lane.name not in ticket.failed_on or ticket.failed_on.issuperset(names)
            else:
                # A quicker idle device has it, or one that is in time where this one is not.
                theirs = any_s[ticket.steps] if late else idle_s[ticket.steps]
                welcome = theirs >= CLEARLY_SOONER * mine
            if welcome:
                offered.append((late, ticket.deadline_s, len(offered), ticket))
        return [ticket for *_, ticket in sorted(offered)]

    def _closes_s(self, first: Ticket, count: int, lane: Lane, now: float) -> float:
        """Until when `first`'s batch of `count` stays open; not after `now`: it closes."""
        full = lane.cheapest(first.steps, lane.counts(lane.limit), now)
        if first.failed_on or count >= full:
            return now
        took_s = lane.expect(first.steps, count + 1, now)
        one_step_s = took_s / (first.steps + 1)
        latest_s = first.deadline_s - self.tail_s - took_s - one_step_s
        return min(latest_s, self._awaited_s(latest_s, first.steps, now))

    def _awaited_s(self, until_s: float, steps: int, now: float) -> float:
        """How long it is worth waiting for another job like these, due by `until_s`."""
        self._sources = {name: source for name, source in self._sources.items()
                         if now - source.last_s < 2 * PAUSE_S}  # fmt: skip
        due = [source for source in self._sources.values()
               if source.steps == steps and source.last_s + source.period_s <= until_s]  # fmt: skip
        # What is a whole period late has paused.
        return max((source.last_s + 2 * source.period_s for source in due), default=now)

    def _pick(self, mates: list[Ticket], lane: Lane, now: float) -> list[Ticket]:
        """Which of them this device should take at once."""
        steps = mates[0].steps
        idle = sum(other.free_s is None for other in self.live())
        # Idle neighbours take their share: that is sooner for everybody.
        counts = lane.counts(ceil(len(mates) / idle))
        done_s = {n: now + lane.expect(steps, n, now) + self.tail_s for n in counts}
        timely = [n for n in counts if done_s[n] <= mates[0].deadline_s]
        if timely:
            count = lane.cheapest(steps, timely, now)
            rest = mates[count:]
            more_s = lane.expect(steps, min(len(rest), lane.limit), now) if rest else 0.0
            if not rest or done_s[count] + more_s <= rest[0].deadline_s:
                return mates[:count]
        # Not all can be in time. Then as many as possible a second, whoever comes first: small
        # batches for the most urgent would make the next ones as urgent, and so for ever.
        best, best_rate = mates[:1], 0.0  # all are late: one may still be of use
        for n in counts:
            ready = [ticket for ticket in mates if ticket.deadline_s >= done_s[n]][:n]
            rate = len(ready) / max(done_s[n] - now - self.tail_s, 1e-9)
            if rate > WORTH * best_rate:
                best, best_rate = ready, rate
        return best


def _mates(first: Ticket, offered: list[Ticket]) -> list[Ticket]:
    """Who of those offered could travel with `first`, itself at the head."""
    if first.failed_on:
        return [first]  # one bad job must not take its neighbours with it again
    return [t for t in offered if t.steps == first.steps and not t.failed_on]
