"""A face is like itself in another light and unlike somebody else."""

from __future__ import annotations

import numpy as np
import skimage.data

from lipwire.engine.face.identity import GRID, face_similarity, likeness_of
from lipwire.engine.types import U8

PORTRAIT: U8 = skimage.data.astronaut()  # type: ignore[no-untyped-call]
CROP: U8 = np.ascontiguousarray(PORTRAIT[70:198, 160:288])
OTHER: U8 = np.ascontiguousarray(skimage.data.chelsea()[80:208, 150:278])  # type: ignore[no-untyped-call]


def test_a_face_is_like_itself() -> None:
    one = likeness_of(CROP)
    assert one.shape == GRID[::-1]
    assert face_similarity(one, one) > 0.999
    darker = np.asarray(CROP * 0.5, np.uint8)
    assert face_similarity(one, likeness_of(darker)) > 0.98
    moved = np.ascontiguousarray(np.roll(CROP, 2, axis=1))
    assert face_similarity(one, likeness_of(moved)) > 0.9


def test_it_is_not_like_somebody_else() -> None:
    assert face_similarity(likeness_of(CROP), likeness_of(OTHER)) < 0.6


def test_the_mouth_has_no_say() -> None:
    speaking = CROP.copy()
    speaking[64:] = 0
    assert face_similarity(likeness_of(CROP), likeness_of(speaking)) == 1


def test_any_size_and_flat_pictures() -> None:
    for size in (64, 96, 256):
        assert likeness_of(np.zeros((size, size, 3), np.uint8)).shape == GRID[::-1]
    flat = likeness_of(np.full((128, 128, 3), 90, np.uint8))
    assert face_similarity(flat, likeness_of(CROP)) == 1
