"""MediaPipe's nets as LiteRT runs them, judged by MediaPipe."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lipwire.benchmarks.rig.scenes import Pose, scene
from lipwire.engine.errors import BundleError
from lipwire.engine.face import litert, mediapipe_graphs, mediapipe_nets
from lipwire.engine.face.mesh import reduced
from lipwire.engine.media.files import read_frames
from lipwire.engine.types import F32, U8

# How far landmarks may lie from MediaPipe's, pixels of a picture of at most 640. What is between
# them is rounding, which a followed face feeds back.
MEDIAN_PX, P99_PX = 0.05, 0.5
FACES = [
    [],
    [Pose(320, 240, 200)],
    [Pose(170, 230, 120), Pose(480, 240, 90)],
    [Pose(120, 120, 60), Pose(330, 240, 80, 20), Pose(520, 330, 110, -25)],
]


def apart(mesh: litert.FaceMesh, judge: mediapipe_graphs.FaceMesh, images: Iterator[U8]) -> F32:
    """f32[N, 468]: how far the landmarks of N faces are from MediaPipe's; both see the same ones.

    Each picture is either with a face for both or for neither.
    """
    far = []
    for index, image in enumerate(images):
        ours, theirs = mesh.process(image), judge.process(image)
        assert (ours is None) == (theirs is None), index
        if ours is not None and theirs is not None:
            assert np.abs(ours[:, 2] - theirs[:, 2]).max() < 4, index
            far.append(np.linalg.norm(ours[:, :2] - theirs[:, :2], axis=1))
    return np.array(far, np.float32)


judged = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None, reason="MediaPipe has no wheel for this Python"
)


@pytest.fixture(scope="module")
def judge() -> Iterator[mediapipe_graphs.FaceMesh]:
    with closing(mediapipe_graphs.FaceMesh(0.5, still=False)) as made:
        yield made


def walk(index: int) -> U8:
    """A head that moves, nods, leaves for a while and comes back nearer."""
    if 12 <= index < 16:
        return scene([])
    roll_deg = 30 * np.sin(index / 4)
    return scene(Pose(200 + 8 * index, 240, 100 + 3 * index, roll_deg), seed=index)


@judged
def test_landmarks_are_mediapipes_and_a_lost_face_is_found_again(
    judge: mediapipe_graphs.FaceMesh,
) -> None:
    judge.forget()
    far = apart(litert.FaceMesh(0.5, still=False), judge, map(walk, range(30)))
    assert len(far) == 26
    assert np.median(far) < MEDIAN_PX and np.percentile(far, 99) < P99_PX


@judged
@pytest.mark.slow
def test_landmarks_are_mediapipes_on_real_clips(
    judge: mediapipe_graphs.FaceMesh, shared_dir: Path
) -> None:
    """Frontal, turned and small faces, of the corpus that lies beside the checkout."""
    manifest = shared_dir / "corpus" / "manifest.csv"
    if not manifest.is_file():
        pytest.skip(f"no corpus at {manifest}")
    with manifest.open(encoding="utf-8") as lines:
        rows = [r for r in csv.DictReader(lines) if r["file"].startswith("video/") and r["yaw_deg"]]

    def turned(row: dict[str, str], least: float, most: float) -> bool:
        return least <= abs(float(row["yaw_deg"])) < most

    large = [r for r in rows if turned(r, 0, 10) and int(r["width"]) >= 360]
    small = sorted(rows, key=lambda r: float(r["face_px"] or 1e9))
    far = []
    for row in large[::40][:4] + [r for r in rows if turned(r, 15, 30)][::9][:3] + small[:2]:
        judge.forget()
        frames = itertools.islice(read_frames(shared_dir / "corpus" / row["file"]), 40)
        images = (reduced(frame.image, 640) for frame in frames)
        far.append(apart(litert.FaceMesh(0.5, still=False), judge, images).ravel())
    every = np.concatenate(far)
    assert len(every) > 5 * 20 * 468
    assert np.median(every) < MEDIAN_PX and np.percentile(every, 99) < P99_PX


@judged
@pytest.mark.parametrize("shape", [(480, 640), (360, 640), (640, 400)])
def test_faces_are_found_where_mediapipe_finds_them(shape: tuple[int, int]) -> None:
    ours = litert.Detectors(0.5)
    with closing(mediapipe_graphs.Detectors(0.5)) as theirs:
        for poses in FACES:
            image = scene(poses, shape=shape)
            found = ours.find(image)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, theirs.find(image), atol=0.01)


def test_boxes_of_one_face_become_one() -> None:
    """Weighted by their chance, and the likeliest face is the first."""

    def spans(x: float) -> list[list[float]]:
        return [[x, 0], [x + 1, 1], [x + 0.3, 0.4], [x + 0.7, 0.4]]

    boxes = np.array([spans(5), spans(0), spans(0.3), spans(5.5)], np.float32)
    merged = litert._merge(boxes, np.array([0.6, 0.9, 0.45, 0.3], np.float32))
    assert merged[:, 0, 0].tolist() == pytest.approx([0.1, 5.0 + 0.5 / 3])
    assert litert._merge(boxes[:0], np.zeros(0, np.float32)).shape == (0, 4, 2)
    flat = np.zeros((2, 4, 2), np.float32)  # without area, so not even like itself
    assert len(litert._merge(flat, np.array([0.9, 0.8], np.float32))) == 2


def test_a_net_is_lent_to_one_at_a_time_and_then_to_the_next() -> None:
    with litert.lent(litert.MESH) as first:
        others: list[litert.Net] = []

        def borrow() -> None:
            with litert.lent(litert.MESH) as net:
                others.append(net)

        thread = threading.Thread(target=borrow)
        thread.start()
        thread.join(30)
        assert others and others[0] is not first, "it waited for nobody"
    with litert.lent(litert.MESH) as again:
        assert again is first
    with pytest.raises(ZeroDivisionError), litert.lent(litert.MESH) as broken:
        1 / 0  # noqa: B018
    with litert.lent(litert.MESH) as next_one:
        assert next_one is not broken


@judged
def test_nets_are_taken_as_built_or_from_mediapipe_and_never_altered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mediapipe_nets, "FOLDER", tmp_path)
    installed = mediapipe_nets.find(litert.MESH)
    assert installed is not None and "mediapipe" in installed.parts
    built = tmp_path / litert.MESH
    built.write_bytes(installed.read_bytes())
    assert mediapipe_nets.find(litert.MESH) == built
    built.write_bytes(b"another")
    assert mediapipe_nets.find(litert.MESH) == installed
    monkeypatch.setattr(mediapipe_nets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BundleError, match=r"^the face net face_landmark.tflite is missing or alt"):
        litert.Net(litert.MESH)
