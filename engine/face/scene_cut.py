"""SceneCutDetector: has the camera, or the director, gone somewhere else since the last picture?

Two thumbnails are compared after each has lost its mean, so that a flash or an exposure that
follows the light is no cut. A head, a hand or a pan leaves most cells as they were.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.types import F32, U8

# Cells across and down. Fewer: a cut between two rooms of one colour is missed; more: a moving
# crowd looks like one.
GRID = (24, 18)
# Correlation with the picture before, below which it is another scene. Higher: a hand that fills
# half the picture resets the face; lower: cuts within one studio pass.
SAME = 0.5
# The same where the face has jumped too, which says half of it already.
SAME_JUMPED = 0.8
# And where the face looks like another's: a lively head with a camera in the hand leaves 0.8.
UNLIKE = 0.75
# Cells must also differ by so much, of 255, in the mean: noise in a dark picture correlates with
# nothing.
DIFFERENT = 12.0


def thumbnail(image: U8) -> F32:
    """uint8[H, W, 3] -> f32[18, 24, 3], no mean in any channel."""
    import cv2

    # Every so many pixels only: reading all of a large picture would cost more than the face.
    step = max(1, min(image.shape[0] // (4 * GRID[1]), image.shape[1] // (4 * GRID[0])))
    small = cv2.resize(image[::step, ::step], GRID, interpolation=cv2.INTER_AREA)
    cells = small.astype(np.float32)
    return np.asarray(cells - cells.mean((0, 1)), np.float32)


def correlation(one: F32, other: F32) -> float:
    """Of two thumbnails without means, -1 to 1; 1 if both are flat."""
    norm = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / norm if norm > 1e-3 else 1.0


class SceneCutDetector:
    """Compares each picture with the one before."""

    def __init__(self) -> None:
        self._last: F32 | None = None
        self._alike, self._differs = 1.0, 0.0

    def update(self, image: U8) -> bool:
        """Whether uint8[H, W, 3] is another scene than the picture before."""
        now, last = thumbnail(image), self._last
        self._last = now
        if last is None:
            return False
        self._alike, self._differs = correlation(last, now), float(np.abs(now - last).mean())
        return self._alike < SAME and self._differs > DIFFERENT

    @property
    def jumped(self) -> bool:
        """Whether the last picture is another scene, given that the face in it has jumped."""
        return self._alike < SAME_JUMPED and self._differs > DIFFERENT / 2

    @property
    def unlike(self) -> bool:
        """Whether the last picture may be another scene, given that the face has changed."""
        return self._alike < UNLIKE
