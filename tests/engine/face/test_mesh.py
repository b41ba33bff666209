"""One face followed through a window, among others, at any size."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from lipwire.benchmarks.rig.scenes import Pose, scene
from lipwire.engine.face.alignment import face_width_px
from lipwire.engine.face.mesh import box_of, same_place, window_around
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.types import F32, Face

LEFT, RIGHT = Pose(170, 230, 120), Pose(480, 240, 90)


def box(pose: Pose) -> F32:
    half = pose.width_px / 2
    return np.array([pose.x - half, pose.y - half, pose.x + half, pose.y + half], np.float32)


def at(face: Face | None, pose: Pose) -> bool:
    return face is not None and same_place(box_of(face), box(pose))


def test_every_face_is_detected(tracker: MeshTracker) -> None:
    found = tracker.detect(scene([LEFT, RIGHT]))
    assert found.shape == (2, 4) and found.dtype == np.float32
    assert sorted(same_place(one, box(pose)) for one in found for pose in (LEFT, RIGHT)) == [
        False,
        False,
        True,
        True,
    ]
    assert tracker.detect(scene([])).shape == (0, 4)


def test_a_small_face_in_a_large_picture_is_found_part_by_part(tracker: MeshTracker) -> None:
    far = Pose(900, 300, 66)
    image = scene(far, shape=(720, 1280))
    found = [tracker.detect(image) for _ in range(14)]
    hits = [boxes for boxes in found if len(boxes)]
    assert hits and all(same_place(boxes[0], box(far)) for boxes in hits)
    tracker.aim(hits[0][0])
    face = tracker.track(image)
    assert at(face, far) and face is not None
    assert abs(face_width_px(face.landmarks) / far.width_px - 1) < 0.15


@pytest.mark.parametrize("aimed", [LEFT, RIGHT])
def test_whom_it_is_aimed_at_is_kept(tracker: MeshTracker, aimed: Pose) -> None:
    other = RIGHT if aimed is LEFT else LEFT
    tracker.aim(box(aimed))
    for index in range(4):
        assert at(tracker.track(scene([LEFT, RIGHT], seed=index)), aimed)
    assert tracker.track(scene([other])) is None  # and nobody else when he has gone
    tracker.aim(box(other))
    assert at(tracker.track(scene([LEFT, RIGHT])), other)


def test_an_aim_at_nobody_finds_nobody(tracker: MeshTracker) -> None:
    tracker.aim(box(Pose(320, 60, 60)))
    assert tracker.track(scene(LEFT)) is None


def test_a_head_that_walks_nods_and_comes_near_is_followed(tracker: MeshTracker) -> None:
    for index in range(25):
        pose = Pose(
            140 + 14 * index, 230 + 20 * np.sin(index), 90 + 4 * index, 8 * np.sin(index / 3)
        )
        if index == 0:
            tracker.aim(box(pose))
        face = tracker.track(scene(pose, seed=index))
        assert at(face, pose) and face is not None
        assert abs(face_width_px(face.landmarks) / pose.width_px - 1) < 0.15, index


def test_pictures_may_change_their_size(tracker: MeshTracker) -> None:
    tracker.aim(box(RIGHT))
    assert at(tracker.track(scene(RIGHT)), RIGHT)
    assert tracker.track(np.zeros((60, 80, 3), np.uint8)) is None
    small = Pose(120, 110, 80)
    tracker.aim(box(small))
    assert at(tracker.track(scene(small, shape=(240, 320))), small)


def test_others_can_be_glimpsed_meanwhile(tracker: MeshTracker) -> None:
    tracker.aim(box(LEFT))
    for index in range(3):
        image = scene([LEFT, RIGHT], seed=index)
        assert at(tracker.track(image), LEFT)
        glimpsed = tracker.glimpse(image, np.stack([box(RIGHT), box(Pose(320, 40, 50))]))
        assert at(glimpsed[0], RIGHT)
        assert glimpsed[1] is None


def test_a_far_head_is_followed_through_a_window_that_moves(tracker: MeshTracker) -> None:
    for index in range(20):
        pose = Pose(400 + 16 * index, 300 + 5 * np.sin(index), 70)
        if index == 0:
            tracker.aim(box(pose))
        face = tracker.track(scene(pose, shape=(720, 1280), seed=index))
        assert at(face, pose) and face is not None, index
        assert abs(face_width_px(face.landmarks) / pose.width_px - 1) < 0.12, index


def test_windows_lie_in_the_picture() -> None:
    large = (1080, 1920)
    assert window_around(box(LEFT), (480, 640)) is None
    assert window_around(box(Pose(900, 500, 100)), large) == (580, 180, 1220, 820)
    assert window_around(box(Pose(0, 0, 100)), large) == (0, 0, 640, 640)
    assert window_around(box(Pose(1920, 1080, 100)), large) == (1280, 440, 1920, 1080)
    assert window_around(box(Pose(900, 500, 200)), large) == (400, 0, 1400, 1000)
    assert window_around(box(Pose(900, 500, 400)), large) is None


def test_what_counts_as_the_same_place() -> None:
    here = box(Pose(100, 100, 100))
    assert same_place(here, box(Pose(140, 100, 100)))
    assert not same_place(here, box(Pose(170, 100, 100)))
    assert same_place(here, box(Pose(100, 100, 180)))
    assert not same_place(here, box(Pose(100, 100, 220)))


LOADED_INSIDE = """
import gc, weakref
from lipwire.engine.face.mediapipe_graphs import load_mediapipe

class Call:
    pass

def serve():
    call = Call()
    load_mediapipe()  # the first time in this process, with `call` on the stack
    return weakref.ref(call)

kept = serve()
gc.collect()
print(kept() is None)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None, reason="MediaPipe has no wheel for this Python"
)
def test_loading_mediapipe_keeps_nobody_who_was_being_served() -> None:
    """It keeps the error of a missing PortAudio; with its traceback, every frame above."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED_INSIDE], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n", done.stderr
