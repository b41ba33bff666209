"""From frame to crop: where the face lies, what is cut out of it and which part speech moves.

OpenCV is loaded where it is used.

The crop is rotation-stabilised: eyes and nose, which speech does not move, are brought to fixed
places, so that the model sees the same framing whatever the head does. Rows S/2..S-1 are hidden
from the model and repainted; the nose stays visible just above them. The published models want the
plain axis-aligned box of a face detector instead (`face_box`, `box_alignment`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lipwire.engine.types import F32, F64, U8, Alignment

CROP_SIZE = 128

# Where eye corners, nose bridge and nose wings lie in the crop (MediaPipe index -> x, y at 128 px):
# the mean of frontal faces, eyes on row 31, a closed chin on row 111, which leaves 17 rows for a
# jaw that drops. Brows and lips are left out: they move with speech.
_STABLE = {
    33: (32.6, 30.9), 133: (51.8, 31.8), 362: (76.1, 31.9), 263: (95.4, 31.1),
    168: (63.9, 27.7), 6: (63.8, 33.1), 197: (63.8, 37.9), 195: (63.7, 42.4), 5: (63.6, 47.3),
    98: (52.5, 61.6), 327: (75.1, 61.7),
}  # fmt: skip
STABLE_INDICES = tuple(_STABLE)
_STABLE_ROWS = np.array(STABLE_INDICES)
_TEMPLATE: F64 = np.array(list(_STABLE.values()))

CHIN = 152
EAR_TO_EAR = (234, 454)
NOSE_TIP = 4
# Lower face contour, one ear to the other through the chin.
JAW = (234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361,
       323, 454)  # fmt: skip
LIPS_OUTER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40,
              185)  # fmt: skip


def fit_similarity(landmarks: F32, size: int = CROP_SIZE) -> F64:
    """Least-squares similarity from the stable landmarks to their places in the crop (Umeyama).

    Args:
        landmarks: f32[468, 2], pixels of the frame.
        size: side of the crop.

    Returns:
        f64[4] (a, b, x, y) of the map [[a, -b, x], [b, a, y]]: smooth it, then `alignment_from`.
    """
    source = landmarks[_STABLE_ROWS].astype(np.float64)
    t, goal = _centred_template(size)
    centre = source.sum(0) / len(source)
    s = source - centre
    norm = max(float(np.vdot(s, s)), 1e-9)
    a = float(np.vdot(s, t)) / norm
    b = float(np.vdot(s[:, 0], t[:, 1]) - np.vdot(s[:, 1], t[:, 0])) / norm
    return np.array(
        [a, b, goal[0] - a * centre[0] + b * centre[1], goal[1] - b * centre[0] - a * centre[1]]
    )


@cache
def _centred_template(size: int) -> tuple[F64, F64]:
    """Where the stable landmarks lie in a crop: f64[N, 2] around their mean, f64[2]."""
    target = _TEMPLATE * (size / CROP_SIZE)
    return target - target.mean(0), target.mean(0)


def alignment_from(similarity: F64, size: int = CROP_SIZE) -> Alignment:
    """The alignment of f64[4] (a, b, x, y)."""
    a, b, x, y = similarity
    return Alignment(np.array([[a, -b, x], [b, a, y]], np.float32), size)


def similarity_to_pose(similarity: F64, size: int = CROP_SIZE) -> F64:
    """(a, b, x, y) as centre of the crop in frame pixels, log scale and roll: what to smooth."""
    a, b, x, y = similarity
    scale2 = a * a + b * b
    dx, dy = size / 2 - x, size / 2 - y
    place = (a * dx + b * dy) / scale2, (a * dy - b * dx) / scale2
    return np.array([*place, 100 * np.log(scale2) / 2, 100 * np.arctan2(b, a)])


def pose_to_similarity(pose: F64, size: int = CROP_SIZE) -> F64:
    """The inverse of `similarity_to_pose`."""
    cx, cy, log_scale, roll = pose
    scale = np.exp(log_scale / 100)
    a, b = scale * np.cos(roll / 100), scale * np.sin(roll / 100)
    return np.array([a, b, size / 2 - a * cx + b * cy, size / 2 - b * cx - a * cy])


def face_box(landmarks: F32) -> F64:
    """The axis-aligned box of a face, f64[4] (x0, y0, x1, y1): forehead to chin, ear to ear.

    That is about what face detectors draw, which the published models were trained on.
    """
    return np.concatenate([landmarks.min(0), landmarks.max(0)]).astype(np.float64)


def box_alignment(box: F64, size: int = CROP_SIZE) -> Alignment:
    """The alignment that stretches a box to the crop, as the published models had it."""
    x0, y0, x1, y1 = box
    wide, high = size / max(x1 - x0, 1.0), size / max(y1 - y0, 1.0)
    # Pixel centres: the box's edge at x0 - 0.5 becomes the crop's at -0.5.
    matrix = [[wide, 0, (0.5 - x0) * wide - 0.5], [0, high, (0.5 - y0) * high - 0.5]]
    return Alignment(np.array(matrix, np.float32), size)


def face_width_px(landmarks: F32) -> float:
    """Ear to ear, in pixels of the frame."""
    return float(np.linalg.norm(landmarks[EAR_TO_EAR[0]] - landmarks[EAR_TO_EAR[1]]))


def profile_ratio(landmarks: F32) -> float:
    """How much nearer the nose is to one ear than to the other: 1 frontal, beyond 5 a profile."""
    left, right = (float(np.linalg.norm(landmarks[NOSE_TIP] - landmarks[i])) for i in EAR_TO_EAR)
    return max(left, right) / max(min(left, right), 1e-6)


def turned_px(landmarks: F32) -> float:
    """How far eyes and nose are from where a frontal face has them, mean pixels of a 128 px crop.

    0.3 to 1.4 for people who look into the camera, about 2 for three-quarter views, 2.5 to 5 for
    profiles. There `profile_ratio` falls again, as the mesh guesses where the hidden ear is.
    """
    similarity = fit_similarity(landmarks)
    seen = transform(landmarks[_STABLE_ROWS], alignment_from(similarity).matrix)
    return float(np.abs(seen - _TEMPLATE).mean())


def transform(points: npt.NDArray[Any], matrix: F32) -> F32:
    """Map [N, 2] points by f32[2, 3]."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float32)


