"""Colour, grain and sharpness, on pictures that have known ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lipwire.engine.compositing.harmonize import (
    CLEAN_LEVELS,
    MOST_SHARPENING,
    blurred,
    colour_field,
    grain_level,
    grain_of,
    sharpened,
    sharpening,
    strongest,
    weighted,
)
from lipwire.engine.types import F32


def half() -> F32:
    """A soft mask, f32[128, 128]."""
    mask = np.zeros((128, 128), np.float32)
    cv2.ellipse(mask, (64, 92), (44, 26), 0, 0, 360, 1.0, -1)
    return blurred(mask, 3.0)


def test_a_cast_is_found_everywhere() -> None:
    cast = np.array([12, -20, 5], np.float32)
    field = colour_field(np.broadcast_to(cast, (128, 128, 3)).astype(np.float32), half())
    assert np.abs(field - cast).max() < 0.01


def test_what_differs_in_the_mouth_alone_is_no_cast() -> None:
    difference = np.zeros((128, 128, 3), np.float32)
    difference[86:96, 50:78] = -90
    assert np.abs(colour_field(difference, half())).max() < 1


def test_a_cast_follows_the_light_around_the_mouth() -> None:
    ramp = np.linspace(-20, 20, 128, dtype=np.float32)
    difference = np.broadcast_to(ramp[None, :, None], (128, 128, 3)).astype(np.float32)
    field, mask = colour_field(difference, half()), half()
    rim = (mask > 0.1) & (mask < 0.9)
    assert np.abs(field - difference)[rim].mean() < 3
    assert np.abs(field[92, 64]).max() < 3
    assert np.abs(np.diff(field, axis=1)).max() < 2  # and has no steps


def test_a_chin_that_moved_does_not_darken_the_cheeks() -> None:
    difference, mask = np.zeros((128, 128, 3), np.float32), half()
    difference[112:, 54:74] = -90
    field = colour_field(difference, mask)
    assert np.abs(field[70:95]).max() < 8


def test_without_a_rim_there_is_no_cast() -> None:
    flat = np.full((128, 128, 3), 50, np.float32)
    assert not colour_field(flat, np.zeros((128, 128), np.float32)).any()
    assert not colour_field(flat, np.ones((128, 128), np.float32)).any()


@pytest.mark.parametrize("level", [2.0, 5.0, 12.0])
def test_grain_is_measured_beside_edges(level: float) -> None:
    rng = np.random.default_rng(0)
    fine = rng.normal(0, level, (32, 96)).astype(np.float32)
    fine[:, 40:56] += 60 * np.sign(rng.normal(size=(32, 16)))  # hair
    assert grain_level(fine) == pytest.approx(level, rel=0.15)


def test_a_clean_picture_has_no_grain() -> None:
    rng = np.random.default_rng(0)
    assert grain_level(rng.normal(0, 0.7 * CLEAN_LEVELS, (32, 96)).astype(np.float32)) == 0
    assert grain_level(np.zeros((8, 8), np.float32)) == 0  # too little to tell
    assert not grain_of(np.full((4, 4), 3, np.float32), 0.0).any()


def test_grain_leaves_features_behind() -> None:
    fine = np.array([1, -2, 5, 60, -200], np.float32)
    grain = grain_of(fine, 3.0)
    assert np.allclose(grain[:2], fine[:2], rtol=0.01)
    assert np.abs(grain[3:]).max() < 0.5 and grain[2] > 4


def test_sharpness_does_not_ask_for_contrast() -> None:
    rng = np.random.default_rng(0)
    fine, coarse = (rng.normal(0, s, 999).astype(np.float32) for s in (6, 10))
    assert sharpening((fine, coarse), (fine / 3, coarse / 3)) == pytest.approx(0, abs=1e-3)
    assert sharpening((fine, coarse), (fine * 0.8, coarse)) == pytest.approx(0.25, rel=0.01)
    assert sharpening((fine, coarse), (fine / 9, coarse)) == MOST_SHARPENING
    assert sharpening((fine / 9, coarse), (fine, coarse)) == 0  # a soft picture's lips stay soft
    assert sharpening((fine, coarse), (fine * 0, coarse * 0)) == 0


@pytest.mark.parametrize("shape", [(128, 96), (1, 1), (4, 1), (1, 4)])
def test_weights_and_maxima_are_those_of_numpy(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    picture = rng.normal(0, 20, (*shape, 3)).astype(np.float32)
    weight = rng.random(shape, np.float32)
    assert np.array_equal(weighted(picture, weight), picture * weight[..., None])
    assert np.array_equal(strongest(picture), picture.max(2))


def test_only_what_is_asked_for_is_sharpened() -> None:
    rng = np.random.default_rng(4)
    picture, fine = rng.normal(128, 30, (2, 64, 64, 3)).astype(np.float32)
    amount = np.zeros((64, 64), np.float32)
    assert np.array_equal(sharpened(picture, fine, amount), picture)
    amount[0:20, 30:64] = 0.4 * rng.random((20, 34), np.float32)
    out = sharpened(picture, fine, amount)
    around = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(picture, around), cv2.dilate(picture, around)
    room = 0.15 * (high - low)
    whole = np.clip(picture + amount[..., None] * fine, low - room, high + room)
    assert np.array_equal(out, whole)  # no seam around the part that is worked on


def test_sharpening_leaves_no_halos() -> None:
    picture = np.zeros((40, 40, 3), np.float32)
    picture[:, 20:] = 100
    soft = blurred(picture, 2.0)
    out = sharpened(soft, soft - blurred(soft, 1.0), np.ones((40, 40), np.float32) * 9)
    assert out.min() > -3 and out.max() < 103
    slope, was = (np.abs(np.diff(p[20, :, 0])).max() for p in (out, soft))
    assert slope > was
