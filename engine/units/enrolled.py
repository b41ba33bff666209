"""EnrolledBank: a person's own mouths from before the call; Enrolment: whether the face is theirs.

session.enrol(read_bank(data, key))      # lipwire.engine.units.bank_file
stats.bank.enrolled                      # waiting -> used, or refused
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from lipwire.engine.face.articulation_scale import ArticulationScale
from lipwire.engine.types import F32, CodeStats, Enrolled
from lipwire.engine.units.bank import CAPACITY, MouthBank
from lipwire.engine.units.unit import Unit

# Mean correlation of eyes and nose, over `FRAMES` frames, with the most similar enrolled ones. Of
# 42 people filmed twice 88 % reach it with themselves, and 5 % of pairs of different people. Lower:
# other people's mouths are shown; higher: who sits in another light is not known again.
SAME_PERSON = 0.85
FRAMES = 5
# A face that has not resembled the enrolled one for so long is another person's. Shorter: a camera
# that still adapts to the light refuses its owner; longer: people wait for an answer.
DOUBT_S = 2.0
# The newest enrolled unit is so much older than any of the call: none of them is of the moment.
BEFORE_S = 1e6


@dataclass(frozen=True, slots=True)
class Consent:
    """What the person shown has agreed to; kept in the file and shown."""

    person: str
    statement: str
    date: str
    """ISO 8601, UTC"""
    version: str
    """of the lipwire that wrote the file"""


@dataclass(frozen=True, slots=True, eq=False)
class EnrolledBank:
    """One person's own mouths, and how far and in which way that mouth moves."""

    consent: Consent
    units: tuple[Unit, ...] = field(repr=False)
    """at most `CAPACITY`, oldest first; their looks are the person's likeness"""
    seen: F32 = field(repr=False)
    """f32[K, codes], see `UsualMouth`"""
    openings: F32 = field(repr=False)
    """f32[M], see `ArticulationScale`"""


def enrolled_bank(
    bank: MouthBank, reach: ArticulationScale | None, stats: CodeStats, consent: Consent
) -> EnrolledBank:
    """What a session knows of a person, to begin another with.

    Args:
        bank: the person's; of a film it may hold more than a call keeps, and is thinned out.
        reach: the person's; None: unknown.
        stats: see `MouthBank`.
        consent: the person's.
    """
    units = sorted(bank.units, key=lambda unit: unit.time_s)
    if len(units) > CAPACITY:
        small = MouthBank(stats)
        for unit in units:
            small.add(unit)
        units = sorted(small.units, key=lambda unit: unit.time_s)
    openings = np.array([] if reach is None else reach.moving, np.float32)
    return EnrolledBank(consent, tuple(units), bank.usual.seen, openings)


class Enrolment:
    """Compares a session's face with the enrolled person's; not locked.

    Args:
        enrolled: shown only once the face is known as theirs.
    """

    def __init__(self, enrolled: EnrolledBank) -> None:
        self.state = Enrolled.WAITING
        self._enrolled = enrolled
        self._looks: F32 = np.stack([unit.look for unit in enrolled.units])
        self.begin()

    def begin(self, keep: bool = False) -> None:
        """Another person may be there from now on.

        Args:
            keep: for a film of several people: `USED` stays what is told of it.
        """
        self._alike: deque[float] = deque(maxlen=FRAMES)
        self._since_s: float | None = None
        self._decided = False
        if not (keep and self.state is Enrolled.USED):
            self.state = Enrolled.WAITING

    def judge(self, look: F32, time_s: float) -> bool:
        """Consider a face that looks into the camera; True the moment that it is known as theirs.

        Args:
            look: f32[D], see `Unit.look`.
            time_s: when it is seen.
        """
        if self._decided or look.shape != self._looks.shape[1:]:
            return False
        self._since_s = time_s if self._since_s is None else self._since_s
        self._alike.append(float((self._looks @ look).max()))
        if len(self._alike) < FRAMES:
            return False
        if np.mean(self._alike) >= SAME_PERSON:
            self.state, self._decided = Enrolled.USED, True
            return True
        if not 0 <= time_s - self._since_s < DOUBT_S:
            self._decided = True
            if self.state is Enrolled.WAITING:
                self.state = Enrolled.REFUSED
        return False

    def take(self, bank: MouthBank, reach: ArticulationScale | None) -> None:
        """Put what is enrolled before what the session has seen itself."""
        units, seen, enrolled = list(bank.units), bank.usual.seen, self._enrolled
        shift_s = enrolled.units[-1].time_s + BEFORE_S
        bank.clear()
        for codes in (*enrolled.seen, *seen):
            bank.usual.update(codes)
        for unit in enrolled.units:
            bank.add(replace(unit, time_s=unit.time_s - shift_s))
        for unit in sorted(units, key=lambda unit: unit.time_s):
            bank.add(unit)
        if reach is not None:
            reach.learn(enrolled.openings)
