"""`lipwire evaluate BUNDLE SHARDS`: one small run; its figures have their own tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.bundle import open_bundle
from training.data import load_clips
from training.evaluate import evaluate, reach_elsewhere


@pytest.mark.slow
def test_evaluate_prints_every_figure_beside_its_baselines(shards: Path) -> None:
    bundle = open_bundle()
    found = evaluate(bundle, shards, clips=1, steps=(1, 2), step_clips=1)
    json.dumps(found)
    assert found["clips"] == 1 and found["steps"] == bundle.manifest.default_steps
    assert set(found["r_by_steps"]) == {"1", "2"}
    assert found["reconstruction"]["upper_half_equal"] == 1.0
    assert found["baselines"]["r_silence"] == 0.0, "an unchanging sound moves nothing"
    assert found["silence"]["spread_of_speaking"] == 0.0
    assert 5 < found["reconstruction"]["psnr_db"] < 60
    assert found["perceptual_measure"] == "gabor"
    baselines = found["baselines"]
    assert 0 < baselines["perceptual_frame_to_frame"] < baselines["perceptual_copy"]
    assert found["reconstruction"]["perceptual"] > baselines["perceptual_frame_to_frame"]


def test_the_reach_is_read_from_other_frames_than_those_it_judges(shards: Path) -> None:
    clip = load_clips(shards, "val")[0]
    frames = 100
    wave = np.abs(np.sin(np.arange(frames) * 1.3)).astype(np.float32)
    codes = np.repeat((wave * np.where(np.arange(frames) < 50, 4, 12))[:, None], 7, axis=1)
    clip = replace(clip, codes=codes)
    told = reach_elsewhere([clip], 0, frames, 6.0)
    assert told.shape == (100, 7)
    assert (told[:50, 0] > 1.2).all(), "the first half is told what the second, wide one shows"
    assert (told[50:, 0] < 0.8).all()
    stranger = replace(clip, speaker="stranger", codes=codes * 9)
    assert np.array_equal(reach_elsewhere([clip, stranger], 0, frames, 6.0), told)
    wider = replace(clip, codes=codes * 3)
    assert (reach_elsewhere([clip, wider], 0, frames, 6.0) > told + 0.1)[:, 0].all()
