"""Reshape: the frame's own lips are moved, the model paints what they do not show."""

from __future__ import annotations

import numpy as np
from mouths import mouth, speaking

from lipwire.engine.face.alignment import align, alignment_from, fit_similarity, transform
from lipwire.engine.face.articulation import raw_codes
from lipwire.engine.media.planes import paint_image
from lipwire.engine.types import F32, U8, Alignment
from lipwire.engine.units.reshape import reshape

BLUE = np.array([0, 0, 255], np.float32)


def place(opening_px: float) -> Alignment:
    return alignment_from(fit_similarity(mouth(opening_px), 128), 128)


def codes(opening_px: float) -> F32:
    points = transform(mouth(opening_px), place(opening_px).matrix)
    return raw_codes(points[None])[0]


def made(frame_px: float, wanted_px: float, strength: float = 1.0) -> U8:
    """A frame that is to look otherwise, by a model that paints everything blue."""
    image, alignment = speaking(frame_px), place(frame_px)
    crop = align(image, alignment)
    painted = np.full_like(crop, BLUE.astype(np.uint8))
    patch = reshape(image, painted, alignment, mouth(frame_px), codes(wanted_px), strength)
    return paint_image(image, patch)


def blue(image: U8, frame_px: float, opening_px: float) -> F32:
    """Where a frame is blue, f32[rows, columns] around where the lips would be, 0 to 1."""
    x, y = mouth(opening_px)[[13, 14, 61, 291]].mean(0)
    part = image[round(y) - 20 : round(y) + 20, round(x) - 26 : round(x) + 26].astype(np.float32)
    old = speaking(frame_px)[round(y) - 20 : round(y) + 20, round(x) - 26 : round(x) + 26]
    return np.clip((part[..., 2] - part[..., 0] - old[..., 2] + old[..., 0]) / 255, 0, 1)


def test_a_mouth_that_is_held_as_wanted_stays_as_it_is() -> None:
    change = np.abs(made(6.0, 6.0).astype(int) - speaking(6.0))
    assert change.max() <= 12 and np.percentile(change, 99.9) <= 3


def test_only_the_inside_of_a_mouth_that_opens_is_the_model_s() -> None:
    image = made(0.0, 9.0)
    painted = blue(image, 0.0, 9.0)
    assert painted.max() > 0.9
    assert (painted > 0.5).mean() < 0.3  # lips and chin are the frame's own


def test_lips_that_shut_are_the_frame_s() -> None:
    image = made(7.0, 0.0)
    assert blue(image, 7.0, 2.0).max() < 0.3  # the model's would be blue
    x, y = mouth(2.0)[[13, 14]].mean(0).round().astype(int)
    lips = image[y - 2 : y + 3, x - 6 : x + 7].reshape(-1, 3).astype(int)
    assert np.abs(lips - (170, 60, 70)).mean() < 30


def test_a_mouth_that_is_open_already_keeps_its_own_teeth() -> None:
    assert blue(made(8.0, 9.0), 8.0, 9.0).max() < 0.1


def test_upper_half_and_all_around_stay_bit_for_bit() -> None:
    image, alignment = speaking(0.0), place(0.0)
    rows, columns = np.nonzero((made(0.0, 9.0) != image).any(2))
    crop = transform(np.stack([columns, rows], 1).astype(np.float32), alignment.matrix)
    assert len(crop) and crop[:, 1].min() >= 64 - 0.5


def test_strength_fades_between_the_frame_and_the_wanted_mouth() -> None:
    image = speaking(0.0)
    assert (made(0.0, 9.0, strength=0.0) == image).all()
    half, whole = (np.abs(made(0.0, 9.0, s).astype(int) - image).sum() for s in (0.5, 1.0))
    assert 0.1 < half / whole < 0.9


def test_a_face_outside_the_picture_changes_nothing() -> None:
    image = speaking(0.0)
    far = mouth(0.0) + np.float32(5000)
    alignment = alignment_from(fit_similarity(far, 128), 128)
    crop = np.zeros((128, 128, 3), np.uint8)
    assert not reshape(image, crop, alignment, far, codes(9.0)).change.size
