"""From crop back to frame: what a generated mouth changes, and nothing else.

    generated -> colour of its rim -> sharpness -> grain -> new
    new - old -> where it is nothing, nothing -> to the frame's pixels (bicubic) -> change

Grain is the frame's own: what is fine and weak in the original stays, so that it has the spectrum
of this camera and codec and moves as they do.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.compositing.harmonize import (
    blurred,
    colour_field,
    grain_level,
    grain_of,
    sharpened,
    sharpening,
    smoothstep,
    strongest,
    weighted,
)
from lipwire.engine.face.alignment import CROP_SIZE, block_box, footprint, jaw_mask, lips_mask
from lipwire.engine.media.planes import paint_image
from lipwire.engine.types import F32, U8, Alignment, Patch

# Rows (of 128) of the visible half that show skin, where grain is measured, and whose eyes and
# nose say how sharp the picture is.
SKIN_ROWS = slice(46, 64)
SHARP_ROWS = slice(24, 62)
SIDES = slice(20, 108)  # columns of both: hair and background are left out
# Differences that nobody sees: below the first the original's pixels stay, above the second all of
# the generated ones are taken; grain comes on top. Lower: stubble and beards are repainted for
# nothing; higher: cheeks do not follow the mouth.
SAME_LEVELS, OTHER_LEVELS = 1.5, 5.0
# From here on it is no longer the same skin, so that the frame's own detail goes: chin where there
# were lips, teeth where there was a lip. Lower: skin loses its pores; higher: stubble on the lips.
FRESH_LEVELS = (14.0, 36.0)


def matched(old: F32, generated: F32, mask: F32, lips: F32) -> F32:
    """The generated half made alike to its surroundings, f32[S, S, 3].

    Args:
        old: f32[S, S, 3], the frame's crop.
        generated: f32[S, S, 3].
        mask: f32[S, S], what is painted.
        lips: f32[S, S], the lips among it.
    """
    unit = old.shape[0] / CROP_SIZE
    new = generated + colour_field(old - generated, mask)
    soft_old, soft_new = blurred(old, unit), blurred(new, unit)
    fine_old, fine_new = old - soft_old, new - soft_new
    green = 1
    skin, features, sides = (_scaled(part, unit) for part in (SKIN_ROWS, SHARP_ROWS, SIDES))
    level = grain_level(fine_old[skin, sides, green])
    # Sharpness: what grain adds is taken out first.
    inside = lips > 0.5
    if inside.any():
        coarse_old = soft_old[features, sides, green] - blurred(
            soft_old[features, sides, green], 2 * unit
        )
        coarse_new = soft_new[..., green] - blurred(soft_new[..., green], 2 * unit)
        edges = fine_old[features, sides, green]
        edges = edges - grain_of(edges, level)
        amount = sharpening((edges, coarse_old), (fine_new[inside, green], coarse_new[inside]))
        if amount > 0:
            new = sharpened(new, fine_new, lips * np.float32(amount))
    if level > 0:
        # What the model has of it already, as it takes pixels from references.
        below = slice(len(old) // 2, None)
        there = grain_level(fine_new[below, sides, green], mask[below, sides])
        share = np.sqrt(max(0.0, 1 - (there / level) ** 2))
        new = new + np.float32(share) * grain_of(fine_old, level)
    return new


def blend(
    image: U8, crop: U8, generated: U8, alignment: Alignment, landmarks: F32, strength: float = 1.0
) -> Patch:
    """What putting a generated mouth back into its frame changes.

    Skin finer than the crop can hold is kept: only the difference that the model made, at the
    crop's resolution, is added to the frame; on lips, teeth and all that is new, where the old
    detail would shine through, the frame's own detail but its grain is taken out.

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

    unit = alignment.size / CROP_SIZE
    mask, lips = jaw_mask(landmarks, alignment), lips_mask(landmarks, alignment)
    x0, y0, x1, y1 = box = _box_of(mask, alignment, image.shape[:2])
    if x1 <= x0 or y1 <= y0 or strength <= 0:
        return Patch(0, 0, np.zeros((0, 0, 3), np.float32))
    old = crop.astype(np.float32)
    new = matched(old, generated.astype(np.float32), mask, lips)
    difference = new - old
    much = blurred(strongest(np.abs(blurred(difference, 1.5 * unit))), 2 * unit)
    face, mask = mask, mask * smoothstep(much, SAME_LEVELS, OTHER_LEVELS)
    erased = mask * np.maximum(lips, smoothstep(much, *FRESH_LEVELS))

    def to_frame(picture: F32, box: tuple[int, int, int, int], how: int) -> F32:
        left, top, right, bottom = box
        to_crop = alignment.matrix.astype(np.float64)
        to_crop[:, 2] += to_crop[:, 0] * left + to_crop[:, 1] * top
        shape = right - left, bottom - top
        flags = how | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(picture, to_crop, shape, flags=flags), np.float32)

    # Bicubic keeps lips and teeth crisp where they are enlarged. The masks are warped apart: where
    # they are 0 nothing may change, and bicubic's overshoot would reach there.
    together = np.asarray(cv2.merge([mask, erased, face]), np.float32)
    masks = to_frame(together, box, cv2.INTER_LINEAR)
    shown, gone, weight = (np.asarray(part, np.float32) for part in cv2.split(masks))
    change = weighted(to_frame(difference, box, cv2.INTER_CUBIC), shown)
    columns, rows = np.flatnonzero(gone.any(0)), np.flatnonzero(gone.any(1))
    if len(rows):
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        within = x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1
        detail = image[y0:y1, x0:x1][part] - to_frame(old, within, cv2.INTER_LINEAR)
        level = _frame_grain(image, alignment)
        if level > 0:
            detail -= grain_of(detail, level)
        change[part] -= weighted(detail, gone[part])
    return Patch(x0, y0, change if strength == 1 else change * np.float32(strength), weight)


def composite(
    image: U8, crop: U8, generated: U8, alignment: Alignment, landmarks: F32, strength: float = 1.0
) -> U8:
    """The frame with the mouth in it, a new uint8[H, W, 3]; see `blend`."""
    return paint_image(image, blend(image, crop, generated, alignment, landmarks, strength))


def _box_of(mask: F32, alignment: Alignment, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) in the frame of all that a mask lets change, in whole blocks of chroma."""
    import cv2

    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(rows):
        return 0, 0, 0, 0
    rectangle = columns[0] - 1, rows[0] - 1, columns[-1] + 1, rows[-1] + 1
    inverse = np.asarray(cv2.invertAffineTransform(alignment.matrix), np.float32)
    return block_box(rectangle, inverse, shape)


def _frame_grain(image: U8, alignment: Alignment) -> float:
    """Grain of the frame's own pixels, levels, on the skin above the mouth."""
    unit = alignment.size / CROP_SIZE
    x0, y0, x1, _ = footprint(alignment, image.shape[:2], top=round(SKIN_ROWS.start * unit))
    below = footprint(alignment, image.shape[:2], top=round(SKIN_ROWS.stop * unit))
    inset = (x1 - x0) // 6
    green = image[y0 : max(below[1], y0), x0 + inset : x1 - inset, 1].astype(np.float32)
    if not green.size:
        return 0.0
    # As fine as what a crop does not hold.
    fine_px = max(0.8, 0.5 / float(np.hypot(*alignment.matrix[0, :2])))
    return grain_level(green - blurred(green, fine_px))


def _scaled(part: slice, unit: float) -> slice:
    return slice(round(part.start * unit), round(part.stop * unit))
