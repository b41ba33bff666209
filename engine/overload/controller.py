"""The overload ladder: less work for a device that is too slow, more when it has caught up.

    full       the steps that were asked for
    fewer      what the model offers below that, down to
    one        one step
    half       every second frame, at the fewest steps; those between keep its mouth
    none       originals; a frame now and then is painted to measure, and not shown

Pure: a session asks it for each frame and tells it what became of the frame; callers pass `now`.
Down, missed deadlines decide, within a few frames. Up, a forecast does: what a frame costs is
measured on every rung, and steps cost alike, so what the next rung would need is known before it is
tried. A climb that fails all the same is not repeated soon, unless the device has become faster.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from statistics import median

from lipwire.engine.overload import tuning
from lipwire.engine.overload.levels import (
    FULL_RUNG,
    Change,
    FrameAction,
    QualityLevel,
    Reason,
    make_rungs,
)
from lipwire.engine.overload.load_tracker import LoadTracker


@dataclass(frozen=True, slots=True)
class _Sample:
    """A painted frame."""

    at_s: float
    step_s: float  # what a step of its batch took
    share_s: float  # its own share of that
    around_s: float  # what it spent elsewhere: tracked, queued


class QualityController:
    """Of one session; not locked, the session is.

    Args:
        source: the session's name, as its load is known by.
        steps: of the highest rung.
        offered: what the model can take; None: any.
        delay_s: a frame should be ready so long after it came.
        patience_s: and is of no use so long after that.
        load: of the devices that the session shares.
        fixed: stay on the highest rung whatever happens.
    """

    def __init__(
        self,
        source: str,
        steps: int,
        offered: tuple[int, ...] | None = None,
        *,
        delay_s: float,
        patience_s: float,
        load: LoadTracker | None = None,
        fixed: bool = False,
    ) -> None:
        self.fixed = fixed
        self.grace_s = tuning.GRACE * patience_s
        self.transitions: Counter[tuple[str, str]] = Counter()
        """how often from one rung to another, by their names"""
        self.changes: deque[Change] = deque(maxlen=tuning.CHANGES_KEPT)  # the last ones
        self._source, self._limit_s = source, delay_s + self.grace_s
        self._load = load or LoadTracker()
        self._rungs, self._place = make_rungs(steps, offered), 0
        self._missed = 0.0  # the bucket
        self._changed_s: float | None = None  # None: never
        self._first = 0  # frames before it were begun on another rung
        self._begun = -2  # the last frame that was given out, or should have been
        self._probed_s = -inf
        self._samples: deque[_Sample] = deque(maxlen=tuning.KEPT)
        self._measured = 0  # on this rung
        self._spared = 0  # frames in a row that took no time of the devices
        # Rung -> when it was climbed to, how long was waited before, what it was thought to need.
        self._climbs: dict[QualityLevel, tuple[float, float, float]] = {}
        # Rung -> how long it is not climbed to, until when, and what it was thought to need.
        self._failed: dict[QualityLevel, tuple[float, float, float]] = {}
        self._held: dict[QualityLevel, float] = {}  # rung -> the strain that it bore
        self._pushed_s: float | None = None
        self._period_s = 0.0

    @property
    def rung(self) -> QualityLevel:
        """Where the session is."""
        return self._rungs[self._place]

    @property
    def stands_s(self) -> float:
        """How long a painted mouth is seen: until the next picture, or over the one that holds it.

        0 while the rate of the pictures is not known, and off-line.
        """
        return self._period_s * max(self.rung.every, 1)

    @property
    def reason(self) -> str:
        """Why it is there; empty if it never was elsewhere."""
        return str(self.changes[-1].reason) if self.changes else ""

    def count(self) -> int:
        return self.transitions.total()

    def since(self, number: int) -> list[Change]:
        """The changes after that of this number, as far as they are kept."""
        return [change for change in self.changes if change.number > number]

    def set_top(self, steps: int, offered: tuple[int, ...] | None) -> None:
        """Other steps are asked for, or another model offers others.

        A session that has gone down stays on its rung, if that lies below the new top.
        """
        before = self.rung
        self._rungs = make_rungs(steps, offered)
        self._climbs.clear()
        self._failed.clear()
        self._held.clear()
        if before.name == FULL_RUNG:
            self._place = 0
        elif before.every == 1:
            painting = [k for k, rung in enumerate(self._rungs) if rung.every == 1]
            lower = (k for k in painting if self._rungs[k].steps <= before.steps)
            self._place = next(lower, painting[-1])
        else:
            self._place = next(k for k, r in enumerate(self._rungs) if r.name == before.name)
        self._missed, self._measured, self._first = 0.0, 0, self._begun + 1
        if self.rung.name != before.name:
            self._note(before, self._pushed_s or 0.0, Reason.ASKED)

    # --- a frame's life ---

    def pushed(self, now: float) -> None:
        """A frame came."""
        if self._pushed_s is not None and 0 < (gap := now - self._pushed_s) < tuning.PAUSE_S:
            self._period_s += (tuning.RATE_EWMA if self._period_s else 1.0) * (gap - self._period_s)
        self._pushed_s = now

    def generates(self, index: int, now: float) -> bool:
        """Whether frame `index` is to be generated, if it can be painted; see `action`."""
        if self.fixed:
            return True
        if self.rung.every == 0:
            return now - self._probed_s >= tuning.PROBE_S
        return not self._holds(index)

    def _holds(self, index: int) -> bool:
        # One from before this rung was painted for its own picture: held, it would be late.
        return index - self._begun < self.rung.every and self._begun >= self._first

    def action(self, index: int, now: float, spare: bool = False) -> FrameAction:
        """What to do for frame `index`, which could be painted.

        Args:
            index: its number.
            now: the caller's time.
            spare: there may be a mouth that takes no device's time. It is shown in every frame
                rather than a generated one in every second.
        """
        rung = self.rung
        if self.fixed:
            return FrameAction.GENERATE
        if rung.every == 0 or (spare and rung.every > 1):
            if now - self._probed_s < tuning.PROBE_S:
                return FrameAction.PASS
            self._probed_s = now
            return FrameAction.PROBE
        if self._holds(index):
            return FrameAction.HOLD
        self._begun = index
        return FrameAction.GENERATE

    def record_miss(self, index: int, now: float) -> None:
        """Frame `index`, which could have been painted, was not in time."""
        rung = self.rung
        if self.fixed or rung.every == 0 or index < self._first:
            return
        if index > self._begun:  # nobody had begun it
            if index - self._begun < rung.every:
                return
            self._begun = index
        if modest := self._modest(now):
            self._load.record_miss(self._source, now)
        self._missed += 1
        if self._missed >= self._bears() * (tuning.MODEST if modest else 1.0):
            self._fall(now)

    def _bears(self) -> float:
        """How many misses the rung bears."""
        return tuning.LAST if self._rungs[self._place + 1].every == 0 else tuning.FULL

    def spared(self, now: float) -> None:
        """A frame was shown without any of the devices' time."""
        if self.fixed:
            return
        self._missed = max(self._missed - tuning.LEAK, 0.0)
        self._spared += 1
        if self._place and self._spared >= tuning.SPARED:
            self._spared = 0
            self._move(0, now, Reason.ROOM)

    def record_generated(
        self,
        index: int,
        steps: int,
        spent_s: float,
        now: float,
        *,
        took_s: float | None = None,
        mates: int = 1,
        shown: bool = True,
    ) -> None:
        """Frame `index` is painted.

        Args:
            index: its number.
            steps: spent on it.
            spent_s: since it was pushed.
            now: the caller's time.
            took_s: of that, what its batch took on the device; None: unknown.
            mates: frames in that batch.
            shown: it was still of use; what was too late for that has been counted as missed.
        """
        if self.fixed:
            return
        self._spared = 0
        if took_s is not None:
            step_s = took_s / (steps + 1)  # encoding the condition counts as one
            around_s = max(spent_s - took_s, 0.0)
            self._samples.append(_Sample(now, step_s, step_s / mates, around_s))
        charged = self._load.misses(self._source)
        if index < self._first:
            return
        self._measured += 1
        if charged and self.rung.every and not self._modest(now):
            self._missed += charged
            if self._missed >= self._bears():
                self._fall(now)
                return
        if shown and spent_s > self._limit_s:
            self.record_miss(index, now)
        elif shown:
            self._missed = max(self._missed - tuning.LEAK, 0.0)
        self._climb(now)

    # --- inside ---

    def strain(self, rung: QualityLevel, now: float, last: int | None = None) -> float | None:
        """What a rung needs of what it may use, 1: all of it; None where nothing is known.

        The worse of two: of the devices' time, all sessions together, and of a frame's delay.

        Args:
            rung: of this ladder.
            now: the caller's time.
            last: judge by the middle one of so many of the newest frames; None: by the worst of
                a few.
        """
        samples = [sample for sample in self._samples if sample.at_s > now - tuning.RECENT_S]
        judge: Callable[[Iterable[float]], float] = max if last is None else median
        samples = samples[-(last or tuning.CLIMBS_BY) :]
        if not samples or not self._period_s:
            return None
        if rung.every == 0:
            return 0.0
        own = self._need(rung, samples, judge)
        others, count = self._load.others(self._source, now)
        # What is left, or an equal part of all: those that have more will have to go down.
        of_time = min(others + own, own * (count + 1)) / (tuning.ROOM * max(self._load.devices, 1))
        took_s = (rung.steps + 1) * judge(sample.step_s for sample in samples)
        around_s = judge(sample.around_s for sample in samples)
        return max(of_time, (around_s + took_s) / self._limit_s)

    def _need(
        self,
        rung: QualityLevel,
        samples: Iterable[_Sample],
        judge: Callable[[Iterable[float]], float] = median,
    ) -> float:
        """Seconds of a device's time a second."""
        if rung.every == 0:
            return 0.0
        share_s = judge(sample.share_s for sample in samples)
        return (rung.steps + 1) * share_s / (self._period_s * rung.every)

    def _modest(self, now: float) -> bool:
        """Whether others are there, and this session has no more than an equal part."""
        samples = [sample for sample in self._samples if sample.at_s > now - tuning.RECENT_S]
        count = self._load.others(self._source, now)[1]
        if not samples or not self._period_s or not count:
            return False
        return self._need(self.rung, samples) * (count + 1) <= tuning.ROOM * max(
            self._load.devices, 1
        )

    def _fall(self, now: float) -> None:
        """To the first rung below that will do; one at least."""
        before = self.rung
        climbed_s, waited_s, needed = self._climbs.pop(before, (-inf, 0.0, 0.0))
        if now - climbed_s < tuning.FAILED_S:
            last_s, _, least = self._failed.get(before, (0.0, 0.0, inf))
            again_s = min(max(2 * waited_s, 2 * last_s, tuning.AGAIN_FIRST_S), tuning.AGAIN_LAST_S)
            self._held.pop(before, None)
            self._failed[before] = again_s, now + again_s, min(needed, least)

        def needs_at(place: int) -> float:
            return self.strain(self._rungs[place], now, tuning.FALLS_BY) or 0.0

        place = self._place + 1
        # Not to the last by a forecast: one burst elsewhere on the machine would take all away.
        while place < len(self._rungs) - 2 and needs_at(place) > tuning.STAY:
            place += 1
        self._move(place, now, Reason.LATE)

    def _climb(self, now: float) -> None:
        """One rung up, if it seems to fit."""
        lasted_s = inf if self._changed_s is None else now - self._changed_s
        if lasted_s > tuning.FAILED_S:
            self._failed.pop(self.rung, None)
        if lasted_s > tuning.HELD_S and self._missed < 1:
            bears = self.strain(self.rung, now) or 0.0
            before = self._held.get(self.rung, bears)
            self._held[self.rung] = before + tuning.HELD_EWMA * (bears - before)
        if (
            self._place == 0
            or lasted_s < tuning.CLIMB_S
            or self._measured < tuning.SAMPLES
            or self._missed >= 1
        ):
            return
        target = self._rungs[self._place - 1]
        needs = self.strain(target, now)
        if needs is None:
            needs = 1.0  # nothing is known: waiting decides
        _, not_before_s, needed = self._failed.get(target, (0.0, -inf, inf))
        waits = now < not_before_s and needs > tuning.EASIER * needed
        may = min(max(tuning.BORNE * self._held.get(target, 0.0), 1.0), tuning.STAY)
        blind = needs > may and (
            self.rung.every == 0
            or needs > tuning.UNSURE
            or lasted_s < tuning.TRY_S  # probes are never unsure
        )
        if waits or blind:
            return
        recent = list(self._samples)
        if recent and self._period_s:
            more = self._need(target, recent) - self._need(self.rung, recent)
            self._load.promise(self._source, max(more, 0.0), now)
        self._climbs[target] = now, lasted_s, needs
        self._move(self._place - 1, now, Reason.ROOM if needs <= may else Reason.TRY)

    def _move(self, place: int, now: float, reason: Reason) -> None:
        before, self._place = self.rung, place
        self._missed, self._measured = 0.0, 0
        self._first = self._begun + 1
        self._probed_s = now
        self._note(before, now, reason)

    def _note(self, before: QualityLevel, now: float, reason: Reason) -> None:
        self._changed_s = now
        self.transitions[before.name, self.rung.name] += 1
        self.changes.append(Change(self.count(), now, before, self.rung, reason))
