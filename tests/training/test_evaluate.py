"""The figures of an evaluation, each against a case worked out by hand, and one small run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import face_mesh, picture

from engine.bundle import open_bundle
from engine.types import F32
from training.evaluate import (
    LIPS,
    best_lag,
    border_gradient,
    correlation,
    evaluate,
    lmd,
    psnr_db,
    ssim,
)

WAVE = np.sin(np.arange(60) / 3).astype(np.float32)


def test_correlation_leaves_out_what_was_not_found() -> None:
    found = 2 * WAVE + 5
    found[10:20] = np.nan
    assert correlation(found, WAVE) == pytest.approx(1.0)
    assert correlation(-found, WAVE) == pytest.approx(-1.0)
    assert correlation(np.ones(60, np.float32), WAVE) == 0.0, "what stands still follows nothing"
    assert np.isnan(correlation(np.full(60, np.nan, np.float32), WAVE))


@pytest.mark.parametrize("lag", [-3, 0, 2])
def test_a_late_mouth_has_a_positive_lag(lag: int) -> None:
    found = np.roll(WAVE, lag)
    assert best_lag(found, WAVE) == lag
    assert correlation(found, WAVE, lag) == pytest.approx(1.0)


def points(seed: int) -> F32:
    return np.random.default_rng(seed).uniform(0, 128, (4, 468, 2)).astype(np.float32)


def test_lmd_measures_shape_and_not_place() -> None:
    here = points(0)
    there = here + np.array([30, -7], np.float32)
    assert lmd(there, here) == pytest.approx(0, abs=1e-4)
    there[:, LIPS[0], 0] += 3  # the mean moves by 3 / n, everybody else by as much back
    n = len(LIPS)
    assert lmd(there, here) == pytest.approx((3 - 3 / n) / n + (n - 1) / n * (3 / n), rel=1e-3)
    lost = there.copy()
    lost[1] = np.nan
    assert np.isfinite(lmd(lost, here)) and np.isnan(lmd(np.full_like(here, np.nan), here))


def test_psnr_and_ssim() -> None:
    grey = np.full((64, 64, 3), 100, np.uint8)
    assert psnr_db(grey + 5, grey) == pytest.approx(10 * np.log10(255**2 / 25))
    half = np.zeros((64, 64), np.float32)
    half[:32] = 1
    wrong = grey.copy()
    wrong[32:] = 0
    assert psnr_db(wrong, grey, half) > 100, "what lies outside the mask does not count"
    noisy = picture(64, 64, 1)
    assert ssim(noisy, noisy) == pytest.approx(1.0) and ssim(255 - noisy, noisy) < 0.5


def test_a_seam_shows_in_the_border_gradient() -> None:
    crop = np.repeat(np.linspace(90, 110, 128).astype(np.uint8)[:, None], 128, axis=1)
    crop = np.repeat(crop[..., None], 3, axis=2)
    crop[:, :, 0] += (np.arange(128) % 2 * 8).astype(np.uint8)[:, None]  # no two rows alike
    landmarks = face_mesh((64.0, 70.0), 100.0)
    assert border_gradient(crop, crop, landmarks) == pytest.approx(1.0, abs=0.02)
    rough = crop.copy()
    rough[64:] = np.where(np.arange(64)[:, None, None] % 2, 200, 20)
    assert border_gradient(rough, crop, landmarks) > 1.2


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
