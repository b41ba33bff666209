"""The gallery keeps the mouths that a model wants to see, and lets go of what is old or turned."""

from __future__ import annotations

import numpy as np
from fakes import face_mesh

from lipwire.engine.face.active_speaker import LOWER_LIP, UPPER_LIP
from lipwire.engine.face.alignment import (
    CROP_SIZE,
    alignment_from,
    fit_similarity,
    transform,
    turned_px,
)
from lipwire.engine.face.references import (
    MARGIN_PX,
    MAX_AGE_S,
    TURNED_PX,
    WIDE_PX,
    YAWN_PX,
    ReferenceBank,
)
from lipwire.engine.types import F32, U8, Alignment

IDENTITY = Alignment(np.array([[1, 0, 0], [0, 1, 0]], np.float32), CROP_SIZE)


def face(opening_px: float, turn_px: float = 0.0) -> F32:
    """Frontal in a crop, or with the nose so far to the side."""
    mesh = face_mesh((64, 64), 90)
    points = transform(mesh, alignment_from(fit_similarity(mesh)).matrix)
    points[UPPER_LIP] = 64, 80
    points[LOWER_LIP] = 64, 80 + opening_px
    points[[168, 6, 197, 195, 5, 98, 327], 0] += turn_px
    return points


def crop(value: int, seed: int = 0) -> U8:
    """Known by its first pixel; eyes and nose are those of a seed."""
    grain = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    picture = np.repeat(np.repeat(grain, 16, 0), 16, 1)
    picture[0, 0] = value
    return picture


def shown(gallery: ReferenceBank) -> list[int]:
    return [int(picture[0, 0, 0]) for picture in gallery.references]


def test_the_first_frame_serves_every_rank() -> None:
    gallery = ReferenceBank(2)
    gallery.update(crop(1), face(3), IDENTITY, 0.0)
    assert shown(gallery) == [1, 1]
    assert gallery.references.shape == (2, CROP_SIZE, CROP_SIZE, 3)


def test_the_most_closed_comes_first_and_the_widest_last() -> None:
    gallery = ReferenceBank(2)
    for number, opening_px in enumerate((4.0, 0.0, 8.0, WIDE_PX, 5.0)):
        gallery.update(crop(number), face(opening_px), IDENTITY, number / 25)
    assert shown(gallery) == [1, 3]


def test_three_references_span_the_range() -> None:
    gallery = ReferenceBank(3)
    for number, opening_px in enumerate((3.0, 0.0, WIDE_PX, WIDE_PX / 2)):
        gallery.update(crop(number), face(opening_px), IDENTITY, number / 25)
    assert shown(gallery) == [1, 3, 2]


def test_a_single_reference_is_the_newest_frame() -> None:
    gallery = ReferenceBank(1)
    for number in range(3):
        gallery.update(crop(number), face(2.0), IDENTITY, number / 25)
        assert shown(gallery) == [number]


def test_one_that_is_hardly_better_changes_nothing() -> None:
    gallery = ReferenceBank(2)
    gallery.update(crop(1), face(2.0), IDENTITY, 0.0)
    gallery.update(crop(2), face(2.0 - 0.9 * MARGIN_PX), IDENTITY, 0.0)
    assert shown(gallery) == [1, 1]


def test_eyes_and_nose_that_look_otherwise_take_new_references() -> None:
    gallery = ReferenceBank(2)
    gallery.update(crop(1), face(0.0), IDENTITY, 0.0)
    gallery.update(crop(2), face(8.0), IDENTITY, 0.04)
    gallery.update(crop(3, seed=1), face(4.0), IDENTITY, 0.08)
    assert shown(gallery) == [3, 3]


def test_a_head_that_turns_away_and_back_keeps_what_it_showed_before() -> None:
    gallery = ReferenceBank(2)
    gallery.update(crop(1), face(0.0), IDENTITY, 0.0)
    gallery.update(crop(2), face(9.0), IDENTITY, 0.04)
    assert turned_px(face(0.0)) < 1.4 < TURNED_PX + 0.5 < turned_px(face(0.0, 7.0))
    for index in range(25):  # it speaks all the while, with its mouth wider than ever
        gallery.update(crop(3), face(WIDE_PX * (index % 2), 7.0), IDENTITY, 1 + index / 25)
        assert shown(gallery) == [1, 2]
    gallery.update(crop(4), face(4.0), IDENTITY, 2.0)
    assert shown(gallery) == [1, 2]


def test_a_face_that_was_turned_from_the_first_is_replaced_when_it_looks_here() -> None:
    gallery = ReferenceBank(2)
    gallery.update(crop(1), face(0.0, 12.0), IDENTITY, 0.0)
    gallery.update(crop(2), face(WIDE_PX, 12.0), IDENTITY, 0.04)
    assert shown(gallery) == [1, 2]  # better than none
    gallery.update(crop(3), face(3.0), IDENTITY, 0.08)
    assert shown(gallery) == [3, 3]


def test_a_face_that_stays_turned_gets_its_own_pictures_in_time() -> None:
    gallery = ReferenceBank(2)
    gallery.update(crop(1), face(0.0), IDENTITY, 0.0)
    gallery.update(crop(2), face(9.0), IDENTITY, 0.04)
    for index in range(round(MAX_AGE_S * 5) + 2):
        gallery.update(crop(3), face(WIDE_PX * (index % 2), 7.0), IDENTITY, 0.1 + index / 5)
    assert shown(gallery) == [3, 3]


def test_a_yawn_is_no_wide_mouth() -> None:
    gallery = ReferenceBank(2)
    gallery.update(crop(1), face(0.0), IDENTITY, 0.0)
    gallery.update(crop(2), face(YAWN_PX + 5), IDENTITY, 0.04)
    gallery.update(crop(3), face(10.0), IDENTITY, 0.08)
    assert shown(gallery) == [1, 3]
    gallery.update(crop(4), face(YAWN_PX + 5), IDENTITY, 0.12)
    gallery.update(crop(5), face(YAWN_PX - 1), IDENTITY, 0.16)  # no better than 3
    assert shown(gallery) == [1, 3]


def test_what_is_old_goes_whatever_it_shows() -> None:
    gallery = ReferenceBank(2)
    gallery.update(crop(1), face(0.0), IDENTITY, 0.0)
    gallery.update(crop(2), face(6.0), IDENTITY, MAX_AGE_S + 0.1)
    assert shown(gallery) == [2, 2]


def test_a_clock_that_went_back_starts_afresh() -> None:
    gallery = ReferenceBank(2)
    gallery.update(crop(1), face(0.0), IDENTITY, 100.0)
    gallery.update(crop(2), face(6.0), IDENTITY, 1.0)
    assert shown(gallery) == [2, 2]


def test_openings_are_measured_in_the_crop() -> None:
    """A face twice as large in the frame does not count as twice as wide open."""
    half = Alignment(np.array([[0.5, 0, 0], [0, 0.5, 0]], np.float32), CROP_SIZE)
    gallery = ReferenceBank(2)
    gallery.update(crop(1), face(6.0), IDENTITY, 0.0)
    gallery.update(crop(2), 2 * face(6.0), half, 0.04)  # the same mouth
    assert shown(gallery) == [1, 1]


def test_cleared_it_begins_anew() -> None:
    gallery = ReferenceBank(2)
    gallery.update(crop(1), face(0.0), IDENTITY, 0.0)
    gallery.clear()
    gallery.update(crop(2), face(5.0), IDENTITY, 0.1)
    assert shown(gallery) == [2, 2]
