from __future__ import annotations

import cv2
import numpy as np
import pytest

from lipwire.engine.errors import ConfigError
from lipwire.engine.face.alignment import align, transform
from lipwire.training.data.framing import (
    alignments,
    box_alignment,
    face_box,
    moving_average,
    paper_boxes,
    voxceleb2_box,
)


def _landmarks(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    points = np.random.default_rng(0).uniform((x0, y0), (x1, y1), (468, 2)).astype(np.float32)
    points[0], points[1] = (x0, y0), (x1, y1)
    return points


def test_a_box_spans_the_landmarks_and_fills_the_crop() -> None:
    points = _landmarks(40, 60, 200, 260)
    box = face_box(points)
    assert box.tolist() == [40, 60, 200, 260]
    placed = transform(points, box_alignment(box).matrix)
    assert placed.min() == pytest.approx(0, abs=0.6) and placed.max() == pytest.approx(128, abs=0.6)


def test_a_box_crop_equals_cut_and_resize() -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 255, (300, 300, 3), np.uint8), (0, 0), 6)
    crop = align(image, box_alignment(np.array([40.0, 60, 200, 260])))
    wanted = cv2.resize(image[60:260, 40:200], (128, 128), interpolation=cv2.INTER_LINEAR)
    assert np.abs(crop.astype(int) - wanted)[2:-2, 2:-2].max() <= 2


def test_boxes_are_averaged_over_five_frames() -> None:
    boxes = np.zeros((9, 4))
    boxes[4] = 5
    assert moving_average(boxes)[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]
    assert moving_average(boxes[3:5])[:, 0].tolist() == [2.5, 2.5]


def test_a_still_head_has_still_crops_in_every_framing() -> None:
    # A plausible face: the template's own points, enlarged.
    from lipwire.engine.face.alignment import _STABLE

    points = np.zeros((468, 2), np.float32) + (128, 128)
    for index, place in _STABLE.items():
        points[index] = np.array(place) * 1.5 + 30
    for framing in ("stabilised", "box", "voxceleb2"):
        maps = alignments(framing, [points] * 6, (256, 256, 3))
        assert len(maps) == 6
        assert all(np.allclose(m.matrix, maps[0].matrix, atol=1e-4) for m in maps)
    with pytest.raises(ConfigError, match="'round'"):
        alignments("round", [points], (256, 256, 3))


def test_voxceleb2_is_cut_where_the_papers_authors_do() -> None:
    """Of 224 px rows 0 to 157, columns 50 to 173, stretched; of others the same share."""
    assert voxceleb2_box((224, 224, 3)).tolist() == [50, 0, 174, 158]
    assert voxceleb2_box((256, 320, 3)).tolist() == [72, 0, 248, 181]
    (found,) = alignments("voxceleb2", [np.zeros((468, 2), np.float32)], (224, 224, 3))
    corners = transform(np.array([[49.5, -0.5], [173.5, 157.5]], np.float32), found.matrix)
    assert corners.ravel() == pytest.approx([-0.5, -0.5, 127.5, 127.5], abs=1e-3)


def test_the_papers_boxes_follow_the_face_and_fill_gaps() -> None:
    face = np.array([[100, 60], [160, 140]], np.float32)
    moved = [face + 10 * i for i in range(8)]
    known = [None if i in (0, 3) else points for i, points in enumerate(moved)]
    boxes = paper_boxes(known, (224, 224, 3), fixed=False)
    # Frames i to i + 4: two on from the middle of a window, and one less in the first, for frame 0
    # has the next one's box.
    assert boxes[1] == (130, 90, 190, 170) and boxes[0] == (122, 82, 182, 162)
    assert boxes[7] == (170, 130, 224, 210), "cut off at the edge"
    assert paper_boxes(known, (224, 224, 3), fixed=True) == [(50, 0, 174, 158)] * 8
    assert paper_boxes([face - 500], (224, 224, 3), fixed=False) == [(0, 0, 2, 2)]
    with pytest.raises(ConfigError, match="no frame has a face"):
        paper_boxes([None], (224, 224, 3), fixed=False)
