"""What a generated mouth changes, on pictures whose every pixel is known."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import face_mesh, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.blend import colour_match, composite
from engine.face import (
    CROP_SIZE,
    align,
    alignment_from,
    fit_similarity,
    jaw_mask,
    lips_mask,
    transform,
)
from engine.types import F32, Alignment


def aligned(
    centre: tuple[float, float] = (160, 120), width_px: float = 90, roll: float = 0.0,
    size: int = CROP_SIZE,
) -> tuple[F32, Alignment]:  # fmt: skip
    """A face in the frame, turned by `roll` radians, and its alignment."""
    cos, sin = np.cos(roll), np.sin(roll)
    turned = face_mesh((0, 0), width_px) @ np.array([[cos, sin], [-sin, cos]]) + centre
    landmarks = np.asarray(turned, np.float32)
    return landmarks, alignment_from(fit_similarity(landmarks, size), size)


# --- colour ---


def test_a_colour_cast_is_taken_out() -> None:
    landmarks, alignment = aligned()
    mask = jaw_mask(landmarks, alignment)
    original = picture(128, 128).astype(np.float32)
    cast = np.array([12, -20, 5], np.float32)
    matched = colour_match(original + cast, original, mask)
    assert np.abs(matched - original).max() < 0.01
    # What differs only inside the mouth is no cast and stays.
    mouth = np.zeros((128, 128, 1), np.float32)
    mouth[88:92, 56:72] = 90
    kept = colour_match(original + mouth, original, mask)
    assert np.abs(kept - original - mouth).max() < 3


def test_without_a_rim_nothing_is_matched() -> None:
    flat = np.full((128, 128, 3), 9, np.float32)
    assert np.array_equal(colour_match(flat, flat + 50, np.zeros((128, 128), np.float32)), flat)


# --- composite ---

CASES = {
    "plain": ((160, 120), 90, 0.0),
    "rolled": ((150, 110), 80, 0.5),
    "upside": ((160, 120), 70, 2.9),
    "tiny": ((160, 120), 12, 0.0),
    "huge": ((160, 120), 500, 0.1),
    "left edge": ((5, 120), 90, 0.0),
    "corner": ((318, 238), 90, 0.3),
    "below": ((160, 235), 120, 0.0),
}


@pytest.mark.parametrize("case", CASES)
def test_outside_the_mask_every_bit_stays(case: str) -> None:
    landmarks, alignment = aligned(*CASES[case])
    image = picture()
    before = image.copy()
    crop = align(image, alignment)
    out = composite(image, crop, np.full_like(crop, 255), alignment, landmarks)
    assert np.array_equal(image, before)
    assert out.shape == image.shape and out.dtype == np.uint8
    mask = jaw_mask(landmarks, alignment)
    rows, cols = np.mgrid[0:240, 0:320]
    there = transform(np.stack([cols.ravel(), rows.ravel()], 1), alignment.matrix)
    x, y = np.floor(there).astype(int).T
    weight = np.zeros(len(x))
    inside = (x >= 0) & (y >= 0) & (x < 127) & (y < 127)
    for dx in (0, 1):
        for dy in (0, 1):
            near = mask[np.clip(y + dy, 0, 127), np.clip(x + dx, 0, 127)]
            weight = np.maximum(weight, np.where(inside, near, 0))
    # OpenCV places pixels on a grid of 1/32, which may reach into the next one.
    outside = weight.reshape(240, 320) == 0
    changed = (out != image).any(2)
    spill = changed & outside
    assert spill.sum() <= 0.01 * max(changed.sum(), 100)
    assert not changed[there[:, 1].reshape(240, 320) < 64].any()  # the eyes never
    if case not in ("below", "corner"):
        assert changed.any()


@pytest.mark.parametrize("case", CASES)
def test_no_strength_is_no_change(case: str) -> None:
    landmarks, alignment = aligned(*CASES[case])
    image = picture()
    crop = align(image, alignment)
    out = composite(image, crop, np.invert(crop), alignment, landmarks, strength=0.0)
    assert np.array_equal(out, image)
    assert out is not image


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_changes_nothing_changes_little(case: str) -> None:
    landmarks, alignment = aligned(*CASES[case])
    image = picture()
    crop = align(image, alignment)
    out = composite(image, crop, crop, alignment, landmarks)
    difference = np.abs(out.astype(int) - image)
    assert difference.max() <= 6
    assert difference.mean() < 0.2


def test_a_sharp_picture_keeps_its_detail_beside_the_lips() -> None:
    """A face much larger than the crop: what the crop cannot hold must not be lost."""
    rng = np.random.default_rng(0)
    image = np.clip(
        picture(700, 700).astype(int) + rng.integers(-25, 26, (700, 700, 1)), 0, 255
    ).astype(np.uint8)  # fmt: skip
    landmarks, alignment = aligned((350, 300), 450)
    crop = align(image, alignment)
    out = composite(image, crop, crop, alignment, landmarks)
    lips = lips_mask(landmarks, alignment)
    rows, cols = np.mgrid[0:700, 0:700]
    there = transform(np.stack([cols.ravel(), rows.ravel()], 1), alignment.matrix)
    x, y = np.clip(np.rint(there), 0, 127).astype(int).T
    far = (lips[y, x] < 1e-3).reshape(700, 700)
    assert np.abs(out.astype(int) - image)[far].max() <= 2
    assert np.abs(out.astype(int) - image)[~far].max() > 5  # on the lips the old detail went


def test_strength_lies_between() -> None:
    landmarks, alignment = aligned()
    image = picture()
    crop = align(image, alignment)
    generated = crop.copy()
    generated[86:96, 48:80] = 10
    outs = [
        composite(image, crop, generated, alignment, landmarks, strength=s).astype(int)
        for s in (0.0, 0.25, 0.5, 1.0)
    ]
    changes = [np.abs(out - image).sum() for out in outs]
    assert changes[0] == 0
    assert changes[1] == pytest.approx(changes[3] / 4, rel=0.1)
    assert changes[2] == pytest.approx(changes[3] / 2, rel=0.1)


def test_the_mouth_that_was_painted_is_seen() -> None:
    landmarks, alignment = aligned((160, 120), 100)
    image = picture()
    crop = align(image, alignment)
    generated = crop.copy()
    generated[86:96, 48:80] = (150, 20, 20)
    out = composite(image, crop, generated, alignment, landmarks)
    inverse = np.linalg.inv(np.vstack([alignment.matrix, [0, 0, 1]]))[:2].astype(np.float32)
    x, y = np.rint(transform(np.array([[64, 91]]), inverse)[0]).astype(int)
    assert np.abs(out[y, x].astype(int) - (150, 20, 20)).max() < 25


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-200, 600), y=st.floats(-200, 500), width_px=st.floats(8, 800),
    roll=st.floats(-3.1, 3.1),
)  # fmt: skip
def test_no_place_or_size_of_a_face_breaks_it(
    x: float, y: float, width_px: float, roll: float
) -> None:
    image = picture(120, 160)
    landmarks, alignment = aligned((x, y), width_px, roll)
    crop = align(image, alignment)
    assert crop.shape == (128, 128, 3)
    out = composite(image, crop, np.zeros_like(crop), alignment, landmarks)
    assert out.shape == image.shape
