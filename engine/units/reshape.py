"""A generated mouth in the frame: its shape in the frame's own lips and chin, its inside painted.

A generated mouth is as fine as the model's crop. Lips, chin and the skin around them are in the
frame already, as fine as the camera took them, and are only held otherwise: they are moved to what
the voice asks for, and lips that draw together slide over the teeth. What the frame does not show
is the model's: teeth and tongue in a mouth that opens.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.face.alignment import transform
from lipwire.engine.face.articulation import OPENING, raw_codes
from lipwire.engine.types import F32, U8, Alignment, Patch
from lipwire.engine.units.lips import draw
from lipwire.engine.units.morph import Morph, target_of
from lipwire.engine.units.resample import LowerFace
from lipwire.engine.units.shape import OPENINGS, allowed_change
from lipwire.engine.units.unit import to_small_crop

# A mouth is moved by at most so much of each code, pixels of the 128 px crop. Less: wide mouths are
# not reached; more: chins are stretched where a code was measured or heard wrongly.
MOST_PX = 8.0
# How many times as far as the frame's own mouth (and a pixel) is open the wanted one is: between
# these its inside passes from the frame's to the model's. Lower: soft teeth where sharp ones would
# do; higher: the frame's teeth are stretched to twice their length.
OPENS = 1.2, 1.8


def reshape(
    image: U8,
    generated: U8 | None,
    alignment: Alignment,
    landmarks: F32,
    wanted: F32,
    strength: float = 1.0,
) -> Patch:
    """What showing a mouth as it is wanted changes in a frame.

    Args:
        image: uint8[H, W, 3].
        generated: uint8[S, S, 3], the model's version of the crop; None where it had no time: the
            mouth then opens as far as what is within it allows.
        alignment: frame -> crop.
        landmarks: f32[468, 2], pixels of the frame.
        wanted: f32[codes], how the mouth is to be held, as measured.
        strength: 0 leaves the frame as it is.

    Returns:
        The change; exactly 0 in the upper half of the face and outside the lower one.
    """
    import cv2

    to_crop = to_small_crop(alignment)
    frame = transform(landmarks, to_crop)
    shown = raw_codes(frame[None])[0]
    if generated is None:
        change = allowed_change(wanted, shown)
    else:
        change = np.clip(wanted - shown, -MOST_PX, MOST_PX)
        # However far lips come together, nothing between them is squeezed.
        change[OPENINGS] = np.clip(wanted - shown, -shown, MOST_PX)[OPENINGS]
    target = frame + np.float32(strength) * (target_of(frame, frame, change) - frame)
    face = LowerFace(image, to_crop)
    if face.empty or strength <= 0:
        return Patch(0, 0, np.zeros((0, 0, 3), np.float32))
    morph = Morph(frame, frame, target)
    _, in_frame = morph.sources(face.nodes)
    own, window = face.moved(in_frame, crisply=True), face.window()
    opens = _share(float(wanted[OPENING]) / (float(shown[OPENING]) + 1), OPENS)
    painted, share = None, 0.0  # all of it is in the frame
    if generated is not None and opens:
        painted = face.placed(generated.astype(np.float32), alignment.matrix)
        share = float(opens) * strength
    box = slice(0, face.shape[0]), slice(0, face.shape[1])
    draw(face, own, box, image, to_crop, morph, painted, share)
    difference = np.asarray(cv2.subtract(own, face.original, dtype=cv2.CV_32F), np.float32)
    return Patch(*face.corner, difference, window)


def _share(value: float, limits: tuple[float, float]) -> np.float32:
    """From 0 to 1 between two limits."""
    return np.float32(np.clip((value - limits[0]) / (limits[1] - limits[0]), 0, 1))
