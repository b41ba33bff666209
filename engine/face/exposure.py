"""Exposure: a dark face is shown to the model in the light that it knows; its mouth is put back.

A model that has hardly seen a face in the dark paints teeth as white as it has always seen them.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.types import F32, U8

# Mean level of eyes, nose and cheeks. Half of all people in films lie above the first, 95 % above
# the second's upper end; from its lower end on downwards all the light that is missing is added.
# Higher: ordinary pictures are changed; lower: teeth shine in the dusk.
LIT = 110.0
DIM = (45.0, 75.0)
# More, and a sensor's grain is all that is left to be seen.
MOST_GAIN = 6.0
# What is brightest in the face stays below this: a lamp in a dark room keeps its colour.
BRIGHTEST = 250.0
FACE = slice(24, 112)  # rows of 128
VISIBLE = slice(24, 62)
SIDES = slice(20, 108)  # columns: no hair, no room


def gain_of(crop: U8) -> float:
    """How many times brighter uint8[S, S, 3] should be for the model; 1 for all but dark faces."""
    rows, face, columns = (
        slice(part.start * len(crop) // 128, part.stop * len(crop) // 128)
        for part in (VISIBLE, FACE, SIDES)
    )
    level = max(float(crop[rows, columns].mean()), 1.0)
    missing = min(max((DIM[1] - level) / (DIM[1] - DIM[0]), 0.0), 1.0)
    if missing == 0:
        return 1.0
    brightest = max(float(np.percentile(crop[face, columns][::2, ::2], 99)), 1.0)
    gain = min((LIT / level) ** missing, MOST_GAIN, BRIGHTEST / brightest)
    return max(gain, 1.0)


def lit(crop: U8) -> U8:
    """uint8[S, S, 3] in the light that the model knows."""
    return times(crop, gain_of(crop))


def times(picture: U8, gain: float) -> U8:
    """uint8[...] so many times brighter; the very same one for 1."""
    if gain == 1:
        return picture
    levels: F32 = np.arange(256, dtype=np.float32) * np.float32(gain)
    return np.asarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8)[picture])
