"""Crop and composite, against pictures whose every pixel is known."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import aligned, face_mesh, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from lipwire.engine.face.alignment import (
    CROP_SIZE,
    EAR_TO_EAR,
    JAW,
    LIPS_OUTER,
    STABLE_INDICES,
    align,
    alignment_from,
    face_width_px,
    fit_similarity,
    jaw_mask,
    lips_mask,
    pose_to_similarity,
    profile_ratio,
    similarity_to_pose,
    transform,
)
from lipwire.engine.types import F32, F64


def similarity(scale: float, roll: float, x: float, y: float) -> F64:
    return np.array([scale * np.cos(roll), scale * np.sin(roll), x, y])


def waves(x: F64, y: F64, wavelength_px: float) -> F64:
    """A picture known at every place, not only at whole pixels: red tells x, green tells y."""
    k = 2 * np.pi / wavelength_px
    return np.stack([128 + 110 * np.sin(k * x), 128 + 110 * np.sin(k * y), np.full_like(x, 77)], -1)


# --- similarity ---


@settings(max_examples=100, deadline=None)
@given(
    scale=st.floats(0.05, 8),
    roll=st.floats(-3.1, 3.1),
    x=st.floats(-500, 500),
    y=st.floats(-500, 500),
    size=st.sampled_from([64, 128, 256]),
)
def test_the_fit_finds_the_very_map(
    scale: float, roll: float, x: float, y: float, size: int
) -> None:
    wanted = similarity(scale, roll, x, y)
    template = np.zeros((468, 2))
    upright = face_mesh((0, 0), 100)
    # A face that lies where the template wants it, pulled back through the map.
    a, b = wanted[:2]
    there = transform(upright, alignment_from(fit_similarity(upright, size), size).matrix)
    template[:] = there
    inverse = np.linalg.inv(np.array([[a, -b], [b, a]]))
    landmarks = (template - wanted[2:]) @ inverse.T
    found = fit_similarity(landmarks.astype(np.float32), size)
    # Through `found` the stable points come to lie where they did before, at float32's precision.
    back = transform(landmarks, alignment_from(found, size).matrix)
    assert np.abs(back - there)[list(STABLE_INDICES)].max() < 0.1
    assert np.allclose(found[:2], wanted[:2], rtol=1e-3, atol=1e-3 * scale)


def test_an_upright_face_fills_the_crop_as_the_template_says() -> None:
    landmarks, alignment = aligned()
    there = transform(landmarks, alignment.matrix)
    eyes, chin = there[[33, 263]], there[152]
    assert np.abs(eyes[:, 1] - 31).max() < 4
    assert abs(there[[33, 133, 362, 263], 0].mean() - 64) < 2
    assert 95 < chin[1] < 120
    assert there[JAW, 0].min() > 0
    assert there[JAW, 0].max() < 127
    assert there[list(LIPS_OUTER), 1].min() > 64  # the mouth lies in the hidden half
    assert there[list(LIPS_OUTER), 1].max() < 110


@settings(max_examples=100, deadline=None)
@given(
    scale=st.floats(0.02, 20),
    roll=st.floats(-3.1, 3.1),
    x=st.floats(-2000, 2000),
    y=st.floats(-2000, 2000),
    size=st.sampled_from([64, 128, 256]),
)
def test_pose_and_similarity_are_inverse(
    scale: float, roll: float, x: float, y: float, size: int
) -> None:
    wanted = similarity(scale, roll, x, y)
    pose = similarity_to_pose(wanted, size)
    assert np.allclose(pose_to_similarity(pose, size), wanted, rtol=1e-6, atol=1e-4)
    centre = transform(pose[None, :2], alignment_from(wanted, size).matrix)
    assert np.allclose(centre, size / 2, atol=0.05 * max(1, scale))


def test_widths_and_profiles() -> None:
    frontal = face_mesh((100, 100), 80)
    assert face_width_px(frontal) == pytest.approx(80, rel=1e-3)
    assert profile_ratio(frontal) < 1.5
    turned = frontal.copy()
    turned[4] = turned[EAR_TO_EAR[0]] + (5, 0)  # the nose over one ear
    assert profile_ratio(turned) > 10


# --- align ---


@pytest.mark.parametrize("scale", [0.13, 0.2, 0.25, 0.34, 0.49, 0.51, 0.9, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("roll", [0.0, 0.2, -0.5])
def test_every_pixel_comes_from_its_place(scale: float, roll: float) -> None:
    """At any reduction, to a few hundredths of a pixel of the crop."""
    height, width = 1500, 1520
    rows, cols = np.mgrid[0:height, 0:width].astype(float)
    wavelength_px = 40 / scale
    image = np.asarray(np.rint(waves(cols, rows, wavelength_px)), np.uint8)
    middle = np.array([[759.3, 748.7]])
    shift = 64 - transform(middle, alignment_from(similarity(scale, roll, 0, 0)).matrix)[0]
    alignment = alignment_from(similarity(scale, roll, *shift))
    crop = align(image, alignment).astype(float)
    assert crop.shape == (CROP_SIZE, CROP_SIZE, 3)
    inverse = np.linalg.inv(np.vstack([alignment.matrix, [0, 0, 1]]))
    y, x = np.mgrid[0:CROP_SIZE, 0:CROP_SIZE].astype(float)
    from_x, from_y, _ = np.einsum("ij,jyx->iyx", inverse, np.stack([x, y, np.ones_like(x)]))
    error = crop - waves(from_x, from_y, wavelength_px)
    assert np.abs(error).max() < 4
    step = 1 / scale / 2
    for channel, (dx, dy) in enumerate(((step, 0), (0, step))):
        slope = waves(from_x + dx, from_y + dy, wavelength_px)[..., channel]
        slope = slope - waves(from_x - dx, from_y - dy, wavelength_px)[..., channel]
        for part in (slice(0, 40), slice(40, 90), slice(90, 128)):  # nor does a shift creep in
            off = (error[:, part, channel] * slope[:, part]).sum() / (slope[:, part] ** 2).sum()
            assert abs(off) < 0.03


def test_a_large_face_is_averaged_and_not_skipped_through() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (1024, 1024, 3), np.uint8)
    crop = align(noise, alignment_from(np.array([0.125, 0, 0, 0])))
    assert crop.std() < noise.std() / 4  # 64 pixels in each


@pytest.mark.parametrize("centre", [(0, 0), (320, 240), (-30, 120), (160, 300)])
@pytest.mark.parametrize("width_px", [40, 90, 400])
def test_a_face_partly_outside_repeats_the_border(centre: tuple[int, int], width_px: int) -> None:
    image = np.full((240, 320, 3), 80, np.uint8)
    _, alignment = aligned(centre, width_px)
    crop = align(image, alignment)
    assert np.all(crop == 80)


def test_a_face_far_outside_is_still_a_crop() -> None:
    for width_px in (30, 90, 900):
        _, alignment = aligned((5000, -4000), width_px)
        assert align(picture(), alignment).shape == (128, 128, 3)


# --- masks ---


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("roll", [0.0, 0.4])
def test_masks_stay_in_the_hidden_half(size: int, roll: float) -> None:
    landmarks, alignment = aligned(roll=roll, size=size)
    mask = jaw_mask(landmarks, alignment)
    assert mask.shape == (size, size)
    assert mask.dtype == np.float32
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert not mask[: size // 2].any()
    assert not mask[size // 2].any()  # and begins with nothing there
    for edge in (mask[-1], mask[:, 0], mask[:, -1]):
        assert not edge.any()
    mouth = transform(landmarks[[13, 14]], alignment.matrix).mean(0).astype(int)
    assert mask[mouth[1], mouth[0]] > 0.95
    steps = np.abs(np.diff(mask, axis=0)).max(), np.abs(np.diff(mask, axis=1)).max()
    assert max(steps) < 0.25 * (128 / size)  # feathered: no edge to be seen


@pytest.mark.parametrize("dy", [30, 0])
def test_masks_of_a_huge_jaw_vanish_at_the_borders_too(dy: int) -> None:
    landmarks, alignment = aligned()
    landmarks[list(JAW)] = (landmarks[list(JAW)] - (160, 120)) * 3 + (160, 120 + dy)
    mask = jaw_mask(landmarks, alignment)
    assert not mask[:64].any()
    for edge in (mask[-1], mask[:, 0], mask[:, -1]):
        assert not edge.any()


def test_the_mask_follows_the_jaw() -> None:
    landmarks, alignment = aligned()
    closed = jaw_mask(landmarks, alignment)
    opened = landmarks.copy()
    lower = opened[list(JAW), 1] > np.median(opened[list(JAW), 1])
    opened[np.array(JAW)[lower], 1] += 6
    mask = jaw_mask(opened, alignment)

    def bottom(m: F32) -> int:
        return int(np.flatnonzero(m[:, 64] > 0.3).max())

    assert bottom(mask) > bottom(closed) + 2
    # The strip that a jaw opening from here would cover is in the mask already.
    chin = transform(landmarks[[152]], alignment.matrix)[0, 1]
    assert bottom(closed) > chin + 3


def test_the_lips_are_inside_their_mask() -> None:
    landmarks, alignment = aligned()
    mask = lips_mask(landmarks, alignment)
    lips = transform(landmarks[list(LIPS_OUTER)], alignment.matrix).astype(int)
    assert mask[lips[:, 1], lips[:, 0]].min() > 0.5
    assert mask.sum() < 0.15 * mask.size
    assert not mask[:40].any()
