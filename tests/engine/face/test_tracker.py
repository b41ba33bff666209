"""MediaPipe's nets on a portrait, by either runtime."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import skimage.data

from lipwire.engine.face.alignment import face_width_px, profile_ratio
from lipwire.engine.face.mesh import TRACK_SIDE_PX
from lipwire.engine.face.quiet import quiet_stderr
from lipwire.engine.face.tracker import MeshTracker, Runtime, TrackerPool
from lipwire.engine.types import U8

PORTRAIT: U8 = skimage.data.astronaut()  # type: ignore[no-untyped-call]  # 512 x 512


with_mediapipe = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None, reason="MediaPipe has no wheel for this Python"
)
RUNTIMES = ("litert", pytest.param("mediapipe", marks=with_mediapipe))


@pytest.fixture(scope="module", params=RUNTIMES)
def still(request: pytest.FixtureRequest) -> Iterator[MeshTracker]:
    tracker = MeshTracker(still=True, runtime=request.param)
    yield tracker
    tracker.close()


def test_the_portrait_has_its_features_where_they_are(still: MeshTracker) -> None:
    face = still.track(PORTRAIT)
    assert face is not None
    assert face.landmarks.shape == (468, 2)
    assert face.landmarks.dtype == np.float32
    assert 0 <= face.confidence <= 1
    # By eye, in the picture: eye corners, tip of the nose, mouth, chin.
    by_eye = {33: (193, 101), 263: (258, 103), 4: (224, 124), 13: (224, 143), 152: (224, 178)}
    for index, place in by_eye.items():
        assert np.linalg.norm(face.landmarks[index] - place) < 6, index
    assert 70 < face_width_px(face.landmarks) < 110
    assert profile_ratio(face.landmarks) < 2


def test_the_same_face_is_found_in_any_size_and_shape_of_picture(still: MeshTracker) -> None:
    small = still.track(PORTRAIT)
    large = still.track(np.ascontiguousarray(PORTRAIT.repeat(4, axis=0).repeat(4, axis=1)))
    wide = still.track(np.pad(PORTRAIT, ((0, 0), (50, 100), (0, 0))))
    cut = still.track(PORTRAIT[:256, 128:384])  # not contiguous in memory
    assert small is not None and large is not None and wide is not None and cut is not None
    assert PORTRAIT.shape[0] * 4 > TRACK_SIDE_PX
    assert np.abs(large.landmarks / 4 - small.landmarks).max() < 4
    assert np.abs(wide.landmarks - (50, 0) - small.landmarks).max() < 6
    assert np.abs(cut.landmarks + (128, 0) - small.landmarks).max() < 6


@pytest.mark.parametrize("shape", [(240, 320, 3), (16, 16, 3), (1, 500, 3), (2000, 20, 3)])
def test_noise_and_grey_have_no_face(still: MeshTracker, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    assert still.track(rng.integers(0, 255, shape, np.uint8)) is None
    assert still.track(np.full(shape, 127, np.uint8)) is None


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_face_that_leaves_is_lost_and_found_again(runtime: Runtime) -> None:
    tracker = MeshTracker(runtime=runtime)
    assert tracker.track(PORTRAIT) is not None  # at once: the warm-up's drawing is forgotten
    empty = np.full_like(PORTRAIT, 90)
    for _ in range(3):
        lost = tracker.track(empty)
    assert lost is None
    found = [tracker.track(PORTRAIT) for _ in range(3)]
    assert found[-1] is not None
    tracker.close()


def test_a_moving_face_is_followed() -> None:
    tracker = MeshTracker()
    noses = []
    for shift in range(0, 60, 10):
        face = tracker.track(np.ascontiguousarray(np.roll(PORTRAIT, shift, axis=1)))
        assert face is not None
        noses.append(face.landmarks[4, 0])
    assert np.allclose(np.diff(noses), 10, atol=3)
    tracker.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_is_printed(runtime: Runtime) -> None:
    """Native libraries print banners and warnings; users of the command line must not see them."""
    code = f"""
import warnings
warnings.simplefilter("error")
import skimage.data
from lipwire.engine.face.tracker import MeshTracker
tracker = MeshTracker(runtime={runtime!r})
assert tracker.track(skimage.data.astronaut()) is not None
tracker.close()
import sys
print("this may be seen", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "this may be seen\n"
    assert done.stdout == ""


def test_two_that_are_quiet_at_once_leave_stderr_as_it_was(
    capfd: pytest.CaptureFixture[str],
) -> None:
    first_is_done = threading.Event()

    def quiet() -> None:
        with quiet_stderr():
            os.write(2, b"native noise\n")
            assert first_is_done.wait(5)

    other = threading.Thread(target=quiet)
    with quiet_stderr():
        other.start()
        other.join(0.1)  # it would now save our silence as the real thing, and restore that
    first_is_done.set()
    other.join()
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


@with_mediapipe
def test_a_pool_lends_the_same_tracker_again_and_it_has_forgotten() -> None:
    built: list[MeshTracker] = []

    def make(**options: Any) -> MeshTracker:
        built.append(MeshTracker(**options))
        return built[-1]

    pool = TrackerPool("mediapipe", make)
    first = pool()
    assert first.track(skimage.data.astronaut()) is not None
    first.close()
    first.close()
    second, third = pool(), pool()
    assert len(built) == 2, "one of them was idle"
    assert second.track(np.zeros((240, 320, 3), np.uint8)) is None
    assert second.track(skimage.data.astronaut()) is not None
    second.close()
    pool.close()
    third.close()
    with pytest.raises(ValueError):
        built[1].track(skimage.data.astronaut())  # freed, although it came back late
