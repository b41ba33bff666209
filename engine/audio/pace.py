"""Pace: whether a voice comes faster than it is spoken, so that it need not wait to be understood.

The model listens ahead: before a picture is painted, what follows its time must be there. A voice
that comes as it is spoken waits for that; synthesis that is done before it is heard need not.
"""

from __future__ import annotations

# So much sound tells how fast a voice comes: where it came at once, or within a share of its
# length. Less: what is merely sent in large pieces is taken for synthesis, and runs dry once;
# more: a new voice's first words wait in vain.
TELLING_S = 0.4
FAST_SHARE = 0.5
# What comes so little too late after an early start was spoken as it came. Longer: the next
# sentence is taken for it; shorter: a jittery network hides it.
RAN_DRY_S = 0.3


class Pace:
    """Of one voice, from one utterance to the next."""

    def __init__(self) -> None:
        self._fast: bool | None = None  # not known yet
        self._early = False  # whether the utterance under way began early
        self._begun_s = 0.0  # when its first piece came
        self._came_s = 0.0  # of it so far
        self._judged = False

    def begin(self, piece_s: float, time_s: float, short_s: float) -> bool:
        """An utterance begins; whether it may begin early.

        Args:
            piece_s: of its first piece.
            time_s: now.
            short_s: how far what came before ends short of what must be known by now.
        """
        if self._early and short_s < RAN_DRY_S:
            self._fast = False
        self._early = piece_s >= TELLING_S if self._fast is None else self._fast
        self._begun_s, self._came_s, self._judged = time_s, piece_s, False
        return self._early

    def record(self, piece_s: float, time_s: float) -> None:
        """Another piece of it came in time."""
        if not self._judged and self._came_s >= TELLING_S:
            self._fast = time_s - self._begun_s <= FAST_SHARE * self._came_s
            self._judged = True
        self._came_s += piece_s

    def end(self) -> None:
        """The utterance is complete: that nothing follows at once says nothing."""
        self._early = False
