"""Selection: which of the person's own mouths is shown next (unit selection, Hunt and Black, 1996).

For every picture the units are found that cost least for what is wanted now and, as far as the
voice is known ahead, for the next pictures; the first of them is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lipwire.engine.types import F32, CodeStats, Coverage
from lipwire.engine.units.bank import CAPACITY, FORBIDDEN, MouthBank
from lipwire.engine.units.shape import allowed_change
from lipwire.engine.units.unit import Unit

# So many of the next pictures are looked at. More changed nothing, as sound is seldom known so far.
AHEAD = 4
# Units from so near the picture show the mouth that is to be replaced, in the best of poses: they
# would be chosen whatever the voice says.
OWN_S = 0.4
# A unit whose eyes and nose resemble the present ones less than this is of another pose, and the
# mouth is generated until one resembles them more than the second. Lower: mouths askew; higher: a
# head that turns is generated where its own mouths would do.
UNLIKE, ALIKE = 0.5, 0.62
# Under overload one that resembles them so much is shown all the same: the network has no time.
# Lower: mouths of another side of the face; higher: the original mouth beneath another voice.
LEAST_LIKE = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class ChosenUnit:
    """A mouth to show."""

    unit: Unit
    change: F32
    """f32[codes], what is asked for beyond what the unit shows, as measured"""
    alike: bool
    """whether it is of a pose like the present one, so that it can be shown as it is"""
    near: bool = True
    """whether the pose is near enough for where nothing better can be had"""

    @property
    def codes(self) -> F32:
        """f32[codes], what it shows once it is changed, as measured."""
        return self.unit.codes + self.change


def best_path(targets: F32, joins: F32, previous: int | None = None) -> tuple[list[int], float]:
    """The cheapest sequence of units (Viterbi, 1967).

    Args:
        targets: f32[K, N], what each of N units costs for each of K pictures.
        joins: f32[N, N], what unit n costs after unit m, at [m, n].
        previous: unit that was shown last; None: none.

    Returns:
        K units, and what they cost together.
    """
    ahead = targets[-1]
    ways: list[npt.NDArray[np.intp]] = []
    for target in targets[-2::-1]:
        through = joins + ahead
        way = through.argmin(1)
        ways.append(way)
        ahead = target + np.take_along_axis(through, way[:, None], 1)[:, 0]
    first = ahead if previous is None else ahead + joins[previous]
    path = [int(first.argmin())]
    for way in reversed(ways):
        path.append(int(way[path[-1]]))
    return path, float(first[path[0]])


class Selector:
    """Chooses a person's mouths one after the other; deterministic, not locked.

    Args:
        stats: mean and spread of the codes that voices are told in.
        typical_px: how far a typical speaker's opening ranges, pixels of a 128 px crop.
        capacity: of the bank.
    """

    def __init__(self, stats: CodeStats, typical_px: float, capacity: int = CAPACITY) -> None:
        self.bank = MouthBank(stats, capacity)
        self._typical_px = typical_px
        self._shown: Unit | None = None
        self._unlike = False

    def ready(self, opening_scale: float = 1.0) -> bool:
        """Whether there are mouths to choose from.

        Args:
            opening_scale: how many times as far as a typical speaker's this person's mouth opens.
        """
        return self.bank.ready(opening_scale * self._typical_px)

    def choose(self, wanted: F32, look: F32, time_s: float) -> ChosenUnit | None:
        """The mouth for a picture; None if the bank has none of another moment.

        Args:
            wanted: f32[K, codes], in spreads: of this picture and of the next ones as far as known.
            look: f32[D], see `Unit.look`.
            time_s: when the picture was taken.
        """
        bank = self.bank
        if not len(bank):
            return None
        shown = next((i for i, unit in enumerate(bank.units) if unit is self._shown), None)
        costs = bank.costs(wanted, look, (time_s - OWN_S, time_s + OWN_S))
        path, _ = best_path(costs, bank.joins(), shown)
        if costs[0, path[0]] >= FORBIDDEN:
            self._shown = None
            return None
        unit, similar = bank.units[path[0]], bank.similarity(path[0], look)
        self._unlike = similar < (ALIKE if self._unlike else UNLIKE)
        self._shown = None if self._unlike else unit
        change = allowed_change(bank.usual.asked(wanted[0]), unit.codes)
        return ChosenUnit(unit, change, not self._unlike, similar >= LEAST_LIKE)

    def pause(self) -> None:
        """What is shown next follows nothing."""
        self._shown = None

    def clear(self) -> None:
        """Forget the person."""
        self.bank.clear()
        self._shown, self._unlike = None, False

    @property
    def coverage(self) -> Coverage:
        """What the bank holds, for people."""
        return self.bank.coverage
