"""The articulation code: how a mouth is held, measured from landmarks in the aligned crop.

Seven lengths in crop pixels, in the order of `lipwire.engine.nets.lite.CODE_NAMES`. Openings are
absolute (0 = closed, whoever it is); the others are taken from the clip's own median, which leaves
the movement and removes most of the identity.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.types import F32

INNER = ((13, 14), (82, 87), (312, 317))  # upper, lower lip: middle and either side
CORNERS = (61, 291)
UPPER_LIP, LOWER_LIP, CHIN = 0, 17, 152
CODES = 7
OPENING = 0  # the code that people see first
# Every entry is symmetric: mirroring a face leaves its code alone.


def raw_codes(landmarks: F32) -> F32:
    """Seven lengths a frame: f[T, 468, 2] crop pixels -> f32[T, 7]."""
    p = landmarks.astype(np.float32)
    gaps = [np.linalg.norm(p[:, a] - p[:, b], axis=1) for a, b in INNER]
    corners = p[:, list(CORNERS)]
    wide = np.linalg.norm(corners[:, 0] - corners[:, 1], axis=1)
    heights = p[:, CHIN, 1], p[:, UPPER_LIP, 1], p[:, LOWER_LIP, 1], corners[..., 1].mean(1)
    return np.stack([gaps[0], (gaps[1] + gaps[2]) / 2, wide, *heights], axis=1)


def opening_px(landmarks: F32) -> F32:
    """The first of `raw_codes` alone: f[T, 468, 2] crop pixels -> f32[T]."""
    upper, lower = INNER[0]
    gap = landmarks[:, upper].astype(np.float32) - landmarks[:, lower].astype(np.float32)
    return np.asarray(np.linalg.norm(gap, axis=1), np.float32)


def clip_codes(landmarks: F32) -> F32:
    """Codes of one clip with its own median removed where identity would show."""
    codes = raw_codes(landmarks)
    codes[:, 2:] -= np.median(codes[:, 2:], axis=0)
    return codes
