"""How far a mouth goes is believed by how long it was seen, and forgotten with its person."""

from __future__ import annotations

import numpy as np
import pytest

from lipwire.engine.face.active_speaker import LOWER_LIP, UPPER_LIP
from lipwire.engine.face.alignment import CROP_SIZE
from lipwire.engine.face.articulation_scale import (
    KEPT_FRAMES,
    LEAST_FRAMES,
    LIMIT,
    PRIOR_FRAMES,
    TYPICAL,
    ArticulationScale,
    believed,
    grown,
    moving,
    range_px,
)
from lipwire.engine.types import F32, Alignment

TYPICAL_PX = 6.0
FPS = 25


def speech(range_wanted_px: float, frames: int, seed: int = 0) -> F32:
    """Openings whose 10th to 90th percentiles lie as far apart as asked for."""
    rng = np.random.default_rng(seed)
    drawn = rng.uniform(0, range_wanted_px / 0.8, frames)
    return np.asarray(drawn, np.float32)


def watched(
    openings: F32, start_s: float = 0.0, reach: ArticulationScale | None = None
) -> ArticulationScale:
    reach = reach or ArticulationScale(TYPICAL_PX)
    for index, opening in enumerate(openings):
        reach.see_opening(float(opening), start_s + index / FPS)
    return reach


def test_nobody_seen_is_typical() -> None:
    assert ArticulationScale(TYPICAL_PX).value.tolist() == TYPICAL.tolist() == [1.0] * 7


@pytest.mark.parametrize("truth", [0.5, 1.0, 1.8])
def test_a_minute_of_speech_is_believed(truth: float) -> None:
    reach = watched(speech(truth * TYPICAL_PX, 1500))
    assert reach.value[0] == pytest.approx(truth, rel=0.06)


def test_little_evidence_is_shrunk_by_the_rule() -> None:
    openings = np.linspace(0, 15, 44).tolist()
    found = range_px(openings) / TYPICAL_PX
    weight = 44 / (44 + PRIOR_FRAMES)
    assert believed(openings, TYPICAL_PX) == pytest.approx(found**weight)
    assert 1 < believed(openings, TYPICAL_PX) < found


def test_belief_grows_with_what_was_seen() -> None:
    steps = [believed(speech(12.0, n).tolist(), TYPICAL_PX) for n in (30, 100, 1000)]
    assert steps == sorted(steps)
    assert believed(speech(12.0, LEAST_FRAMES - 1).tolist(), TYPICAL_PX) == 1.0


def test_a_silent_face_stays_typical_and_changes_nothing_that_was_learned() -> None:
    rng = np.random.default_rng(1)
    jitter = (1.5 + 0.2 * rng.standard_normal(2000)).astype(np.float32)
    assert watched(jitter).value.tolist() == TYPICAL.tolist()
    reach = watched(speech(12.0, 500))
    before = reach.value.copy()
    assert watched(jitter, 60.0, reach).value[0] == pytest.approx(before[0], rel=0.05)


def test_outliers_and_gaps_change_little() -> None:
    openings = speech(6.0, 600)
    clean = watched(openings).value[0]
    openings[::40] = 60.0  # a yawn, or lips that were lost, one frame in forty
    openings[7::50] = np.nan
    assert watched(openings).value[0] == pytest.approx(clean, rel=0.1)


def test_no_range_is_believed_beyond_the_limit() -> None:
    assert watched(speech(100.0, 1500)).value[0] == pytest.approx(LIMIT)
    assert watched(speech(1.6, 1500)).value[0] == pytest.approx(1 / LIMIT)


def test_an_old_minute_gives_way_to_the_new_one() -> None:
    reach = watched(speech(12.0, KEPT_FRAMES))
    watched(speech(3.0, KEPT_FRAMES, seed=2), 100.0, reach)
    assert reach.value[0] == pytest.approx(0.5, rel=0.06)


def test_a_cleared_one_knows_nothing() -> None:
    reach = watched(speech(12.0, 500))
    assert reach.value[0] > 1.5
    reach.clear()
    assert reach.value.tolist() == TYPICAL.tolist()


def test_a_clock_that_jumps_back_starts_the_watch_afresh() -> None:
    reach = watched(speech(12.0, 100), start_s=50.0)
    watched(speech(12.0, 100), 0.0, reach)
    assert np.isfinite(reach.value).all() and reach.value[0] > 1


def test_other_codes_grow_less_than_the_opening() -> None:
    wide, narrow = grown(2.0), grown(0.5)
    assert wide.dtype == np.float32 and wide[:2].tolist() == [2.0, 2.0]
    assert (wide[2:] > 1).all() and (wide[2:] < 2).all()
    np.testing.assert_allclose(wide * narrow, 1, rtol=1e-6)


def test_landmarks_are_measured_in_the_crop_whatever_its_size() -> None:
    openings = speech(9.0, 300)
    found = []
    for size, zoom in ((CROP_SIZE, 1.0), (64, 0.5), (CROP_SIZE, 2.0)):
        alignment = Alignment(np.array([[zoom, 0, 0], [0, zoom, 0]], np.float32), size)
        in_crop = 128 / size * zoom  # what a pixel of the frame is in a crop of 128
        reach = ArticulationScale(TYPICAL_PX)
        for index, opening in enumerate(openings):
            points = np.zeros((468, 2), np.float32)
            points[UPPER_LIP], points[LOWER_LIP] = (40, 50), (40, 50 + opening / in_crop)
            reach.update(points, alignment, index / FPS)
        found.append(reach.value[0])
    np.testing.assert_allclose(found, found[0], rtol=1e-4)


def test_only_moving_openings_count() -> None:
    still, talking = np.full(200, 2.0, np.float32), speech(8.0, 200)
    assert moving(still, FPS) == []
    both = moving(np.concatenate([still, talking]), FPS)
    assert 185 <= len(both) <= 200
