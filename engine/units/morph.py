"""Two pictures of one face, the frame and a unit, brought to one shape.

The unit shows the mouth that is wanted on a head that was held a little otherwise; the frame shows
the head as it is, with another mouth. Both are warped to the same target landmarks: lips and chin
as the unit has them, moved to the present pose; ears, cheeks and nose as the frame has them. Edges
of jaw and cheek then lie on each other, so that a cross-fade between the two shows neither twice
(feature-based morphing, Beier and Neely, 1992, with radial basis functions in place of lines).

All points are pixels of the 128 px crop.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from lipwire.engine.face.alignment import JAW, LIPS_OUTER, transform
from lipwire.engine.types import F32, F64
from lipwire.engine.units.shape import LIPS_INNER, changed

# Points of the face that speech hardly moves: bridge and wings of the nose, eye corners, upper
# cheeks, and the jaw near the ears.
RIGID = (
    1, 2, 4, 5, 6, 168, 195, 197, 97, 98, 326, 327, 48, 278, 50, 280, 101, 330, 117, 346, 118, 347,
    36, 266, 234, 454, 93, 323, 132, 361, 33, 133, 362, 263,
)  # fmt: skip
NOSE = (2, 94, 97, 98, 326, 327, 48, 278)
CHEEKS = (50, 280, 36, 266, 205, 425, 147, 376)
BESIDE_MOUTH = (207, 427, 187, 411, 206, 426)
CHIN_FRONT = (18, 83, 313, 200, 201, 421, 199, 175)
# How far a control point is felt, pixels of the crop. Less: skin between two points is pinched;
# more: hair and collar move with the jaw.
REACH_PX = 28.0
# Keeps close landmarks of the lips from fighting over a pixel; 0 folds the picture between them.
STIFFNESS = 0.02
# The same where only one lip is moved: its landmarks agree, and it goes all the way.
ONE_LIP = 0.001
# The chin is moved at most so far: beyond lies a landmark that was lost, or a yawn.
MOST_SHIFT_PX = 10.0


def _follow() -> dict[int, float]:
    """How far each control point follows the unit; 0: the frame."""
    follow: dict[int, float] = {}
    middle = len(JAW) // 2
    for place, index in enumerate(JAW):
        follow[index] = float(np.clip((7 - abs(place - middle)) / 4, 0, 1))
    follow |= dict.fromkeys(NOSE + CHEEKS, 0.0) | dict.fromkeys(BESIDE_MOUTH, 0.5)
    follow |= dict.fromkeys((*LIPS_OUTER, *LIPS_INNER, *CHIN_FRONT), 1.0)
    return follow


CONTROLS = tuple(_follow())
"""the landmarks that hold the warp"""


@cache
def _controls() -> tuple[list[int], F32, F32]:
    """The control points: indices, how far each follows the unit, its limit."""
    follow = _follow()
    lips = {*LIPS_OUTER, *LIPS_INNER}  # between a shut and a wide mouth lies more than the limit
    limit = [np.inf if index in lips else MOST_SHIFT_PX for index in follow]
    return (
        list(follow),
        np.array(list(follow.values()), np.float32)[:, None],
        np.array(limit, np.float32)[:, None],
    )


@cache
def _held(leave: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """Which of the control points are none of some landmarks."""
    return np.flatnonzero(~np.isin(_controls()[0], leave))


def fit_affine(source: F32, target: F32) -> F32:
    """Least-squares affine map, f32[2, 3], of points f32[N, 2] to points f32[N, 2]."""
    import cv2

    centre, goal = source.sum(0) / len(source), target.sum(0) / len(target)
    s, t = (source - centre).astype(np.float64), (target - goal).astype(np.float64)
    # OpenCV's: numpy's wakes threads that spin.
    solved, linear = cv2.solve(s.T @ s + 1e-3 * np.eye(2), s.T @ t, flags=cv2.DECOMP_CHOLESKY)
    a = np.asarray(linear, np.float64).T if solved else np.eye(2)
    return np.concatenate([a, (goal - a @ centre)[:, None]], axis=1).astype(np.float32)


def target_of(unit: F32, frame: F32, change: F32 | None = None) -> F32:
    """The face to show: the frame's head with the unit's mouth and chin.

    Args:
        unit: f32[468, 2], landmarks of the unit.
        frame: f32[468, 2], landmarks of the frame.
        change: f32[codes], by how much its codes are changed, see `lipwire.engine.units.shape`.

    Returns:
        f32[468, 2]; only the control points differ from the frame's.
    """
    indices, follow, limit = _controls()
    mouth = unit[indices] if change is None else changed(unit, change, indices)
    moved = transform(mouth, fit_affine(unit[list(RIGID)], frame[list(RIGID)]))
    shift = (moved - frame[indices]) * follow
    far = np.sqrt((shift**2).sum(1, keepdims=True))
    target = frame.copy()
    target[indices] += shift * np.minimum(1.0, limit / np.maximum(far, 1e-6))
    return target


class Morph:
    """Where each point of the target is found in the unit and in the frame.

    Args:
        unit: f32[468, 2], landmarks of the unit.
        frame: f32[468, 2], landmarks of the frame.
        target: f32[468, 2], of `target_of`.
    """

    def __init__(self, unit: F32, frame: F32, target: F32) -> None:
        indices = _controls()[0]
        self.unit, self.target = unit, target
        self._nodes = target[indices]
        self._pose = fit_affine(frame[list(RIGID)], unit[list(RIGID)])
        rest = unit[indices] - transform(self._nodes, self._pose)
        self._moves = np.concatenate([rest, frame[indices] - self._nodes], axis=1).astype(
            np.float64
        )
        self._kernel = _felt(self._nodes, self._nodes).astype(np.float64)
        self._weights = _solved(self._kernel, self._moves, STIFFNESS)

    def sources(self, points: F32) -> tuple[F32, F32]:
        """For points f32[N, 2] of the target their places in the unit and in the frame."""
        moves = _felt(points, self._nodes) @ self._weights
        return transform(points, self._pose) + moves[:, :2], points + moves[:, 2:]

    def without(self, leave: tuple[int, ...], points: F32) -> F32:
        """The places in the unit, f32[N, 2], if some landmarks held nothing.

        Args:
            leave: these.
            points: f32[N, 2], of the target.
        """
        held = _held(leave)
        weights = _solved(self._kernel[np.ix_(held, held)], self._moves[held, :2], ONE_LIP)
        return self.fixed(points) + _felt(points, self._nodes[held]) @ weights

    def fixed(self, points: F32) -> F32:
        """For points f32[N, 2] of the target, fixed to the skull, their places in the unit."""
        return transform(points, self._pose)


def _solved(kernel: F64, moves: F64, stiffness: float) -> F32:
    import cv2

    kernel = kernel + stiffness * np.eye(len(kernel))
    return np.asarray(cv2.solve(kernel, moves, flags=cv2.DECOMP_CHOLESKY)[1], np.float32)


def _felt(points: F32, nodes: F32) -> F32:
    """Wendland's C2 function of the distance, f32[N, M]: 1 at a node, 0 from the reach on."""
    across = points[:, :1] - nodes[:, 0]
    down = points[:, 1:] - nodes[:, 1]
    across *= across
    down *= down
    across += down
    near = np.sqrt(across, out=across)
    near *= np.float32(-1 / REACH_PX)
    near += 1
    np.maximum(near, 0, out=near)
    square = near * near
    square *= square
    near *= -4
    near += 5
    square *= near
    return square
