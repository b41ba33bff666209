"""When a picture, or sound, passed each point of its way: where its delay comes from.

A trace travels with what it is of, from the server's decoder to its sender; a mark costs a reading
of the clock. The stage between two points has the name of the later one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

POINTS = (
    "received",  # its last packet is here
    "decoding",
    "decoded",
    "taken",  # it lies in the newest-frame slot
    "converting",
    "pushed",  # RGB, and in the session
    "begun",  # a CPU thread has it
    "listened",  # its window of the voice is cut
    "tracked",
    "aligned",
    "generating",  # its batch has closed and runs
    "generated",
    "compositing",
    "composited",
    "headed",  # all before it have left
    "popped",  # its time has come
    "drawn",  # in planes, marked
    "encoding",
    "encoded",
    "sent",
)
"""every point, in order"""
VOICE_POINTS = (
    "received",
    "decoding",
    "decoded",
    "pushed",  # there is room for it
    "scheduled",  # its place on the session's clock is known
    "resampled",
    "judged",  # whether it speaks
)
"""those of a piece of the new voice, in order"""
SOUND_POINTS = ("due", "popped", "encoding", "encoded", "sent")
"""those of a block of sound that leaves, in order"""


class Trace:
    """One picture's, one piece's or block's of sound."""

    __slots__ = ("_clock", "at_s", "outcome", "pts")
    kept: ClassVar[bool] = True
    """whether it holds anything worth keeping"""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.at_s: dict[str, float] = {}
        """clock's time by point"""
        self.pts = 0
        """of a picture as it came; of sound, its place on the session's clock, at 48 kHz"""
        self.outcome = ""
        """what became of it"""

    def stamp(self, point: str, at_s: float | None = None) -> None:
        """It passed a point, now or at a given time; only the first of several encoders counts."""
        self.at_s.setdefault(point, self._clock() if at_s is None else at_s)


class _Untraced(Trace):
    __slots__ = ()
    kept = False

    def stamp(self, point: str, at_s: float | None = None) -> None:
        """Keep nothing."""


UNTRACED: Trace = _Untraced(lambda: 0.0)
"""stands for a trace where none is wanted, so that nobody has to ask; its fields mean nothing"""
