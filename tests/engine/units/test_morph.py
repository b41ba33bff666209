"""Morph: both pictures brought to one shape."""

from __future__ import annotations

import numpy as np
import pytest
from mouths import in_crop, mouth

from lipwire.engine.face.alignment import CHIN
from lipwire.engine.units.morph import MOST_SHIFT_PX, RIGID, Morph, fit_affine, target_of

UPPER, LOWER = 13, 14


def test_an_affine_map_is_found_again() -> None:
    points = in_crop(mouth(0.0))[list(RIGID)]
    matrix = np.array([[1.1, -0.1, 3], [0.2, 0.9, -2]], np.float32)
    found = fit_affine(points, points @ matrix[:, :2].T + matrix[:, 2])
    assert found == pytest.approx(matrix, abs=1e-2)


def test_the_mouth_is_the_unit_s_and_the_head_the_frame_s() -> None:
    frame, unit = in_crop(mouth(0.0)), in_crop(mouth(8.0))
    target = target_of(unit, frame)
    gap = float(np.linalg.norm(target[LOWER] - target[UPPER]))
    assert gap == pytest.approx(8.0, abs=0.3)
    assert target[CHIN] == pytest.approx(unit[CHIN], abs=0.3)
    steady = [234, 454, 1, 2, 50, 280]
    assert target[steady] == pytest.approx(frame[steady], abs=1e-4)


def test_a_turned_unit_is_turned_back() -> None:
    frame = in_crop(mouth(2.0))
    turned = frame @ np.array([[0.98, 0.1], [-0.1, 0.98]], np.float32) + np.float32(2)
    assert target_of(turned, frame) == pytest.approx(frame, abs=0.05)


def test_a_chin_that_was_lost_is_not_followed() -> None:
    frame, unit = in_crop(mouth(0.0)), in_crop(mouth(0.0))
    unit[CHIN] += (0, 60)
    moved = target_of(unit, frame) - frame
    assert np.linalg.norm(moved[CHIN]) <= MOST_SHIFT_PX + 1e-3


def test_every_landmark_of_the_target_is_found_in_both_pictures() -> None:
    frame, unit = in_crop(mouth(1.0)), in_crop(mouth(7.0))
    target = target_of(unit, frame)
    morph = Morph(unit, frame, target)
    some = [61, 291, 0, 17, CHIN, 2, 205, 425]
    in_unit, in_frame = morph.sources(target[some])
    assert in_unit == pytest.approx(unit[some], abs=0.8)
    edges = [some.index(i) for i in (CHIN, 2, 205, 425)]  # where the frame is seen
    assert in_frame[edges] == pytest.approx(frame[[CHIN, 2, 205, 425]], abs=0.8)


def test_what_is_far_from_the_face_stays_where_it_is() -> None:
    frame, unit = in_crop(mouth(1.0)), in_crop(mouth(9.0))
    morph = Morph(unit, frame, target_of(unit, frame))
    far = np.array([[-40, -40], [170, 60], [64, 190]], np.float32)
    assert (morph.sources(far)[1] == far).all()


def test_the_picture_is_not_folded() -> None:
    """Neighbouring pixels keep their order between a shut and a very wide mouth."""
    frame, unit = in_crop(mouth(0.0)), in_crop(mouth(14.0))
    morph = Morph(unit, frame, target_of(unit, frame))
    x, y = np.meshgrid(np.arange(30, 98, 2.0), np.arange(66, 126, 2.0))
    points = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)
    in_unit = morph.sources(points)[0].reshape(*x.shape, 2)
    assert (np.diff(in_unit[..., 0], axis=1) > 0).all()
    assert (np.diff(in_unit[..., 1], axis=0) > 0).all()
