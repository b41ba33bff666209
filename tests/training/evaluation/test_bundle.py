"""`lipwire evaluate BUNDLE SHARDS`: one small run; its figures have their own tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lipwire.engine.model.bundle import open_bundle
from lipwire.training.evaluation.bundle import evaluate


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
