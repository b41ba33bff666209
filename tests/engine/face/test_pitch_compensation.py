"""A head that nods forward: its lower half is stretched for the model, and back again."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeTracker, face_mesh, picture

from lipwire.engine.config import EngineConfig
from lipwire.engine.face.active_speaker import LOWER_LIP, UPPER_LIP
from lipwire.engine.face.alignment import CHIN, alignment_from, fit_similarity, transform
from lipwire.engine.face.pitch_compensation import (
    LONGEST,
    SHORT_ROW,
    PitchCompensation,
    length_of,
    lengthened_alignment,
    shut_chin,
    stretch,
    unstretch,
)
from lipwire.engine.media.planes import paint_image
from lipwire.engine.session.aligned import Aligned, composite
from lipwire.engine.session.face_pipeline import FacePipeline
from lipwire.engine.types import F32, U8, Alignment, Face, JobSpec

IDENTITY = Alignment(np.eye(2, 3, dtype=np.float32), 128)


def nodding(landmarks: F32, by: float = 0.85) -> F32:
    """The same mesh with all below the nose so much shorter, as a bowed head shows it."""
    alignment = alignment_from(fit_similarity(landmarks))
    crop = transform(landmarks, alignment.matrix)
    edge = 63.5
    below = crop[:, 1] > edge
    crop[below, 1] = edge + by * (crop[below, 1] - edge)
    matrix = np.vstack([alignment.matrix, [0, 0, 1]])
    inverse = np.linalg.inv(matrix)[:2].astype(np.float32)
    return transform(crop, inverse)


class Nodding(FakeTracker):
    """A bowed head."""

    def track(self, image: U8) -> Face | None:
        face = super().track(image)
        assert face is not None
        return Face(nodding(face.landmarks), 1.0, told=True)


def textured(seed: int = 0) -> U8:
    import cv2

    noise = np.random.default_rng(seed).normal(128, 60, (32, 32, 3))
    return np.asarray(np.clip(cv2.resize(noise, (128, 128)), 0, 255), np.uint8)


def test_ordinary_faces_are_left_alone_to_the_bit() -> None:
    crop, painted = textured(0), textured(1)
    assert length_of(SHORT_ROW) == length_of(109.0) == length_of(125.0) == 1.0
    assert stretch(crop, 1.0) is crop and unstretch(painted, crop, 1.0) is painted


def test_the_shorter_the_face_the_more_it_is_stretched() -> None:
    lengths = [length_of(row) for row in (101.0, 100.0, 98.5, 97.0, 95.0)]
    assert all(a < b for a, b in zip(lengths, lengths[1:], strict=False))
    assert 1.25 < lengths[3] < 1.4
    assert length_of(70.0) == length_of(-5.0) == LONGEST, "nothing stretches without bound"


def test_an_open_mouth_is_not_a_long_face() -> None:
    shut = face_mesh((64, 64), 90)
    opened = shut.copy()
    opened[LOWER_LIP, 1] += 10
    opened[CHIN, 1] += 5.5
    assert shut_chin(opened) == pytest.approx(shut_chin(shut), abs=0.1)


@pytest.mark.parametrize("size", [64, 128, 96])
def test_stretching_comes_undone(size: int) -> None:
    import cv2

    crop = np.asarray(cv2.resize(textured(), (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    long = stretch(crop, 1.3)
    assert np.array_equal(long[: size // 2], crop[: size // 2]), "the visible half stays"
    back = unstretch(long, crop, 1.3)
    error = np.abs(back.astype(float) - crop)
    assert error[: size // 2].max() == 0
    assert error.mean() < 1.0
    last = int(size / 2 + size / 2 / 1.3) + 2
    assert error[last:].max() == 0, "what was stretched out of the crop comes from the crop"


def test_points_and_pixels_are_stretched_alike() -> None:
    crop = np.zeros((128, 128, 3), np.uint8)
    crop[88:91, 60:63] = 255
    there = transform(np.array([[61.0, 89.0]]), lengthened_alignment(IDENTITY, 1.25).matrix)[0]
    rows, columns = np.nonzero(stretch(crop, 1.25)[..., 0] > 128)
    assert rows.mean() == pytest.approx(there[1], abs=0.3)
    assert columns.mean() == pytest.approx(there[0], abs=0.3)


def test_a_bowed_face_is_shown_at_its_usual_length() -> None:
    tilt, landmarks = PitchCompensation(), face_mesh((64, 64), 90)
    fit = alignment_from(fit_similarity(landmarks))
    usual = shut_chin(transform(landmarks, fit.matrix))
    assert tilt.update(landmarks, fit, 0.0) == length_of(usual)
    bowed = nodding(landmarks)
    fit = alignment_from(fit_similarity(bowed))
    tilt.reset()
    length = tilt.update(bowed, fit, 1.0)
    chin = shut_chin(transform(bowed, lengthened_alignment(fit, length).matrix))
    assert length > 1.1 and SHORT_ROW < chin < SHORT_ROW + 10


def test_the_length_is_steady_where_landmarks_shake() -> None:
    tilt, rng, landmarks = (
        PitchCompensation(),
        np.random.default_rng(0),
        nodding(face_mesh((64, 64), 90)),
    )
    raw, steady = [], []
    for index in range(100):
        shaken = landmarks + rng.normal(0, 0.4, landmarks.shape).astype(np.float32)
        fit = alignment_from(fit_similarity(shaken))
        raw.append(length_of(shut_chin(transform(shaken, fit.matrix))))
        steady.append(tilt.update(shaken, fit, index / 25))
    assert np.diff(steady).std() < 0.5 * np.diff(raw).std()


def test_only_the_mouth_of_a_bowed_face_changes_and_lies_where_it_is() -> None:
    image = picture()
    paint = FacePipeline(Nodding(), EngineConfig(), JobSpec(references=2))
    found = paint.find(image, 0.0)
    assert isinstance(found, Aligned) and found.length > 1.1
    assert np.array_equal(found.references[0], found.crop), "references are as long as the face"
    again = composite(found, found.crop, 1.0)
    assert np.abs(again.change).max(initial=0) < 12, "what the model did not change hardly changes"
    # A mark that the model makes at the lips of the long crop lies at the frame's own lips.
    placed = lengthened_alignment(found.alignment, found.length)
    lips = transform(found.face.landmarks[[UPPER_LIP, LOWER_LIP]], placed.matrix).mean(0)
    x, y = np.round(lips).astype(int)
    marked = found.crop.copy()
    marked[y - 3 : y + 4, x - 3 : x + 4] = (255, 0, 0)
    shown = paint_image(image, composite(found, marked, 1.0))
    rows, columns = np.nonzero(np.abs(shown.astype(int) - image).sum(2) > 150)
    wanted = found.face.landmarks[[UPPER_LIP, LOWER_LIP]].mean(0)
    unit = 1 / float(np.hypot(*found.alignment.matrix[0, :2]))
    assert abs(columns.mean() - wanted[0]) < 1.5 * unit and abs(rows.mean() - wanted[1]) < 2 * unit
    paint.close()


def test_models_of_boxes_get_their_boxes() -> None:
    found = FacePipeline(Nodding(), EngineConfig(), JobSpec(96, "box")).find(picture(), 0.0)
    assert isinstance(found, Aligned) and found.length == 1.0
