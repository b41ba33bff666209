"""Flash and beep: a voice that beeps once a second, a model that shows it, and the offset of both.

The model paints stripes across the lips while the voice is loud and upright ones while it is not,
so a picture that nobody painted is told apart from one with a silent mouth. A flash of which an
edge fell among such pictures is measured by its other edge: where the person's own mouth is shown,
there is nothing that could be early or late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipwire.engine.audio.mel import WINDOW_COLUMNS
from lipwire.engine.model.bundle import Manifest
from lipwire.engine.types import F64, U8, LipJob

# Six pictures of 25 and a half: pictures show a beginning and an end up to 40 ms late each, but
# then not both at once.
BEEP_S = 0.26
RATE_HZ = 48_000
# Column of the model's 200 ms that lies nearest to the picture's own time, 3.2 to 4.2 after the
# window's first, as the window's beginning was rounded down (lipwire.engine.audio.mel).
PRESENT = 4
LOUD = 0.0  # of ±4: a beep lies above, silence at -4
STRIPE_PX = 8  # of a 128 px crop
LAG_PX = 4  # half a stripe of a small face: where pixels so far apart differ, there are stripes
# An edge further away belongs to another beep: a voice that catches up has pauses of 100 ms. What
# is off by more is not measured, and figures say how little was seen.
NEAR_S = 0.18
LEAST = 25.0  # of luma: a beard or teeth show less, stripes after the codec more
# Of two pictures further apart than so many usual ones nobody knows what belonged between: an edge
# there is not seen. Fewer: jitter hides edges; more: a hole counts as an offset.
GAP = 1.75


class SyncMarker:
    """Implements `lipwire.engine.backends.Backend`: stripes across while the voice is loud, else
    upright.

    Not one colour: the engine would match it to the face's.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.batch_sizes: tuple[int, ...] = (1,)
        self.description = "beacon: stripes that turn with the voice"

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        """Each job's crop, its lower half striped."""
        return [self._paint(job) for job in jobs]

    def _paint(self, job: LipJob) -> U8:
        painted = job.crop.copy()
        now = job.mel.shape[1] - WINDOW_COLUMNS + PRESENT  # longer windows reach into the past
        half = len(painted) // 2
        stripes = np.arange(len(painted)) // STRIPE_PX % 2 * 255
        if job.mel[:, now].max() > LOUD:
            painted[half:] = stripes[half:, None, None]
        else:
            painted[half:] = stripes[None, :, None]
        return painted

    def close(self) -> None:
        """Nothing is held."""


def beeps(seconds: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """A voice that beeps for BEEP_S at the start of every second, int16[N] at 48 kHz."""
    t = np.arange(RATE_HZ) / RATE_HZ
    # Not a steady tone, which the engine does not take for a voice: 180 Hz, and rising.
    phase = 2 * np.pi * (180 * t + 200 * t**2)
    tone = sum(np.sin(k * phase) / k for k in (1, 2, 3, 4))
    second = np.where(t < BEEP_S, tone * 6000, 0).astype(np.int16)
    return np.tile(second, seconds)


def stripes(lips: F64) -> float:
    """How much stronger stripes across f64[H, W] luma are than upright ones; near 0: neither."""
    across = np.abs(lips[LAG_PX:] - lips[:-LAG_PX]).mean()
    upright = np.abs(lips[:, LAG_PX:] - lips[:, :-LAG_PX]).mean()
    return float(across - upright)


def states(levels: F64) -> F64:
    """1 where stripes lie across, -1 where they stand, 0 where the picture was not painted."""
    # A head that moves has its lips half outside the place that is looked at: a third is left then.
    strong = max(np.percentile(np.abs(levels), 98) / 4, LEAST)  # though hardly any were painted
    return np.sign(levels) * (np.abs(levels) > strong)


@dataclass(frozen=True)
class Edges:
    """Where a signal begins and ends to be there, seconds, ascending."""

    rises: F64
    falls: F64

    @property
    def length_s(self) -> float:
        """From a rise to the next fall, typically."""
        found = [self.falls[self.falls > rise][:1] - rise for rise in self.rises]
        lengths = np.concatenate([*found, np.zeros(0)])
        lengths = lengths[lengths < 2 * BEEP_S]
        return float(np.median(lengths)) if len(lengths) else BEEP_S


def find_edges(times_s: F64, states: F64) -> Edges:
    """Where one state follows the other at once, and near enough."""
    gaps_s = np.diff(times_s)
    near = gaps_s <= GAP * np.median(gaps_s) if len(gaps_s) else gaps_s > 0
    after = times_s[1:]
    rises = after[near & (states[:-1] < 0) & (states[1:] > 0)]
    return Edges(rises, after[near & (states[:-1] > 0) & (states[1:] < 0)])


def skews(light: Edges, sound: Edges) -> list[float]:
    """Seconds by which each beep comes before its flash (+: the sound is early).

    From the middle of one to that of the other; where one edge of a flash was not seen, it is taken
    to be as long as they are.
    """
    longer_s = (light.length_s - sound.length_s) / 2  # a flash begins so much before its beep
    found = []
    for rise, fall in _pairs(sound):
        begun = [edge - rise + longer_s for edge in _nearest(light.rises, rise)]
        ended = [edge - fall - longer_s for edge in _nearest(light.falls, fall)]
        if begun or ended:
            found.append(float(np.mean(begun + ended)))
    return found


def _pairs(sound: Edges) -> list[tuple[float, float]]:
    """Beginning and end of each beep that was heard as a whole."""
    after = [(rise, sound.falls[sound.falls > rise][:1]) for rise in sound.rises]
    return [(rise, fall[0]) for rise, fall in after if len(fall) and fall[0] - rise < 2 * BEEP_S]


def _nearest(edges: F64, time_s: float) -> list[float]:
    """The edge that belongs to a time, if one does."""
    near = edges[np.abs(edges - time_s) < NEAR_S]
    return [float(near[np.abs(near - time_s).argmin()])] if len(near) else []
