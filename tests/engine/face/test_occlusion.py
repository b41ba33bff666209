"""A hand and a microphone before the mouth are noticed; light, a smile and speech are not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from lipwire.benchmarks.rig.scenes import Pose, cover, scene
from lipwire.engine.face.alignment import align, alignment_from, fit_similarity, transform
from lipwire.engine.face.occlusion import COVERED, FORGET_S, KNOWN, SURE, OcclusionDetector
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.types import F32, U8


@cache
def look(what: str = "", amount: float = 1.0, sway: int = 0, size: int = 128) -> tuple[U8, F32]:
    """Crop and landmarks in it, as the landmarks of the bare face have it."""
    tracker = MeshTracker(still=True)
    image = scene(Pose(320 + sway, width_px=150, roll_deg=sway / 4), seed=sway)
    face = tracker.track(image)
    tracker.close()
    assert face is not None
    if what:
        image = cover(image, face.landmarks, what, amount)
    alignment = alignment_from(fit_similarity(face.landmarks, size), size)
    return align(image, alignment), transform(face.landmarks, alignment.matrix)


def known(size: int = 128) -> OcclusionDetector:
    """Knows the bare face, and that it sways."""
    cover = OcclusionDetector()
    for index in range(3 * KNOWN):
        assert not cover.update(*look(sway=4 * (index % 3), size=size), index / 25)
    return cover


@pytest.mark.parametrize("size", [96, 128, 256])
@pytest.mark.parametrize("what", ["hand", "microphone"])
def test_a_cover_is_seen_at_once_and_its_end_too(what: str, size: int) -> None:
    cover = known(size)
    for index in range(5):
        assert cover.update(*look(what, size=size), 1 + index / 25)
        assert cover.covered
    assert not cover.update(*look(size=size), 1.2)
    assert not cover.covered


@pytest.mark.parametrize("what", ["hand", "microphone"])
@pytest.mark.parametrize("looks", [KNOWN, 8, 15])
def test_a_cover_in_the_first_second_is_seen(what: str, looks: int) -> None:
    cover = OcclusionDetector()
    for index in range(looks):
        assert not cover.update(*look(sway=4 * (index % 3)), index / 25)
    assert cover.update(*look(what), looks / 25)


def test_a_mouth_without_its_line_is_covered_though_little_else_has_changed() -> None:
    cover = known()
    crop, points = look()
    x, y = points[13].astype(int)
    colour = crop[y - 20 : y + 20, x - 20 : x + 20].reshape(-1, 3)
    plain = crop.copy()
    plain[y - 9 : y + 12, x - 21 : x + 22] = np.median(colour, axis=0)
    assert cover.update(plain, points, 1.0)
    assert cover.share < COVERED
    assert not cover.update(crop, points, 1.04)


def test_metal_under_the_lip_is_a_cover_where_a_shadow_is_none() -> None:
    for level, said in ((25, True), (0, False)):
        cover = known()
        crop, points = look()
        x, y = points[199].astype(int)
        shown = crop.copy()
        chin = shown[y - 10 : y + 12, x - 14 : x + 14]
        chin[:] = level if level else chin * 0.85
        assert cover.update(shown, points, 1.0) is said
        assert cover.share < COVERED


def test_half_on_its_way_the_state_stays_as_it_was() -> None:
    cover = known()
    share = 0.0
    for step in range(21):
        said = cover.update(*look("hand", step / 20), 1 + step / 25)
        share = max(share, cover.share)
    assert said
    up, down = [], []
    for step in range(21):
        down.append(cover.update(*look("hand", 1 - step / 20), 2 + step / 25))
    for step in range(21):
        up.append(cover.update(*look("hand", step / 20), 3 + step / 25))
    assert down[0] and not down[-1] and up[-1] and not up[0]
    assert sum(down) > sum(up)  # hysteresis: it goes later than it came
    assert sum(np.diff(np.array(down, int)) != 0) == sum(np.diff(np.array(up, int)) != 0) == 1


@pytest.mark.parametrize("gain", [(0.5, 0.5, 0.5), (1.3, 1.1, 0.9), (0.8, 1.0, 1.2)])
def test_another_light_is_no_cover(gain: tuple[float, float, float]) -> None:
    cover = known()
    crop, points = look()
    lit = np.asarray(np.clip(crop * np.array(gain), 0, 255), np.uint8)
    assert not cover.update(lit, points, 1.0)


def test_lips_that_open_are_no_cover() -> None:
    cover = known()
    crop, points = look()
    x, y = points[13].astype(int)
    speaking = crop.copy()
    speaking[y - 1 : y + 8, x - 12 : x + 12] = (60, 25, 25)
    for index in range(10):
        assert not cover.update(speaking if index % 2 else crop, points, 1 + index / 25)


def test_a_hand_from_the_first_picture_on_is_told_by_the_lips_that_are_missing() -> None:
    cover = OcclusionDetector()
    said = [cover.update(*look("hand"), index / 5) for index in range(round((FORGET_S + 3) * 5))]
    assert all(said)  # however long it stays
    assert [cover.update(*look(), 60 + index / 25) for index in range(SURE)][-1] is False


def test_a_cleared_one_knows_nobody() -> None:
    cover = known()
    assert cover.update(*look("hand"), 1.0)
    cover.clear()
    assert not cover.covered
    assert not cover.update(*look(), 1.04)


def test_points_outside_the_crop_do_no_harm() -> None:
    cover = OcclusionDetector()
    crop, points = look()
    for index in range(2 * KNOWN):
        cover.update(crop, points + 500, index / 25)
        cover.update(crop, points - 500, index / 25)
