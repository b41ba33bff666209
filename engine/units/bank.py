"""MouthBank: the person's own mouths, kept from the call for what they cover, not for their age.

A newcomer replaces the unit that it resembles most: rare mouths and poses stay, frequent ones are
renewed with the light, and whole stretches of speech stay together while there is room.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.face.articulation import OPENING
from lipwire.engine.face.references import YAWN_PX
from lipwire.engine.types import F32, F64, CodeStats, Coverage
from lipwire.engine.units.unit import Unit
from lipwire.engine.units.usual import UsualMouth

# Units of a call: eight seconds, at most 35 MiB. More: selection takes longer, N squared; fewer:
# mouths are missing, and neighbours seldom follow each other as they did in life.
CAPACITY = 200
FILM_CAPACITY = 500  # of a film that is dubbed, which has the time and the memory
# What a difference of each code counts, in its spreads, squared: the opening is what people see.
CODE_WEIGHTS: F32 = np.array([2, 2, 1, 1, 1, 1.5, 1], np.float32)
# What eyes and nose that look otherwise cost, 1 - correlation: 0.02 for a nod. Lower: mouths of
# turned heads on straight ones; higher: the pose chooses the mouth instead of the voice.
LOOK_COST = 30.0
# Lips that are to be shut, those asked to be less than this apart, are best taken from where they
# were: teeth of an open mouth stay between lips that are moved together. What each pixel that a
# unit is open costs then. Lower: a grey line of teeth in silence; higher: lips of another pose.
SHUT_BELOW_PX, SHUT_COST = 1.0, 3.0
# A change of mouth between two pictures costs this share of what the same difference from the
# wanted mouth costs. Lower: mouths jump; at 2 and more the opening follows the voice less (r 0.45
# to 0.39).
JOIN_COST = 1.0
# Two units so close in time are one movement: of cameras with 10 pictures a second and more.
FOLLOWS_S = 0.11
# A unit with less detail than this share of the usual is blurred by movement or focus.
BLURRED = 0.6
# A bank speaks once it has so many units and its openings range over so much of what this
# person's do. Less: a shut mouth that is meant to speak; more: the first words are generated
# without need.
LEAST_UNITS, LEAST_RANGE = 12, 0.5
# A full bank takes a frame that follows no other only if it is so far from all units: stray frames
# would break up stretches of speech.
NOVEL = 4.0
FORBIDDEN = np.float32(1e6)  # what a unit costs that shows the very mouth to be replaced


class MouthBank:
    """At most `capacity` units of one person; not locked.

    Args:
        stats: mean and spread of the codes that voices are told in.
        capacity: of units.
    """

    def __init__(self, stats: CodeStats, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.usual = UsualMouth(stats)
        """how this person's mouth is held mostly"""
        self._scale: F32 = np.sqrt(CODE_WEIGHTS) / self.usual.spread
        self.clear()

    def clear(self) -> None:
        """Forget the person."""
        count = self.capacity
        self.units: list[Unit] = []
        self._codes: F32 = np.zeros((count, len(self._scale)), np.float32)  # times `_scale`
        self._looks: F32 = np.zeros((count, 0), np.float32)
        self._times: F64 = np.zeros(count)
        self._details: F32 = np.zeros(count, np.float32)
        self._gaps: F32 = np.zeros((count, count), np.float32)  # squared, between codes
        self._next: dict[int, int] = {}
        self._last: tuple[int, float] | None = None  # slot and time of the newest unit
        self.usual.clear()
        self._openings = [0] * 8
        self._nbytes = 0
        self._ready = False

    def __len__(self) -> int:
        return len(self.units)

    # --- in ---

    def wants(self, codes: F32, look: F32, time_s: float) -> bool:
        """Whether a mouth would be taken for how it is held; told before its picture is cut out.

        Args:
            codes: f32[codes], as measured.
            look: f32[D], see `Unit.look`.
            time_s: when it is seen.
        """
        if len(self.units) < self.capacity or self._follows(time_s):
            return True
        return float(self._unlike(codes, look).min()) >= NOVEL

    def _follows(self, time_s: float) -> bool:
        """Whether the newest unit is of the frame before."""
        return self._last is not None and 0 < time_s - self._last[1] <= FOLLOWS_S

    def _unlike(self, codes: F32, look: F32) -> F32:
        """How unlike every unit a mouth is, f32[N]."""
        count = len(self.units)
        gaps = ((self._codes[:count] - codes * self._scale) ** 2).sum(1)
        return np.asarray(gaps + LOOK_COST * (1 - self._looks[:count] @ look), np.float32)

    def add(self, unit: Unit) -> bool:
        """Take a unit if it is fit to be shown; with no room the one most like it goes.

        Args:
            unit: a mouth that nothing covers.

        Returns:
            Whether it was taken.
        """
        count = len(self.units)
        fit = np.isfinite(unit.codes).all() and unit.codes[0] <= YAWN_PX and unit.picture.size > 0
        usual = float(np.median(self._details[:count])) if count >= LEAST_UNITS else 0.0
        if not fit or unit.detail < BLURRED * usual:
            return False
        if self._looks.shape[1] != len(unit.look):
            self._looks = np.zeros((self.capacity, len(unit.look)), np.float32)
        if not self.wants(unit.codes, unit.look, unit.time_s):
            return False
        codes, follows = unit.codes * self._scale, self._follows(unit.time_s)
        gaps = ((self._codes[:count] - codes) ** 2).sum(1)
        slot = count
        if count == self.capacity:
            alike = self._unlike(unit.codes, unit.look)
            if self._last is not None:
                alike[self._last[0]] = np.inf  # what it follows stays
            slot = int(alike.argmin())
            self._remove(slot)
            self.units[slot] = unit
        else:
            self.units.append(unit)
        self._nbytes += unit.nbytes
        self._openings[_step(unit)] += 1
        self._codes[slot], self._looks[slot] = codes, unit.look
        self._times[slot], self._details[slot] = unit.time_s, unit.detail
        self._gaps[slot, :count] = self._gaps[:count, slot] = gaps
        self._gaps[slot, slot] = 0.0
        if follows and self._last is not None:
            self._next[self._last[0]] = slot
        self._last = slot, unit.time_s
        return True

    def _remove(self, slot: int) -> None:
        self._nbytes -= self.units[slot].nbytes
        self._openings[_step(self.units[slot])] -= 1
        self._next.pop(slot, None)
        for before in [b for b, after in self._next.items() if after == slot]:
            del self._next[before]

    # --- out ---

    def ready(self, range_px: float) -> bool:
        """Whether a voice can be spoken with it; once it can, it stays so.

        Args:
            range_px: how far this person's opening is believed to range.
        """
        if not self._ready and len(self.units) >= LEAST_UNITS:
            low, high = np.percentile([unit.codes[0] for unit in self.units], (10, 90))
            self._ready = bool(high - low >= LEAST_RANGE * range_px)
        return self._ready

    def costs(self, wanted: F32, look: F32, own: tuple[float, float] | None = None) -> F32:
        """What showing each unit costs for each code that is wanted, f32[K, N].

        Args:
            wanted: f32[K, codes], in spreads, as voices tell them.
            look: f32[D], the present face's, see `Unit.look`.
            own: first and last time of units that show the very mouth to be replaced.
        """
        count = len(self.units)
        asked = self.usual.asked(wanted)
        costs = ((self._codes[None, :count] - (asked * self._scale)[:, None]) ** 2).sum(2)
        shut = np.clip(1 - asked[:, OPENING] / SHUT_BELOW_PX, 0, 1)
        openings = self._codes[:count, OPENING] / self._scale[OPENING]
        costs += SHUT_COST * np.outer(shut, openings)
        costs += LOOK_COST * (1 - self._looks[:count] @ look)
        if own is not None:
            times = self._times[:count]
            near = (times >= own[0]) & (times <= own[1])
            # Shut lips that shall be shut may be seen again.
            costs += FORBIDDEN * (near & ~np.outer(shut > 0.7, openings < SHUT_BELOW_PX))
        return np.asarray(costs, np.float32)

    def joins(self) -> F32:
        """What showing unit n after unit m costs, at [m, n]; nothing where n followed m in life."""
        count = len(self.units)
        joins = self._gaps[:count, :count] * np.float32(JOIN_COST)
        if self._next:
            joins[list(self._next), list(self._next.values())] = 0.0
        return np.asarray(joins, np.float32)

    def similarity(self, slot: int, look: F32) -> float:
        """Correlation of a unit's eyes and nose with a face's, -1 to 1."""
        return float(self._looks[slot] @ look)

    @property
    def coverage(self) -> Coverage:
        """What it holds, for people."""
        return Coverage(
            units=len(self.units),
            capacity=self.capacity,
            mib=self._nbytes / 2**20,
            ready=self._ready,
            openings=tuple(self._openings),
        )


def _step(unit: Unit) -> int:
    """Its opening in steps of 2 px, 0 to 7."""
    return min(max(int(unit.codes[0] // 2), 0), 7)
