"""Likeness: is this the same face as a moment ago? Eyes and nose, which speech does not move."""

from __future__ import annotations

import numpy as np

from lipwire.engine.types import F32, U8

# Cells of the visible half: two pixels' blur of landmarks must not change them.
GRID = (22, 12)


def likeness_of(crop: U8) -> F32:
    """What identifies the face in an aligned uint8[S, S, 3]: f32[12, 22], no mean."""
    import cv2

    size = len(crop)
    part = crop[size // 16 : size // 2, size // 6 : size - size // 6]
    grey = cv2.cvtColor(cv2.resize(part, GRID, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    cells = grey.astype(np.float32)
    return np.asarray(cells - cells.mean(), np.float32)


def face_similarity(one: F32, other: F32) -> float:
    """Correlation of two likenesses, -1 to 1."""
    norm = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / norm if norm > 1e-3 else 1.0