def align(image: U8, alignment: Alignment) -> U8:
    """Cut the model's crop out of a frame: uint8[H, W, 3] -> uint8[S, S, 3].

    Faces larger than the crop are first reduced by area averaging: a bilinear warp alone skips
    pixels, which shows as crawling stubble.
    """
    import cv2

    size, matrix = alignment.size, alignment.matrix
    factor = int(1 / max(float(np.hypot(matrix[0, 0], matrix[1, 0])), 1e-6))
    if factor < 2:
        return _warped(image, matrix, size)
    x0, y0, x1, y1 = footprint(alignment, image.shape[:2], margin=factor)
    if x1 - x0 < factor or y1 - y0 < factor:
        return np.zeros((size, size, 3), np.uint8)
    # The cut is a whole number of reduced pixels, so that the reduction has one exact factor.
    x1, y1 = x0 + (x1 - x0) // factor * factor, y0 + (y1 - y0) // factor * factor
    smaller = (x1 - x0) // factor, (y1 - y0) // factor
    part = cv2.resize(image[y0:y1, x0:x1], smaller, interpolation=cv2.INTER_AREA)
    # Pixel centres: reduced (u, v) is full ((u + 0.5) * factor - 0.5 + x0, ...).
    reduced = matrix.copy()
    reduced[:, :2] *= factor
    shift = np.array([x0 + (factor - 1) / 2, y0 + (factor - 1) / 2], np.float32)
    reduced[:, 2] = matrix[:, 2] + matrix[:, :2] @ shift
    return _warped(part, reduced, size)


def _warped(image: Any, matrix: Any, size: int) -> U8:
    import cv2

    edge = cv2.BORDER_REPLICATE
    warped = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=edge)
    return np.asarray(warped, np.uint8)


