"""Fade: how much of the generated mouth is shown, by time and not by frames."""

from __future__ import annotations

# A pause must have lasted so long (beyond the voice detector's own hangover) before the mouth
# begins to go. Shorter: a doubtful moment inside a word makes it pulse; longer: it lingers.
HOLD_S = 0.05
# After an interruption all of it goes in this time, counted from the interruption itself. Above
# 100 ms the mouth still moves when it must not any more (the limit that we set); zero would pop.
CUT_S = 0.06
FIRST_S, SLOWEST_S = 0.04, 0.1


class Fade:
    """Strength of the generated mouth, 0 to 1, moving at a steady speed.

    Args:
        seconds: from nothing to all of it, and back.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._time_s: float | None = None  # of the last call
        self._spoke_s = float("-inf")
        self._cut: tuple[float, float] | None = None  # when it was interrupted, and how strong
        self.strength = 0.0

    def toward(self, speaking: bool, time_s: float) -> float:
        """The strength at `time_s`; times never go back.

        The first picture moves as one at 25 fps does, one after a gap as one at 10 fps.
        """
        elapsed_s = FIRST_S if self._time_s is None else min(time_s - self._time_s, SLOWEST_S)
        self._time_s = time_s
        if speaking:
            self._spoke_s, self._cut = time_s, None
            self.strength = min(1.0, self.strength + self._share(elapsed_s, self._seconds))
        elif self._cut is not None:
            cut_s, strength = self._cut
            self.strength = min(self.strength, strength * left_after(time_s - cut_s))
        elif time_s - self._spoke_s > HOLD_S:
            self.strength = max(0.0, self.strength - self._share(elapsed_s, self._seconds))
        return self.strength

    @staticmethod
    def _share(elapsed_s: float, seconds: float) -> float:
        return elapsed_s / seconds if seconds > 0 else 1.0

    def cut(self, time_s: float) -> None:
        """The voice was interrupted at `time_s`: until it speaks again, go faster, without a hold.

        `time_s` may lie before pictures that were asked about already: they are shown later.
        """
        self._cut = time_s, self.strength

    def reset(self) -> None:
        """The face is gone: the mouth fades in afresh when it returns."""
        self.strength = 0.0


def left_after(seconds: float) -> float:
    """The share of its strength that a mouth has so long after an interruption."""
    return min(1.0, max(0.0, 1 - seconds / CUT_S))
