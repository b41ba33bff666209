"""A unit's mouth in the present pose, as the model's crop shows it: where denoising begins."""

from __future__ import annotations

import numpy as np

from lipwire.engine.face.alignment import CROP_SIZE, transform
from lipwire.engine.types import F32, U8
from lipwire.engine.units.morph import Morph, target_of
from lipwire.engine.units.unit import Unit

HALF = CROP_SIZE // 2
NODE_PX = 4  # between two nodes of the warp; between them it is linear


def unit_slot(references: int) -> int:
    """Which of a model's references is the unit; the most closed mouth comes before it."""
    return min(1, references - 1)


def moved_unit(unit: Unit, landmarks: F32, size: int = CROP_SIZE, change: F32 | None = None) -> U8:
    """The lower half of a crop, with the unit's mouth, chin and neck moved to this pose.

    Nothing of the frame's own lower half is in it but the pose: not its mouth, which is to go.

    Args:
        unit: the mouth.
        landmarks: f32[468, 2] of the frame, pixels of the 128 px crop.
        size: of the model's crop, pixels.
        change: f32[codes], by how much the unit's codes are changed; None: not at all.

    Returns:
        uint8[size / 2, size, 3].
    """
    import cv2

    across, down = CROP_SIZE // NODE_PX + 1, HALF // NODE_PX + 1
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(down)), axis=-1)
    nodes = grid.reshape(-1, 2).astype(np.float32) * NODE_PX + np.array([0, HALF], np.float32)
    target = target_of(unit.landmarks, landmarks, change)
    in_unit, _ = Morph(unit.landmarks, landmarks, target).sources(nodes)
    back = np.asarray(cv2.invertAffineTransform(unit.to_crop), np.float32)
    coarse = transform(in_unit, back).reshape(down, across, 2).astype(np.float32)
    # Fetched as finely as the unit is, and averaged: else lips and teeth would alias.
    share = size / CROP_SIZE
    fine = 2 if unit.to_crop[0, 0] * share < 0.75 else 1
    step = np.float32(1 / (NODE_PX * fine * share))
    offset = np.float32(0.5 * (step - 1 / NODE_PX))  # of centres of finer pixels
    finer = np.array([[step, 0, offset], [0, step, offset]], np.float32)
    shape, flags = (size * fine, size // 2 * fine), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    places = cv2.warpAffine(coarse, finer, shape, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    x, y = cv2.split(places)
    shown = cv2.remap(unit.picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if fine > 1:
        shown = cv2.resize(shown, (size, size // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(shown, np.uint8)
