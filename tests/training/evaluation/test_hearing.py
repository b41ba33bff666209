"""What a voice hears: closures within speech, intervals over speakers, the figures of a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lipwire.engine.model.bundle import open_bundle
from lipwire.training.data.dataset import load_clips
from lipwire.training.evaluation.hearing import (
    WAYS,
    closures,
    drawn,
    measure_voice,
    shown_within_a_frame,
)


def test_closures_are_those_between_open_mouths() -> None:
    opening = np.array([0, 0, 1, 1, 0.1, 0, 1, 1, 0.4, 1, 0, 0, 0], np.float32)
    assert closures(opening) == [(4, 5)], "neither before speech nor after it, nor one half shut"
    assert closures(np.concatenate([[1], np.zeros(30), [1]]).astype(np.float32)) == [], "a pause"
    late = np.roll(opening, 1)
    assert shown_within_a_frame([(4, 5)], late) == 1
    assert shown_within_a_frame([(4, 5)], np.ones(13, np.float32)) == 0


def test_speakers_are_drawn_and_not_clips() -> None:
    values = np.array([0.0] * 20 + [1.0] * 20)
    same, low, high = drawn(values, ["a"] * 20 + ["b"] * 20)
    assert same == 0.5 and (low, high) == (0, 1)
    assert drawn(values, ["a"] * 40, values) == [0, 0, 0]


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_a_bundle_is_measured_in_every_way(shards: Path) -> None:
    bundle = open_bundle()
    report = measure_voice(bundle, load_clips(shards, "val"), bundle)
    assert set(report) == set(WAYS)
    for row in report.values():
        assert row["r_more"] == [0, 0, 0], "than itself"
        assert len(row["r"]) == 3 and row["movement"] > 0
