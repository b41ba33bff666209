"""SteadyCodes: what a voice asks of a mouth, without the shiver of hearing it anew each time."""

from __future__ import annotations

from collections import deque

import numpy as np

from lipwire.engine.types import F32
from lipwire.engine.units.shape import OPENINGS

# Each picture's codes go this far towards the parabola that fits them and two neighbours on each
# side best (Savitzky and Golay, 1964), which keeps what moves at the pace of speech. Mouths have
# 1.31 of people's jerk without it and 1.08 so (ten films). Less: they tremble, 1.19 at 0.5 (five of
# the films, where 0.8 has 1.10); more: at 1 what trembles comes back with the other sign.
SHARE = 0.8
SIDE = 2
_PARABOLA: F32 = np.array([-3, 12, 17, 12, -3], np.float32) / 35
# What was heard longer ago is no neighbour, seconds: pictures were left out.
NEAR_S = 0.1


class SteadyCodes:
    """A short symmetrical filter, for one picture after the other; delays nothing."""

    def __init__(self) -> None:
        self._before: deque[F32] = deque(maxlen=SIDE)  # the codes of the pictures before
        self._last_s = 0.0  # when the newest of them is shown

    def steady(self, codes: F32, playout_s: float) -> F32:
        """The codes, steadied as far as the neighbours on both sides are known.

        Args:
            codes: f32[K, codes], as heard: of this picture and of the next ones.
            playout_s: when this one is shown.

        Returns:
            f32[K, codes]; lips are never further open than was heard, so that p, b and m stay shut.
        """
        if not 0 < playout_s - self._last_s <= NEAR_S:
            self._before.clear()
        known = np.concatenate([*(row[None] for row in self._before), codes])
        done = len(self._before)
        self._before.append(codes[0])
        self._last_s = playout_s
        out = codes.copy()
        for index in range(len(codes)):
            middle = done + index
            around = known[max(middle - SIDE, 0) : middle + SIDE + 1]
            if len(around) == len(_PARABOLA):
                out[index] += np.float32(SHARE) * (_PARABOLA @ around - codes[index])
        out[:, OPENINGS] = np.minimum(out, codes)[:, OPENINGS]
        return out
