"""A unit's mouth in the frame: both brought to one shape, the light made alike, cross-faded.

Everything is done at the frame's own resolution, with one resampling of each picture.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lipwire.engine.compositing.harmonize import weighted
from lipwire.engine.face.alignment import CROP_SIZE, JAW, LIPS_OUTER, transform
from lipwire.engine.types import F32, U8, Alignment, Patch
from lipwire.engine.units.morph import Morph, target_of
from lipwire.engine.units.unit import Unit, to_small_crop

# Pixels of the 128 px crop between two nodes of the warp; between them it is linear.
NODE_PX = 4.0
# Where the frame may be moved, pixels of the crop: inside, fading out over `EDGE_PX`.
FIELD = (14.0, 65.0, 114.0, 134.0)  # left, top, right, bottom
EDGE_PX = 8.0
# Less than this is not worth a resampling, pixels of the frame.
STILL_PX = 0.05
# The mask's outline: the jaw, drawn in towards the mouth. Less drawn in: hair and collar of the
# unit's frame show; more: a chin that does not belong to the mouth.
JAW_DRAWN_IN = np.array([0.80, 0.92], np.float32)
MASK_BLUR_PX = 3.5
# Light that differs by more is a lip or a fold that moved, not light.
ODD_LEVELS = 32.0
TINT_REACH = 2.5  # cells
# Unsharp masking of what moving by parts of a pixel blurs: the finest detail, grain and traces of
# compression, by which a mouth is told from the film around it. Less: 0.75 of the film's is left in
# skin at 0; more: 1.06 of it at 1.
CRISP, CRISP_RADIUS_PX = 0.5, 0.7
# Boxes of more pixels are fetched linearly: faces of 350 px and more, whose units are enlarged
# anyway. Bicubic takes twice as long there, the time of the next frame.
LARGE_PX = 90_000
_WHOLE: F32 = np.empty(0, np.float32)  # no second map: the first has both coordinates

Part = tuple[slice, slice]
"""rows and columns"""


def mouth_mask(target: F32) -> F32:
    """Where the unit is shown, f32[128, 128]: lips and chin, fading out towards cheeks and jaw."""
    import cv2

    centre = target[list(LIPS_OUTER)].mean(0)
    low = centre + (target[list(JAW[4:17])] - centre) * JAW_DRAWN_IN
    outline = np.concatenate([low, target[[205, 425, 97, 326, 2]]])
    mask = np.zeros((CROP_SIZE + 16, CROP_SIZE), np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(outline).astype(np.int32)), (1.0,))
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), MASK_BLUR_PX), np.float32)
    rows = np.arange(len(mask), dtype=np.float32)
    under_nose = max(float(target[2, 1]) - 1.0, CROP_SIZE / 2)
    mask *= np.clip((rows - under_nose) / 5, 0, 1)[:, None]
    mask = np.asarray(cv2.threshold(mask, 1e-3, 0, cv2.THRESH_TOZERO)[1], np.float32)
    return np.minimum(mask, 1)


def put(
    image: U8,
    alignment: Alignment,
    landmarks: F32,
    unit: Unit,
    strength: float = 1.0,
    change: F32 | None = None,
) -> Patch:
    """What showing a unit's mouth changes in a frame.

    Args:
        image: uint8[H, W, 3].
        alignment: frame -> crop.
        landmarks: f32[468, 2], pixels of the frame.
        unit: the mouth.
        strength: 0 leaves the frame as it is.
        change: f32[codes], by how much the unit's codes are changed; None: not at all.

    Returns:
        The change; exactly 0 in the upper half of the face and outside the lower one.
    """
    import cv2

    to_crop = to_small_crop(alignment)
    frame = transform(landmarks, to_crop)
    # A mouth that fades in is the frame's that takes the unit's shape, not two at once.
    target = frame + np.float32(strength) * (target_of(unit.landmarks, frame, change) - frame)
    x0, y0, x1, y1 = box = _box(to_crop, image.shape[:2])
    high, wide = y1 - y0, x1 - x0
    if wide < 4 or high < 4 or strength <= 0:
        return Patch(0, 0, np.zeros((0, 0, 3), np.float32))
    step = max(round(NODE_PX / float(np.hypot(*to_crop[:, 0]))), 2)
    in_unit, in_frame, moves, window = _maps(
        unit, frame, target, to_crop, box, step, image.shape[0]
    )
    how = cv2.INTER_CUBIC if high * wide <= LARGE_PX else cv2.INTER_LINEAR
    here = to_crop.copy()
    here[:, 2] += here[:, 0] * x0 + here[:, 1] * y0
    mask = _warped(mouth_mask(target) * np.float32(strength), here, (wide, high))
    # Each picture is fetched where it is needed: the frame where it moves, the unit under the mask.
    original = image[y0:y1, x0:x1]
    below, change = original.copy(), np.zeros((high, wide, 3), np.float32)
    if (moving := _extent(moves)) is not None:
        rows, columns = (
            slice(max((s.start - 2) * step, 0), min(s.stop * step, most))
            for s, most in zip(moving, (high, wide), strict=True)
        )
        part: Part = rows, columns
        below[part] = _fetched(image, _fine(in_frame, step, part), how)
        change[part] = cv2.subtract(below[part], original[part], dtype=cv2.CV_32F)
    if (seen := _extent(mask > 0)) is not None:
        part = seen
        shown = crisp(_fetched(unit.picture, _fine(in_unit, step, part), how))
        under, weight = below[part], mask[part]
        difference = np.asarray(cv2.subtract(shown, under, dtype=cv2.CV_32F), np.float32)
        difference -= tint(shown, under, weight, step)
        change[part] += weighted(difference, weight)
    return Patch(x0, y0, change, _fine(window, step, (slice(0, high), slice(0, wide))))


def _maps(
    unit: Unit,
    frame: F32,
    target: F32,
    to_crop: F32,
    box: tuple[int, int, int, int],
    step: int,
    height: int,
) -> tuple[F32, F32, npt.NDArray[np.bool_], F32]:
    """For nodes all over a box their places in the unit and in the frame, and how far they move.

    Args:
        unit: the mouth.
        frame: f32[468, 2], landmarks of the frame in the crop.
        target: f32[468, 2], those of the face to show.
        to_crop: f32[2, 3], frame -> crop.
        box: (x0, y0, x1, y1), pixels of the frame.
        step: pixels between two nodes; the first lies a step before the middle of the box's first.
        height: of the frame.

    Returns:
        f32[n, m, 2], f32[n, m, 2], bool[n, m] whether the frame moves there, and f32[n, m] how far
        it may: 1 inside the lower face, 0 at its edges.
    """
    x0, y0, x1, y1 = box
    across, down = (-(-size // step) + 2 for size in (x1 - x0, y1 - y0))
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(down)), axis=-1).astype(np.float32)
    first = np.array([x0, y0], np.float32) - (step + 1) / 2
    places = np.asarray(grid.reshape(-1, 2) * step + first, np.float32)
    nodes = transform(places, to_crop)
    in_unit, in_frame = Morph(unit.landmarks, frame, target).sources(nodes)
    window = _window(nodes) * np.clip((height - 1 - places[:, 1]) / (2 * step), 0, 1)
    moved = (in_frame - nodes) * window[:, None] @ _inverse(to_crop)[:, :2].T
    moves = np.abs(moved).max(1) >= STILL_PX
    places[moves] += moved[moves]
    shape = down, across
    return (
        transform(in_unit, _inverse(unit.to_crop)).reshape(*shape, 2),
        places.reshape(*shape, 2),
        moves.reshape(shape),
        np.asarray(window, np.float32).reshape(shape),
    )


def _fine(coarse: F32, step: int, part: Part) -> F32:
    """What nodes say for the pixels of a part of their box, linear between them, f32[h, w, ..].

    Not by `cv2.warpAffine`: it has 32 places between two nodes, which makes stairs of straight
    edges.
    """
    import cv2

    near = [slice(s.start // step, -(-s.stop // step) + 2) for s in part]
    some = coarse[near[0], near[1]]
    size = some.shape[1] * step, some.shape[0] * step
    rows, columns = (
        slice(s.start + step - n.start * step, s.stop + step - n.start * step)
        for s, n in zip(part, near, strict=True)
    )
    return np.asarray(cv2.resize(some, size, interpolation=cv2.INTER_LINEAR), np.float32)[
        rows, columns
    ]


def _extent(there: npt.NDArray[np.bool_]) -> Part | None:
    """Around what is true; None if nothing is."""
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _warped(picture: F32, matrix: F32, size: tuple[int, int]) -> F32:
    """Fetched linearly, f32[h, w, ..], each pixel from where f32[2, 3] maps it; edges go on."""
    import cv2

    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(picture, matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE),
        np.float32,
    )


def _fetched(picture: U8, places: F32, how: int) -> U8:
    """A picture's pixels at f32[h, w, 2]; whole places give the very pixels."""
    import cv2

    return np.asarray(
        cv2.remap(picture, places, _WHOLE, how, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def crisp(picture: U8) -> U8:
    """Sharpened by `CRISP`, without halos: no pixel leaves the range of its neighbours."""
    import cv2

    soft, around = cv2.GaussianBlur(picture, (0, 0), CRISP_RADIUS_PX), np.ones((3, 3), np.uint8)
    sharp = cv2.addWeighted(picture, 1 + CRISP, soft, -CRISP, 0)
    least, most = cv2.erode(picture, around), cv2.dilate(picture, around)
    return np.asarray(cv2.min(cv2.max(sharp, least), most), np.uint8)


def _inverse(matrix: F32) -> F32:
    import cv2

    return np.asarray(cv2.invertAffineTransform(matrix), np.float32)


def _window(points: F32) -> F32:
    """1 where the frame may be moved, 0 outside `FIELD`, f32[N]."""
    left, top, right, bottom = FIELD
    x, y = points[:, 0], points[:, 1]
    inside = np.minimum(np.minimum(x - left, right - x), np.minimum(y - top, bottom - y))
    return np.clip(inside / np.float32(EDGE_PX), 0, 1)


def tint(shown: U8, below: U8, mask: F32, step: float) -> F32:
    """By how much the unit is brighter than the frame, the slow part, f32[h, w, 3].

    It is seen where the mask fades, where both show the same skin, and carried inwards by
    normalised convolution (Knutsson and Westin, 1993) on a coarse grid.
    """
    import cv2

    high, wide = mask.shape
    cells = max(round(wide / step), 4), max(round(high / step), 4)
    small, other, soft = (
        cv2.resize(picture, cells, interpolation=cv2.INTER_AREA).astype(np.float32)
        for picture in (shown, below, mask)
    )
    value = small - other
    rim = 4 * soft * (1 - soft)
    weight = rim / (1 + (np.abs(value).sum(2) / 3 / ODD_LEVELS) ** 2)
    parts = cv2.merge([*cv2.split(value * weight[..., None]), weight])
    spread = cv2.GaussianBlur(parts, (0, 0), TINT_REACH)
    field = spread[..., :3] / (spread[..., 3:] + np.float32(1e-3))
    return np.asarray(cv2.resize(field, (wide, high), interpolation=cv2.INTER_LINEAR), np.float32)


def _box(to_crop: F32, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    left, top, right, bottom = FIELD
    corners = np.array([(left, top), (right, top), (left, bottom), (right, bottom)], np.float32)
    there = transform(corners, _inverse(to_crop))
    (x0, y0), (x1, y1) = np.floor(there.min(0)).astype(int), np.ceil(there.max(0)).astype(int) + 1
    height, width = shape[0], shape[1]
    return (
        int(max(x0, 0)) // 2 * 2, int(max(y0, 0)) // 2 * 2,
        int(min(x1 + x1 % 2, width)), int(min(y1 + y1 % 2, height)),
    )  # fmt: skip
