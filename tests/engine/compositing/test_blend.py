"""What a generated mouth changes, on pictures whose every pixel is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from fakes import aligned, picture
from hypothesis import given, settings
from hypothesis import strategies as st

import lipwire.engine.compositing.blend as blending
from lipwire.engine.compositing.blend import composite
from lipwire.engine.face.alignment import align, jaw_mask, lips_mask, transform
from lipwire.engine.types import F32, U8, Alignment


def fine(image: U8) -> F32:
    """Detail of a pixel or two."""
    grey = image.astype(np.float32).mean(2)
    return np.asarray(grey - cv2.GaussianBlur(grey, (0, 0), 1.5), np.float32)


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
    assert np.array_equal(out, image)


@pytest.mark.parametrize("case", CASES)
def test_what_nobody_sees_is_not_repainted(case: str) -> None:
    landmarks, alignment = aligned(*CASES[case])
    image = picture()
    crop = align(image, alignment)
    rng = np.random.default_rng(1)
    alike = np.clip(crop + rng.normal(0, 1.5, crop.shape), 0, 255).astype(np.uint8)
    assert np.array_equal(composite(image, crop, alike, alignment, landmarks), image)


def test_a_sharp_picture_keeps_its_detail_beside_the_lips() -> None:
    """A face much larger than the crop: what the crop cannot hold must not be lost."""
    rng = np.random.default_rng(0)
    image = np.clip(
        picture(700, 700).astype(int) + rng.integers(-25, 26, (700, 700, 1)), 0, 255
    ).astype(np.uint8)
    landmarks, alignment = aligned((350, 300), 450)
    crop = align(image, alignment)
    lips = lips_mask(landmarks, alignment)
    generated = np.clip(crop + 25 * lips[..., None], 0, 255).astype(np.uint8)
    out = composite(image, crop, generated, alignment, landmarks)
    rows, cols = np.mgrid[0:700, 0:700]
    there = transform(np.stack([cols.ravel(), rows.ravel()], 1), alignment.matrix)
    x, y = np.clip(np.rint(there), 0, 127).astype(int).T
    far = (lips[y, x] < 1e-3).reshape(700, 700)
    assert np.abs(out.astype(int) - image)[far].max() <= 2
    lit = (lips[y, x] > 0.99).reshape(700, 700)
    assert out[lit].mean() > image[lit].mean() + 12
    # Grain is all the detail that there is here, so it stays; without any it would be smooth.
    assert fine(out)[lit].std() == pytest.approx(fine(image)[lit].std(), rel=0.3)


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
    x=st.floats(-200, 600),
    y=st.floats(-200, 500),
    width_px=st.floats(8, 800),
    roll=st.floats(-3.1, 3.1),
)
def test_no_place_or_size_of_a_face_breaks_it(
    x: float, y: float, width_px: float, roll: float
) -> None:
    image = picture(120, 160)
    landmarks, alignment = aligned((x, y), width_px, roll)
    crop = align(image, alignment)
    assert crop.shape == (128, 128, 3)
    out = composite(image, crop, np.zeros_like(crop), alignment, landmarks)
    assert out.shape == image.shape


# --- alike to what is around ---

WIDTHS_PX = (70, 120, 330)  # smaller than the crop, about as large, larger


def skin(width_px: float, grain: float, seed: int = 0) -> tuple[U8, F32, Alignment, U8, U8]:
    """Lit skin with a camera's grain: frame, landmarks, alignment, crop, a smooth other mouth."""
    rng = np.random.default_rng(seed)
    height, width = int(width_px * 2), int(width_px * 2)
    rows, columns = np.mgrid[0:height, 0:width] / width
    light = np.float32(140) + 50 * columns - 25 * rows
    image = np.dstack([light + 30, light, light - 15]) + rng.normal(0, grain, (height, width, 3))
    image = np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)
    landmarks, alignment = aligned((width / 2, height / 2), width_px)
    crop = align(image, alignment)
    mouth = cv2.GaussianBlur(crop, (0, 0), 5).astype(np.float32)
    dark = np.zeros((128, 128), np.float32)
    cv2.ellipse(dark, (64, 90), (20, 12), 0, 0, 360, 1.0, -1)
    mouth -= 60 * cv2.GaussianBlur(dark, (0, 0), 2)[..., None]
    return image, landmarks, alignment, crop, np.clip(mouth, 0, 255).astype(np.uint8)


