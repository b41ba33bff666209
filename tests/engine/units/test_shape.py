"""Shape: landmarks follow a change of the code, and only as far as a unit can show it."""

from __future__ import annotations

import numpy as np
import pytest
from mouths import STATS, in_crop, mouth, unit

from lipwire.engine.face.articulation import OPENING, raw_codes
from lipwire.engine.units.morph import CONTROLS, target_of
from lipwire.engine.units.shape import MOST_PX, SLIT_PX, allowed_change, moved_landmarks
from lipwire.engine.units.usual import SHUT_MORE_PX, UsualMouth


def test_no_change_moves_nothing() -> None:
    assert not moved_landmarks(np.zeros(7, np.float32), list(CONTROLS)).any()


@pytest.mark.parametrize("change_px", [-2.0, 1.0, 3.0])
def test_a_changed_code_is_what_the_moved_landmarks_measure(change_px: float) -> None:
    points = in_crop(mouth(5.0))
    change = raw_codes(in_crop(mouth(5.0 + change_px))[None])
    before = raw_codes(points[None])
    moved = points.copy()
    moved[list(CONTROLS)] += moved_landmarks((change - before)[0], list(CONTROLS))
    found = raw_codes(moved[None])[0, OPENING] - before[0, OPENING]
    assert found == pytest.approx(float(change[0, OPENING] - before[0, OPENING]), abs=0.25)


def test_the_target_has_the_asked_opening() -> None:
    shut = in_crop(mouth(0.0))
    shown = unit(5.0)
    change = unit(7.0).codes - shown.codes
    openings = [raw_codes(target_of(shown.landmarks, shut, c)[None])[0, 0] for c in (None, change)]
    assert openings[1] - openings[0] == pytest.approx(float(change[0]), abs=0.5)


def test_shut_lips_do_not_open_without_teeth() -> None:
    shut, wide = unit(0.0).codes, unit(10.0).codes
    change = allowed_change(wide, shut)
    assert change[OPENING] == pytest.approx(SLIT_PX + 0.5 * shut[OPENING])
    assert np.abs(change).max() <= MOST_PX
    silent = shut.copy()
    silent[:2] = 0
    nearly = unit(1.5).codes
    assert nearly[OPENING] + allowed_change(silent, nearly)[OPENING] == pytest.approx(0, abs=1e-5)
    closing = allowed_change(shut - 3, unit(2.0).codes)
    assert unit(2.0).codes[OPENING] + closing[OPENING] >= 0


def test_the_usual_mouth_turns_measured_codes_into_told_ones_and_back() -> None:
    usual = UsualMouth(STATS)
    codes = np.stack([unit(float(o)).codes for o in range(8)])
    for row in codes:
        usual.update(row)
    assert (usual.median[:2] == 0).all() and usual.median[2] == np.median(codes[:, 2])
    np.testing.assert_allclose(usual.measured(usual.told(codes)), codes, atol=1e-3)
    usually = usual.measured(np.zeros(7, np.float32))
    further = usual.asked(usual.told(codes)) - usually
    shut_more = np.where(np.arange(7) < 2, SHUT_MORE_PX, 0)
    np.testing.assert_allclose(further, STATS.expression * (codes - usually) - shut_more, atol=1e-3)
    usual.clear()
    assert not usual.median.any()
