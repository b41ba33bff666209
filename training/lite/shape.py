"""Fit how landmarks move with the articulation code, for `lipwire.engine.units.shape`.

    python -m lipwire.training.lite.shape SHARDS engine/units/shape.npz

Least squares over frames of the train split, each clip's own median taken away; every code counts
in pixels of the 128 px crop.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lipwire.engine.face.articulation import CODES, raw_codes
from lipwire.engine.types import F32
from lipwire.engine.units.morph import CONTROLS
from lipwire.training.data.dataset import ClipData, load_clips

FRAMES = 60  # of a clip: one long talk must not drown the others
RIDGE = 1e-4  # of the codes' variance


def fit_shape(clips: Sequence[ClipData], landmarks: Sequence[int]) -> F32:
    """f32[codes, N, 2]: pixels that each landmark moves for a pixel of each code."""
    rng = np.random.default_rng(0)
    codes, places = [], []
    for clip in clips:
        own = raw_codes(clip.landmarks)
        points = clip.landmarks[:, list(landmarks)].reshape(len(clip), -1)
        chosen = rng.choice(len(clip), min(len(clip), FRAMES), replace=False)
        codes.append((own - np.median(own, axis=0))[chosen])
        places.append((points - np.median(points, axis=0))[chosen])
    x, y = (np.concatenate(parts).astype(np.float64) for parts in (codes, places))
    moves = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(CODES), x.T @ y)
    explained = 1 - ((y - x @ moves) ** 2).sum() / (y**2).sum()
    print(f"{len(x)} frames; codes explain {explained:.0%} of how landmarks move")
    return moves.reshape(CODES, len(landmarks), 2).astype(np.float32)


def main() -> None:
    shards, out = (Path(argument) for argument in sys.argv[1:])
    landmarks = list(CONTROLS)
    moves = fit_shape(load_clips(shards, "train"), landmarks)
    np.savez_compressed(out, landmarks=np.array(landmarks, np.int16), moves=moves)


if __name__ == "__main__":
    main()