def footprint(
    alignment: Alignment, shape: tuple[int, ...], top: int = 0, margin: int = 1
) -> tuple[int, int, int, int]:
    """Bounding box (x0, y0, x1, y1) in the frame of the crop's rows from `top` on, clipped."""
    size = alignment.size
    import cv2

    inverse = cv2.invertAffineTransform(alignment.matrix)  # numpy's wakes threads that spin
    corners = np.array([(0, top), (size, top), (0, size), (size, size)], np.float32)
    box = transform(corners, np.asarray(inverse, np.float32))
    x0, y0 = np.floor(box.min(0)).astype(int) - margin
    x1, y1 = np.ceil(box.max(0)).astype(int) + margin
    height, width = shape[0], shape[1]
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)


def block_box(
    rectangle: tuple[float, float, float, float], to_frame: F32, shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Box (x0, y0, x1, y1) in the frame of a rectangle of a crop, in whole blocks of chroma."""
    left, top, right, bottom = rectangle
    corners = np.array([(left, top), (right, top), (left, bottom), (right, bottom)], np.float32)
    there = transform(corners, to_frame)
    (x0, y0), (x1, y1) = np.floor(there.min(0)).astype(int), np.ceil(there.max(0)).astype(int) + 1
    height, width = shape[0], shape[1]  # at an odd border the last block is cut
    x0, y0 = int(max(x0, 0)) // 2 * 2, int(max(y0, 0)) // 2 * 2
    return x0, y0, int(min(x1 + x1 % 2, width)), int(min(y1 + y1 % 2, height))


@cache
def _border_ramp(size: int) -> F32:
    """f32[S, S]: 0 in the visible half and at the crop's edges, 1 inside the hidden half."""
    index = np.arange(size) * (CROP_SIZE / size)
    left = index[::-1]  # rows or columns up to the last, where the crop ends
    # Six rows of fade under the nose: fewer show a line on the upper lip, more soften the lip.
    vertical = np.clip((index - CROP_SIZE / 2) / 6, 0, 1) * np.clip(left / 5, 0, 1)
    horizontal = np.clip(np.minimum(index, left) / 8, 0, 1)
    return (vertical[:, None] * horizontal[None, :]).astype(np.float32)


def jaw_mask(landmarks: F32, alignment: Alignment) -> F32:
    """What may change with speech: mouth, cheeks, chin and the strip that an opening jaw covers.

    Returns:
        f32[S, S] in 0..1, feathered; 0 outside the hidden half.
    """
    import cv2

    size = alignment.size
    unit = size / CROP_SIZE
    jaw = transform(landmarks[list(JAW)], alignment.matrix)
    centre = jaw.mean(0)
    # Sides are drawn in, so that hair, ears and background keep their pixels; the chin is let out,
    # so that a mouth that opens wider than the original has room for its chin.
    jaw[:, 0] = centre[0] + 0.93 * (jaw[:, 0] - centre[0])
    below = np.clip((jaw[:, 1] - centre[1]) / (20 * unit), 0, 1)
    jaw[:, 1] += 7 * unit * below
    mask = np.zeros((size, size), np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(jaw).astype(np.int32)), (1.0,))
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), 3.0 * unit), np.float32)
    return np.minimum(mask, 1) * _border_ramp(size)


def lips_mask(landmarks: F32, alignment: Alignment) -> F32:
    """Soft mask of the lips and the mouth between them, f32[S, S] in 0..1."""
    import cv2

    size = alignment.size
    unit = size / CROP_SIZE
    lips = transform(landmarks[list(LIPS_OUTER)], alignment.matrix)
    centre = lips.mean(0)
    lips = centre + (lips - centre) * np.array([1.1, 1.25], np.float32)
    mask = np.zeros((size, size), np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(lips).astype(np.int32)), (1.0,))
    mask = np.asarray(cv2.dilate(mask, np.ones((5, 5), np.uint8)), np.float32)
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), 2.5 * unit), np.float32)
    return np.minimum(mask, 1)
