"""Lips that draw together slide over the teeth, which stay where they are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from mouths import in_crop, mouth

from lipwire.engine.face.alignment import LIPS_OUTER, alignment_from, fit_similarity, transform
from lipwire.engine.face.articulation import opening_px, raw_codes
from lipwire.engine.media.planes import paint_image
from lipwire.engine.types import F32, U8
from lipwire.engine.units.compose import put
from lipwire.engine.units.morph import target_of
from lipwire.engine.units.reshape import reshape
from lipwire.engine.units.shape import (
    CORNERS_INNER,
    LIPS_INNER,
    LOWER_INNER,
    LOWER_OUTER,
    RIM_PX,
    UPPER_INNER,
    UPPER_OUTER,
    allowed_change,
)
from lipwire.engine.units.unit import to_small_crop, unit_of

OPEN_PX = 7.0
HALF_PX, UPPER_PX, LOWER_PX = 22.0, 6.0, 8.0  # of the mouth's width; heights of its lips
LOOK = np.zeros(4, np.float32)
TEETH = 100  # of green; lips and skin have less or no more than that next to it


def lips(opening_px: float) -> F32:
    """f32[468, 2], pixels of the frame: a mouth whose landmarks lie on its edges."""
    points = mouth(opening_px).copy()
    unit = 1 / float(np.hypot(*fit_similarity(mouth(0.0))[:2]))
    middle = mouth(0.0)[[61, 291]].mean(0)

    def put_at(indices: tuple[int, ...], reach: float, top: float, bottom: float) -> None:
        x = np.linspace(-reach, reach, len(indices)) if len(indices) > 1 else np.zeros(1)
        y = (top + opening_px * bottom) * (1 - x**2)
        points[list(indices)] = middle + unit * np.stack([HALF_PX * x, y], 1)

    put_at(UPPER_OUTER, 0.8, -UPPER_PX, 0)
    put_at(LOWER_OUTER, 0.8, LOWER_PX, 1)
    put_at(UPPER_INNER, 0.6, 0, 0)
    put_at(LOWER_INNER, 0.6, 0, 1)
    put_at((83, 18, 313), 0.3, LOWER_PX + 5, 1)  # below it
    put_at((61, 291), 1.0, 0, 0)
    put_at(CORNERS_INNER, 0.9, 0, 0)
    return points


def toothed(opening_px: float = OPEN_PX) -> U8:
    """Such a mouth, each row between its lips of another shade of green."""
    points = lips(opening_px)
    image = np.full((240, 320, 3), (190, 90, 130), np.uint8)
    hole = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(image, [np.round(points[list(LIPS_OUTER)]).astype(np.int32)], (170, 60, 70))
    cv2.fillPoly(hole, [np.round(points[list(LIPS_INNER)]).astype(np.int32)], (1,))
    rows = np.arange(image.shape[0]) * 16 % 100 + 130
    image[..., 1] = np.where(hole > 0, rows[:, None], image[..., 1])
    return image


def drawn(opening_px: float, closes_px: float, way: str) -> tuple[U8, F32]:
    """A picture with lips that come closer by so much of the crop, and its landmarks."""
    image, points = toothed(opening_px), lips(opening_px)
    place = alignment_from(fit_similarity(points, 128), 128)
    to_crop = to_small_crop(place)
    here = transform(points, to_crop)
    change = np.zeros(7, np.float32)
    change[:2] = -closes_px
    if way == "own mouth":
        patch = put(image, place, points, unit_of(image, place, points, LOOK, 0.0), change=change)
    else:
        patch = reshape(image, None, place, points, raw_codes(here[None])[0] + change)
        change = allowed_change(raw_codes(here[None])[0] + change, raw_codes(here[None])[0])
    back = np.asarray(cv2.invertAffineTransform(to_crop), np.float32)
    return paint_image(image, patch), transform(target_of(here, here, change), back)


@pytest.mark.parametrize(("way", "closes_px"), [("own mouth", 6.0), ("the frame's", 8.0)])
def test_teeth_stay_where_they_are(way: str, closes_px: float) -> None:
    before = toothed(12.0)
    made, target = drawn(12.0, closes_px, way)
    x, top, bottom = (round(float(v)) for v in (target[13, 0], target[13, 1], target[14, 1]))
    seen = slice(top + 3, bottom - 1)
    assert bottom - top >= 6
    assert np.abs(made[seen, x].astype(int) - before[seen, x]).max() < 25  # and none is squeezed
    below = slice(bottom + 2, round(float(lips(12.0)[14, 1])))  # where teeth were the lip is
    assert made[below, x, 1].max() < TEETH < before[below, x, 1].min()


@pytest.mark.parametrize("way", ["own mouth", "the frame's"])
def test_nothing_is_seen_between_lips_that_meet(way: str) -> None:
    made, _ = drawn(OPEN_PX, OPEN_PX, way)
    # A pixel wide is the edge of what was drawn there.
    assert (made[..., 1] > TEETH).sum() < 0.25 * (toothed()[..., 1] > TEETH).sum()


def test_lips_come_closer_all_along_and_never_cross() -> None:
    points = in_crop(lips(OPEN_PX))
    before = points[list(LOWER_INNER), 1] - points[list(UPPER_INNER), 1]
    shown = float(opening_px(points[None])[0])
    for share in (0.5, 0.0):
        change = np.zeros(7, np.float32)
        change[:2] = (share - 1) * shown
        target = target_of(points, points, change)
        gaps = target[list(LOWER_INNER), 1] - target[list(UPPER_INNER), 1]
        np.testing.assert_allclose(gaps, share * before, atol=2 * RIM_PX)
        assert target[14, 1] < points[14, 1] and target[13, 1] - points[13, 1] < 2.5
        assert target[17, 1] - target[14, 1] == pytest.approx(points[17, 1] - points[14, 1], abs=3)


def test_lips_that_part_are_moved_by_one_warp() -> None:
    image, points = toothed(4.0), lips(4.0)
    place = alignment_from(fit_similarity(points, 128), 128)
    change = np.zeros(7, np.float32)
    change[:2] = 2.0
    unit = unit_of(image, place, points, LOOK, 0.0)
    made = paint_image(image, put(image, place, points, unit, change=change))
    assert (made[..., 1] > TEETH).sum() > 1.05 * (image[..., 1] > TEETH).sum()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_head_may_lie_or_stand_on_its_head(turns: int) -> None:
    """What is shown is what an upright head would show, turned."""

    def shown(image: U8, points: F32, wanted_px: float) -> U8:
        place = alignment_from(fit_similarity(points, 128), 128)
        wanted = raw_codes(transform(points, to_small_crop(place))[None])[0]
        wanted[:2] = wanted_px
        red = np.full((128, 128, 3), (200, 40, 40), np.uint8)
        return paint_image(image, reshape(image, red, place, points, wanted))

    square = np.ascontiguousarray(toothed()[:, 40:280])
    upright = lips(OPEN_PX) - np.array([40, 0], np.float32)
    angle = -turns * np.pi / 2  # of np.rot90, counterclockwise; rows go down
    cos, sin = np.cos(angle), np.sin(angle)
    turned = (upright - 119.5) @ np.array([[cos, sin], [-sin, cos]]) + 119.5
    for wanted_px in (0.0, 2.0, 15.0):
        made = shown(
            np.ascontiguousarray(np.rot90(square, turns)), turned.astype(np.float32), wanted_px
        )
        wanted = np.rot90(shown(square, upright.astype(np.float32), wanted_px), turns)
        assert np.abs(made.astype(int) - wanted).mean() < 0.5
        assert (np.abs(made.astype(int) - wanted).max(2) > 60).sum() < 25
