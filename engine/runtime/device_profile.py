"""A device as the batching policy sees it: how long its batches take, and so which sizes pay.

    profile.times.record(steps, size, took_s, now)     a batch was measured
    profile.expect(steps, count, now)                  what one should take
Pure as `engine/runtime/batcher.py`, which asks it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, inf

# Weight of the newest measurement. Larger: one hiccup misleads; smaller: a device that slows down
# (heat, a neighbour) is believed too long.
EWMA = 0.25
# A size that is not used cannot be measured either; what was measured fades towards what the other
# sizes suggest. Shorter: sizes that do not pay are tried too often; longer: one bad first
# measurement keeps a good size out of use.
FORGET_S = 30.0
# Cost of a batch against its size, where nothing was measured: a little is saved by every job.
GROWTH = 0.9
# Sizes whose cost a job differs less are as good as each other; then the smaller is done sooner.
TIE = 1.03


class StepTimes:
    """How long batches take on one device: measured, smoothed, and guessed where not measured."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[float, float]] = {}  # -> seconds, measured at
        self._expected: dict[tuple[int, int], tuple[float | None, float]] = {}  # -> it, worked out

    def record(self, steps: int, size: int, took_s: float, now: float) -> None:
        """A batch of `size` at `steps` took `took_s`."""
        before = self.expect(steps, size, now) if (steps, size) in self._known else None
        smoothed = took_s if before is None else before + EWMA * (took_s - before)
        self._known[steps, size] = smoothed, now
        self._expected.clear()

    def expect(self, steps: int, size: int, now: float) -> float | None:
        """Seconds that a batch should take; None if nothing was ever measured."""
        value, at = self._expected.get((steps, size), (None, -inf))
        if now - at > FORGET_S / 100:  # asked many times for every job, it changes slowly
            value = self._work_out(steps, size, now)
            self._expected[steps, size] = value, now
        return value

    def _work_out(self, steps: int, size: int, now: float) -> float | None:
        guess = self._guess(steps, size)
        if (steps, size) not in self._known:
            return guess
        value, at = self._known[steps, size]
        if guess is None:
            return value
        trust = exp(-max(now - at, 0.0) / FORGET_S)
        return trust * value + (1 - trust) * guess

    def _guess(self, steps: int, size: int) -> float | None:
        """Scaled from the nearest other that was measured, if possible at the same step count."""
        others = [key for key in self._known if key != (steps, size)]
        if not others:
            return None
        n, b = min(others, key=lambda k: (abs(k[0] - steps), abs(k[1] - size)))
        # Encoding the condition, once a frame, counts as one step.
        scale: float = (size / b) ** GROWTH * (steps + 1) / (n + 1)
        return scale * self._known[n, b][0]


@dataclass(eq=False, slots=True)
class DeviceProfile:
    """A device as the policy sees it."""

    name: str
    sizes: tuple[int, ...]  # batches that run without waste, ascending
    times: StepTimes = field(default_factory=StepTimes)
    live: bool = True
    free_s: float | None = None  # when the batch that runs should be done; None: idle
    limit: int = 0  # largest batch that it may take; falls when memory runs out

    def __post_init__(self) -> None:
        self.limit = self.limit or self.sizes[-1]

    def expect(self, steps: int, count: int, now: float) -> float:
        """Seconds that `count` jobs take in one batch; 0 while nothing is known."""
        return self.times.expect(steps, self.padded(count), now) or 0.0

    def padded(self, count: int) -> int:
        """The size that a batch of `count` runs as."""
        return next((size for size in self.sizes if size >= count), count)

    def cheapest(self, steps: int, counts: Iterable[int], now: float) -> int:
        """The smallest of the ascending `counts` whose cost a job is as good as the best."""
        costs = {count: self.expect(steps, count, now) / count for count in counts}
        best = min(costs.values())
        return next(count for count, cost in costs.items() if cost <= best * TIE)

    def counts(self, most: int) -> list[int]:
        """Batches of up to `most` that are worth a thought, ascending."""
        most = min(most, self.limit)
        return [*(size for size in self.sizes if size < most), most]
