"""From crop back to frame: what a generated mouth changes, and nothing else."""

from __future__ import annotations

import numpy as np

from engine.face import footprint, jaw_mask, lips_mask
from engine.planes import paint_image
from engine.types import F32, U8, Alignment, Patch


def colour_match(generated: F32, original: F32, mask: F32) -> F32:
    """Shift `generated` so that its mean colour where the mask fades equals the original's.

    That rim should be the same skin in both; what differs there is the model's colour cast.
    """
    rim = mask * (1 - mask)
    weight = float(rim.sum())
    if weight < 1.0:
        return generated
    offset = np.einsum("yxc,yx->c", original - generated, rim) / np.float32(weight)
    return np.asarray(generated + offset, np.float32)


def blend(
    image: U8, crop: U8, generated: U8, alignment: Alignment, landmarks: F32, strength: float = 1.0
) -> Patch:
    """What putting a generated mouth back into its frame changes.

    Skin finer than the crop can hold is kept: only the difference that the model made, at the
    crop's resolution, is added to the frame; on the lips and teeth, where the old detail would
    shine through, the frame's own detail is taken out first.

    Args:
        image: uint8[H, W, 3], the frame.
        crop: uint8[S, S, 3], what `align` cut out of it.
        generated: uint8[S, S, 3], the model's version of it.
        alignment: the one `crop` was cut with.
        landmarks: f32[468, 2] of this frame.
        strength: 0 leaves the frame as it is, 1 shows all of the generated mouth.

    Returns:
        The change; exactly 0 where the mask is zero.
    """
    import cv2

    size = alignment.size
    height, width = image.shape[:2]
    x0, y0, x1, y1 = footprint(alignment, (height, width), top=size // 2)
    # Whole blocks of chroma; at an odd border the last one is cut.
    x0, y0, x1, y1 = x0 // 2 * 2, y0 // 2 * 2, min(x1 + x1 % 2, width), min(y1 + y1 % 2, height)
    if x1 <= x0 or y1 <= y0 or strength <= 0:
        return Patch(0, 0, np.zeros((0, 0, 3), np.float32))
    mask = jaw_mask(landmarks, alignment)
    old = crop.astype(np.float32)
    new = colour_match(generated.astype(np.float32), old, mask)
    # Wanted: here + m * (new - old - lips * (here - old)), where here - old is the detail finer
    # than the crop. Sorted by what depends on the frame, only four planes need to be warped.
    mask = mask * np.float32(strength)
    erased = mask * lips_mask(landmarks, alignment)
    added = mask[..., None] * (new - old) + erased[..., None] * old
    to_crop = alignment.matrix.astype(np.float64)
    to_crop[:, 2] += to_crop[:, 0] * x0 + to_crop[:, 1] * y0
    warped = cv2.warpAffine(
        cv2.merge([added, erased]),
        to_crop,
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    here = image[y0:y1, x0:x1]
    change = warped[..., :3] - here * warped[..., 3:]
    return Patch(x0, y0, change)


def composite(
    image: U8, crop: U8, generated: U8, alignment: Alignment, landmarks: F32, strength: float = 1.0
) -> U8:
    """The frame with the mouth in it, a new uint8[H, W, 3]; see `blend`."""
    return paint_image(image, blend(image, crop, generated, alignment, landmarks, strength))
