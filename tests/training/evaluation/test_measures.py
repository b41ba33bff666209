"""The figures of one clip, each against a case worked out by hand or an independent library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import face_mesh, picture

from lipwire.engine.types import F32
from lipwire.training.evaluation.measures import (
    LIPS,
    UPPER_FACE,
    best_lag,
    bootstrap,
    border_gradient,
    correlation,
    flicker,
    lmd,
    psnr_db,
    shape_px,
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
    assert ssim(noisy, noisy) == pytest.approx(1.0) and ssim(255 - noisy, noisy) < 0.6


def test_a_seam_shows_in_the_border_gradient() -> None:
    crop = np.repeat(np.linspace(90, 110, 128).astype(np.uint8)[:, None], 128, axis=1)
    crop = np.repeat(crop[..., None], 3, axis=2)
    crop[:, :, 0] += (np.arange(128) % 2 * 8).astype(np.uint8)[:, None]  # no two rows alike
    landmarks = face_mesh((64.0, 70.0), 100.0)
    assert border_gradient(crop, crop, landmarks) == pytest.approx(1.0, abs=0.02)
    rough = crop.copy()
    rough[64:] = np.where(np.arange(64)[:, None, None] % 2, 200, 20)
    assert border_gradient(rough, crop, landmarks) > 1.2


def test_psnr_and_ssim_agree_with_torchmetrics() -> None:
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    rng = np.random.default_rng(0)
    wanted = picture(128, 128, 1)
    found = np.clip(wanted + rng.normal(0, 9, wanted.shape), 0, 255).astype(np.uint8)
    a, b = (
        torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32)) for x in (found, wanted)
    )
    assert psnr_db(found, wanted) == pytest.approx(
        float(peak_signal_noise_ratio(a, b, data_range=255.0)), abs=1e-3
    )
    others = structural_similarity_index_measure(a, b, data_range=255.0)
    assert ssim(found, wanted) == pytest.approx(float(others), abs=1e-3)
    assert ssim(found, wanted, gaussian=False) != pytest.approx(float(others), abs=1e-3)


def test_identity_by_shape_looks_above_the_mouth() -> None:
    here = points(3)
    spoken = here.copy()
    spoken[:, LIPS] += 9
    assert shape_px(spoken, here) == pytest.approx(0, abs=1e-4)
    other = here.copy()
    other[:, UPPER_FACE[0], 1] += 4
    n = len(UPPER_FACE)
    assert shape_px(other, here) == pytest.approx((4 - 4 / n) / n + (n - 1) / n * (4 / n), rel=1e-3)


def test_flicker_is_one_for_the_film_itself_and_none_for_smooth_movement() -> None:
    rng = np.random.default_rng(0)
    grey = np.full((8, 8, 3), 100, np.uint8)
    real = [np.asarray(grey + rng.integers(0, 5), np.uint8) for _ in range(20)]
    assert flicker(real, real) == pytest.approx(1.0)
    assert flicker([np.asarray(grey + i, np.uint8) for i in range(20)], real) == 0.0
    # 100, 120, 100, …: each second difference is 40.
    jumps = [np.asarray(grey + 20 * (i % 2), np.uint8) for i in range(20)]
    steps = [np.asarray(grey + 2 * (i % 2), np.uint8) for i in range(20)]
    assert flicker(jumps, steps) == pytest.approx(10.0)
    assert np.isnan(flicker(jumps, [grey] * 20)), "nothing to compare with"


def test_bootstrap_finds_the_known_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400).tolist()
    mean, (low, high) = bootstrap([*values, float("nan")])
    assert mean == pytest.approx(np.mean(values))
    error = 1.96 * np.std(values) / 20
    assert low == pytest.approx(mean - error, abs=0.03)
    assert high == pytest.approx(mean + error, abs=0.03)
    assert bootstrap([5.0])[0] == 5.0 and np.isnan(bootstrap([5.0])[1][0])
    assert np.isnan(bootstrap([float("nan")])[0])
