"""SteadyCodes: what a voice asks of a mouth, without the shiver of hearing it anew each time."""

from __future__ import annotations

import numpy as np

from lipwire.engine.types import F32
from lipwire.engine.units.shape import OPENINGS

# Each picture's codes take so much of those before and of those after. Less: mouths tremble, with
# 1.3 to 1.4 times the jerk of people's at 0; more: at 0.2 it is 0.9 to 1.0 of it and they mumble.
SIDE = 0.1
# What was heard longer ago is no neighbour, seconds: pictures were left out.
NEAR_S = 0.1


class SteadyCodes:
    """A short symmetrical filter, for one picture after the other; delays nothing."""

    def __init__(self) -> None:
        self._last: tuple[float, F32] | None = None  # when the picture before is shown, as heard

    def steady(self, codes: F32, playout_s: float) -> F32:
        """The codes, steadied as far as both neighbours are known.

        Args:
            codes: f32[K, codes], as heard: of this picture and of the next ones.
            playout_s: when this one is shown.

        Returns:
            f32[K, codes]; lips are never further open than was heard, so that p, b and m stay shut.
        """
        last, self._last = self._last, (playout_s, codes[0])
        if last is None or not 0 < playout_s - last[0] <= NEAR_S or len(codes) < 2:
            return codes
        around = np.concatenate([last[1][None], codes])
        out = codes.copy()
        out[:-1] += np.float32(SIDE) * (around[:-2] - 2 * codes[:-1] + around[2:])
        out[:, OPENINGS] = np.minimum(out, codes)[:, OPENINGS]
        return out
