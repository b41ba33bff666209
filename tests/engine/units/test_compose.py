"""Compose: a unit's mouth in a frame."""

from __future__ import annotations

import numpy as np
import pytest
from mouths import mouth, speaking, unit

from lipwire.engine.face.alignment import alignment_from, fit_similarity, transform
from lipwire.engine.media.planes import paint_image
from lipwire.engine.types import F32, U8, Alignment
from lipwire.engine.units.compose import cross_faded, mouth_mask, put
from lipwire.engine.units.morph import target_of
from lipwire.engine.units.unit import WIDEST_PX, cut


def place(points: F32, size: int = 128) -> Alignment:
    return alignment_from(fit_similarity(points, size), size)


def shown(frame_px: float, unit_px: float, strength: float = 1.0, size: int = 128) -> U8:
    image, points = speaking(frame_px), mouth(frame_px)
    return paint_image(image, put(image, place(points, size), points, unit(unit_px), strength))


def around_mouth(image: U8, opening_px: float) -> F32:
    """The pixels within the lips of a frame, as numbers."""
    x, y = mouth(opening_px)[[13, 14, 61, 291]].mean(0)
    return image[round(y) - 14 : round(y) + 14, round(x) - 22 : round(x) + 22].astype(np.float32)


def test_a_frame_s_own_mouth_changes_hardly_anything() -> None:
    change = np.abs(shown(5.0, 5.0).astype(int) - speaking(5.0))
    assert change.max() <= 12 and np.percentile(change, 99.9) <= 3


def test_the_mouth_becomes_the_unit_s() -> None:
    wide, shut = speaking(9.0), speaking(0.0)
    made = shown(0.0, 9.0)
    before = np.abs(around_mouth(shut, 4.0) - around_mouth(wide, 4.0)).mean()
    after = np.abs(around_mouth(made, 4.0) - around_mouth(wide, 4.0)).mean()
    assert after < 0.2 * before


def test_upper_half_and_all_around_stay_bit_for_bit() -> None:
    image, points = speaking(2.0), mouth(2.0)
    alignment = place(points)
    patch = put(image, alignment, points, unit(10.0))
    made = paint_image(image, patch)
    rows, columns = np.nonzero((made != image).any(2))
    crop = transform(np.stack([columns, rows], 1).astype(np.float32), alignment.matrix)
    assert len(crop) and crop[:, 1].min() >= 64 - 0.5
    x0, y0, x1, y1 = patch.box
    assert (columns >= x0).all() and (columns < x1).all() and (rows < y1).all()
    assert patch.x % 2 == patch.y % 2 == 0


def test_a_mouth_that_fades_in_is_one_mouth() -> None:
    """Half of the way from shut to open is a mouth that is half open, not two at once."""
    assert (shown(0.0, 8.0, strength=0.0) == speaking(0.0)).all()
    points = mouth(0.0)
    half = put(speaking(0.0), place(points), points, unit(8.0), 0.5)
    whole = put(speaking(0.0), place(points), points, unit(8.0), 1.0)
    assert 0.1 < np.abs(half.change).sum() / np.abs(whole.change).sum() < 0.9


@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_model_s_crop_size_does_not_matter(size: int) -> None:
    usual = shown(0.0, 8.0).astype(int)
    assert np.abs(shown(0.0, 8.0, size=size).astype(int) - usual).max() <= 3


def test_a_unit_of_another_place_and_light_is_brought_here() -> None:
    image, points = speaking(0.0), mouth(0.0)
    elsewhere = unit(8.0, shift=(40.0, 9.0))
    bright = elsewhere.picture.astype(np.float32) * 0.9 + 20
    other = type(elsewhere)(
        np.clip(bright, 0, 255).astype(np.uint8),
        elsewhere.to_crop,
        elsewhere.landmarks,
        elsewhere.codes,
        elsewhere.look,
        elsewhere.detail,
        elsewhere.time_s,
    )
    made = paint_image(image, put(image, place(points), points, other))
    wanted = shown(0.0, 8.0)
    assert np.abs(made.astype(int) - wanted).mean() < 1.0


@pytest.mark.parametrize("shift", [(-160, 0), (0, 118), (150, 100), (0, -150)])
def test_a_face_at_the_edge_of_the_picture_is_no_trouble(shift: tuple[float, float]) -> None:
    image, points = speaking(0.0, shift), mouth(0.0, shift)
    made = paint_image(image, put(image, place(points), points, unit(8.0)))
    assert made.shape == image.shape and np.isfinite(made).all()
    picture, _ = cut(image, place(points))
    assert picture.shape[2] == 3


def test_large_faces_are_kept_reduced() -> None:
    points = np.asarray(mouth(3.0) * 5, np.float32)
    image = np.repeat(np.repeat(speaking(3.0), 5, 0), 5, 1)
    picture, to_crop = cut(image, place(points))
    assert picture.shape[1] == WIDEST_PX
    # Its corner lies where the frame's cut began.
    corner = transform(np.array([[-0.5, -0.5]], np.float32), to_crop)
    assert corner[0] == pytest.approx((14, 54), abs=1.0)


def test_the_mask_lies_in_the_lower_half_and_holds_the_lips() -> None:
    from mouths import in_crop

    points = in_crop(mouth(6.0))
    mask = mouth_mask(target_of(points, points))
    assert not mask[:64].any() and mask.max() == pytest.approx(1, abs=0.01)
    for index in (0, 17, 13, 14):
        x, y = np.round(points[index]).astype(int)
        assert mask[y, x] > 0.5


def test_a_cross_fade_keeps_the_grain_of_both_pictures() -> None:
    """Their mean, which is what a plain one shows half-way, has 0.7 of it."""
    random = np.random.default_rng(0)
    one, other = random.normal(0, 8, (2, 120, 200, 3)).astype(np.float32) + [
        [[[90.0]]],
        [[[110.0]]],
    ]
    weight = np.linspace(-0.5, 1.5, 200, dtype=np.float32).clip(0, 1)[None].repeat(120, 0)
    shown = other + cross_faded((one - other).astype(np.float32), weight)
    np.testing.assert_allclose(shown[:, :30], other[:, :30], atol=1e-4)
    np.testing.assert_allclose(shown[:, -30:], one[:, -30:], atol=1e-4)
    np.testing.assert_allclose(shown.mean((0, 2))[50:150], np.linspace(110, 90, 100), atol=4)
    grain = np.diff(shown, axis=0)[:, 50:150].std((0, 2))
    assert grain.mean() > 0.9 * np.diff(one, axis=0).std()
