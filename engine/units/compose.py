"""A unit's mouth in the frame: both brought to one shape, the light made alike, cross-faded.

Everything is done at the frame's own resolution, with one resampling of each picture.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.compositing.harmonize import weighted
from lipwire.engine.face.alignment import CROP_SIZE, JAW, LIPS_OUTER, transform
from lipwire.engine.types import F32, U8, Alignment, Patch
from lipwire.engine.units.lips import draw
from lipwire.engine.units.morph import Morph, target_of
from lipwire.engine.units.resample import LowerFace, crisp, extent, inverse
from lipwire.engine.units.unit import Unit, to_small_crop

# The mask's outline: the jaw, drawn in towards the mouth. Less drawn in: hair and collar of the
# unit's frame show; more: a chin that does not belong to the mouth.
JAW_DRAWN_IN = np.array([0.80, 0.92], np.float32)
MASK_BLUR_PX = 3.5
# Light that differs by more is a lip or a fold that moved, not light.
ODD_LEVELS = 32.0
TINT_REACH = 2.5  # cells
# Detail finer than this, pixels of the frame, passes from one picture to the other over the middle
# fifth of the fade (Burt and Adelson, 1983): the mean of two grains is 0.7 of either, a soft ring
# around the mouth. Coarser: folds and edges of lips are cut.
FINE_PX, FINE_FADE = 2.0, 5.0


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
    face = LowerFace(image, to_crop)
    if face.empty or strength <= 0:
        return Patch(0, 0, np.zeros((0, 0, 3), np.float32))
    morph = Morph(unit.landmarks, frame, target)
    in_unit, in_frame = morph.sources(face.nodes)
    mask = face.placed(mouth_mask(target) * np.float32(strength), to_crop)
    # Each picture is fetched where it is needed: the frame where it moves, the unit under the mask.
    below = face.moved(in_frame, crisply=True)
    change = np.asarray(cv2.subtract(below, face.original, dtype=cv2.CV_32F), np.float32)
    if (part := extent(mask > 0)) is not None:
        in_unit = transform(in_unit, inverse(unit.to_crop))
        shown = crisp(face.fetched(unit.picture, in_unit, part))
        draw(face, shown, part, unit.picture, unit.to_crop, morph)
        under, weight = below[part], mask[part]
        difference = np.asarray(cv2.subtract(shown, under, dtype=cv2.CV_32F), np.float32)
        difference -= tint(shown, under, weight, face.step)
        change[part] += cross_faded(difference, weight)
    return Patch(*face.corner, change, face.window())


def cross_faded(difference: F32, weight: F32) -> F32:
    """What showing another picture by `weight` changes, without losing detail in between.

    Args:
        difference: f32[h, w, 3], the other picture less the one below.
        weight: f32[h, w], 0 to 1.
    """
    import cv2

    slow = np.asarray(cv2.GaussianBlur(difference, (0, 0), FINE_PX), np.float32)
    fine = np.clip(FINE_FADE * (weight - 0.5) + 0.5, 0, 1)
    return np.asarray(
        cv2.add(weighted(slow, weight - fine), weighted(difference, fine)), np.float32
    )


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