def masks_in_frame(image: U8, alignment: Alignment, mask: F32) -> F32:
    """f32[H, W]: a crop's mask where the frame has it."""
    return np.asarray(
        cv2.warpAffine(
            mask,
            alignment.matrix,
            image.shape[1::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        ),
        np.float32,
    )


@pytest.mark.parametrize("width_px", WIDTHS_PX)
@pytest.mark.parametrize("grain", [4.0, 9.0])
def test_the_mouth_has_the_grain_of_the_skin(width_px: float, grain: float) -> None:
    image, landmarks, alignment, crop, generated = skin(width_px, grain)
    out = composite(image, crop, generated, alignment, landmarks)
    middle = np.zeros((128, 128), np.float32)
    cv2.ellipse(middle, (64, 90), (14, 7), 0, 0, 360, 1.0, -1)
    painted = masks_in_frame(image, alignment, middle) > 0.99
    assert image[painted].mean() - out[painted].mean() > 40  # it is another mouth
    ratio = fine(out)[painted].std() / fine(image).std()
    assert 0.7 < ratio < 1.25
    assert np.array_equal(out, composite(image, crop, generated, alignment, landmarks))


@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_a_clean_picture_gets_no_grain(width_px: float) -> None:
    image, landmarks, alignment, crop, generated = skin(width_px, 0.0)
    out = composite(image, crop, generated, alignment, landmarks)
    middle = np.zeros((128, 128), np.float32)
    cv2.ellipse(middle, (64, 90), (8, 5), 0, 0, 360, 1.0, -1)
    painted = masks_in_frame(image, alignment, middle) > 0.99
    assert fine(out)[painted].std() < 1.0


@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_a_cast_that_differs_from_side_to_side_leaves_no_seam(width_px: float) -> None:
    image, landmarks, alignment, crop, generated = skin(width_px, 0.0)
    cast = np.linspace(-25, 25, 128, dtype=np.float32)[None, :, None] * (1, 0.6, -0.5)
    off = np.clip(generated + cast, 0, 255).astype(np.uint8)
    out = composite(image, crop, off, alignment, landmarks).astype(np.float32)
    wanted = composite(image, crop, generated, alignment, landmarks).astype(np.float32)
    assert np.abs(out - wanted).mean(2).max() < 9  # of 25
    mask = masks_in_frame(image, alignment, jaw_mask(landmarks, alignment))
    rim = (mask > 0.05) & (mask < 0.6)
    assert np.abs(out - image)[rim].mean() < 2.5


def test_a_beard_has_no_seam() -> None:
    """Stripes as dark as a beard, over chin and cheeks; the model paints them a bit aside."""
    rng = np.random.default_rng(0)
    image = np.full((300, 300, 3), (190, 150, 130), np.float32)
    landmarks, alignment = aligned((150, 140), 150)
    chin = landmarks[152]
    rows, columns = np.mgrid[0:300, 0:300]
    hair = 0.5 + 0.5 * np.sin(columns * 1.3 + 2 * np.sin(rows / 6))
    beard = np.clip((rows - (chin[1] - 38)) / 8, 0, 1) * (0.6 + 0.4 * hair)
    image -= 95 * beard[..., None] + rng.normal(0, 1, (300, 300, 1))
    image = np.asarray(np.clip(image, 0, 255), np.uint8)
    crop = align(image, alignment)
    generated = np.roll(cv2.GaussianBlur(crop, (0, 0), 0.8), (1, 1), (0, 1)) + np.uint8(8)
    out = composite(image, crop, generated, alignment, landmarks)
    mask = masks_in_frame(image, alignment, jaw_mask(landmarks, alignment))
    rim = (mask > 0.02) & (mask < 0.4)

    def steepness(picture: U8) -> float:
        grey = cv2.GaussianBlur(picture.astype(np.float32).mean(2), (0, 0), 1.0)
        return float(np.hypot(*np.gradient(grey))[rim].mean())

    assert steepness(out) == pytest.approx(steepness(image), rel=0.1)
    assert np.abs(out.astype(float) - image).mean(2)[rim].mean() < 4


@pytest.mark.parametrize("soft_px", [0.0, 2.5])
def test_lips_are_as_sharp_as_the_picture_and_no_sharper(
    soft_px: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    blocks = rng.integers(60, 200, (20, 20, 1)).astype(np.uint8).repeat(3, 2)
    image = cv2.resize(blocks, (320, 320), interpolation=cv2.INTER_NEAREST)
    landmarks, alignment = aligned((160, 150), 104)
    crop = align(image, alignment)
    lips = cv2.GaussianBlur(np.roll(crop, 4, 1), (0, 0), 1.2)  # another, and soft
    if soft_px:
        image = cv2.GaussianBlur(image, (0, 0), soft_px)
        crop = align(image, alignment)
    out = composite(image, crop, lips, alignment, landmarks)
    monkeypatch.setattr(blending, "sharpening", lambda source, painted: 0.0)
    plain = composite(image, crop, lips, alignment, landmarks)
    inside = masks_in_frame(image, alignment, lips_mask(landmarks, alignment)) > 0.95
    gain = fine(out)[inside].std() / fine(plain)[inside].std()
    assert 1.04 < gain < 1.5 if not soft_px else gain == 1.0, gain
