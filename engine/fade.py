"""Fade: how much of the generated mouth is shown, by time and not by frames."""

from __future__ import annotations

# A pause must have lasted so long (beyond the voice detector's own hangover) before the mouth
# begins to go. Shorter: a doubtful moment inside a word makes it pulse; longer: it lingers.
HOLD_S = 0.05
# After an interruption all of it goes in this time: one picture at 25 fps has passed when the
# sound is cut, and 100 ms later nothing of the new mouth may move. Zero would pop.
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
        self._hurry = False
        self.strength = 0.0

    def toward(self, speaking: bool, time_s: float) -> float:
        """The strength at `time_s`; times never go back.

        The first picture moves as one at 25 fps does, one after a gap as one at 10 fps.
        """
        elapsed_s = FIRST_S if self._time_s is None else min(time_s - self._time_s, SLOWEST_S)
        self._time_s = time_s
        if speaking:
            self._spoke_s, self._hurry = time_s, False
            self.strength = min(1.0, self.strength + self._share(elapsed_s, self._seconds))
        elif self._hurry:
            self.strength = max(0.0, self.strength - self._share(elapsed_s, CUT_S))
        elif time_s - self._spoke_s > HOLD_S:
            self.strength = max(0.0, self.strength - self._share(elapsed_s, self._seconds))
        return self.strength

    @staticmethod
    def _share(elapsed_s: float, seconds: float) -> float:
        return elapsed_s / seconds if seconds > 0 else 1.0

    def cut(self) -> None:
        """The voice was interrupted: until it speaks again, go faster and without a hold."""
        self._hurry = True

    def reset(self) -> None:
        """The face is gone: the mouth fades in afresh when it returns."""
        self.strength = 0.0
