"""The figures of tracking: what they say of films whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from lipwire.benchmarks.model.tracking import _hidden, _moving, lag_frames
from lipwire.benchmarks.rig.scenes import FACE_PX, Pose, portrait, scene
from lipwire.engine.face.tracker import TrackerPool


@pytest.mark.parametrize("late", [0, 0.4, 2])
def test_a_lag_is_found_whatever_the_offset(late: float) -> None:
    index = np.arange(200.0)
    true = 30 * np.sin(index / 20)
    assert lag_frames(30 * np.sin((index - late) / 20) + 7, true) == pytest.approx(late, abs=0.05)


def test_a_scene_shows_the_face_where_it_was_put() -> None:
    pose = Pose(224.0, 128.0, FACE_PX)
    image = scene(pose, (400, 448), noise=0.0)
    middle = (slice(90, 170), slice(190, 260))
    assert np.abs(image[middle].astype(int) - portrait()[middle]).max() <= 2
    assert image.std() > scene([], (400, 448), noise=0.0).std()
    assert not np.array_equal(scene(pose, seed=1), scene(pose, seed=2))


def test_a_face_that_goes_and_comes() -> None:
    pool = TrackerPool()
    found = _hidden(pool, 5 * 25 + 8)
    pool.close()
    assert found["frames_to_pass_through"] == 1
    assert found["frames_to_return"] <= 5
    assert found["frames_lost"] == found["frames_painted_without_a_face"] == 0


def test_a_moving_head_is_followed_closely() -> None:
    pool = TrackerPool()
    found = _moving(pool, 40)
    pool.close()
    assert found["crop_lag_frames_worst"] <= 0.5
