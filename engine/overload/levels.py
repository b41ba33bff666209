"""The rungs of the overload ladder, and the nouns around it: changes, reasons, turns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum


@dataclass(frozen=True, slots=True)
class QualityLevel:
    """How much is done for a frame."""

    name: str
    steps: int
    every: int = 1  # one frame of so many is painted; 0: none


FULL_RUNG, HALF_RUNG, NO_RUNG = "full", "half", "none"
RUNGS = (FULL_RUNG, "fewer", "one", HALF_RUNG, NO_RUNG)  # names, from the best down


def make_rungs(steps: int, offered: Iterable[int] | None = None) -> tuple[QualityLevel, ...]:
    """The ladder below `steps`, best first."""
    if offered is None:
        offered = [steps >> shift for shift in range(1, steps.bit_length())]
    fewer = sorted({count for count in offered if count < steps}, reverse=True)
    painting = [QualityLevel(FULL_RUNG, steps)]
    painting += [QualityLevel("one" if count == 1 else "fewer", count) for count in fewer]
    least = painting[-1].steps
    return (*painting, QualityLevel(HALF_RUNG, least, 2), QualityLevel(NO_RUNG, least, 0))


class Reason(StrEnum):
    """Why a rung was changed."""

    LATE = "pictures came too late"
    ROOM = "there is room again"
    TRY = "trying again"
    ASKED = "other steps were asked for"


@dataclass(frozen=True, slots=True)
class Change:
    """From one rung to another."""

    number: int  # from 1, of this ladder
    at_s: float  # on the caller's clock
    before: QualityLevel
    after: QualityLevel
    reason: Reason


class FrameAction(Enum):
    """What is done for a frame."""

    GENERATE = "generate"
    HOLD = "hold"  # put the mouth of the frame before into it
    PASS = "pass"  # noqa: S105
    PROBE = "probe"  # generate it to measure; its original goes out
