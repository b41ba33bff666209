"""Schedule and sampler, on both kinds of array, by an oracle that knows the answer."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lipwire.engine.errors import ConfigError
from lipwire.engine.model.ddim import (
    NoiseSchedule,
    Prediction,
    Spacing,
    add_noise,
    ddim_sample,
    ddim_step,
    predict_x0,
    step_coefficients,
    trajectory,
)

F32 = NDArray[np.float32]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
SCHEDULE = NoiseSchedule.linear()


def images(seed: int) -> tuple[F32, F32]:
    """A clean image in ±1 and noise, f32[2,3,8,8]."""
    rng = np.random.default_rng(seed)
    x0 = rng.uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)
    return x0, rng.standard_normal(x0.shape).astype(np.float32)


def training_target(x0: Any, eps: Any, alpha_bar: Any, prediction: Prediction) -> Any:
    """What a network should output for `add_noise(x0, eps, alpha_bar)`."""
    v = alpha_bar**0.5 * eps - (1 - alpha_bar) ** 0.5 * x0
    return {"epsilon": eps, "v": v, "x0": x0}[prediction]


def test_linear_schedule_is_the_paper_s() -> None:
    betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    product = 1.0
    for t, beta in enumerate(betas):
        product *= 1 - beta
        assert SCHEDULE.alpha_bar(t) == pytest.approx(product, rel=1e-12)
    assert len(SCHEDULE) == 1000
    assert SCHEDULE.alphas_cumprod.dtype == np.float64


def test_schedule_cannot_be_changed() -> None:
    levels = np.array([0.9, 0.5])
    schedule = NoiseSchedule(levels)
    levels[0] = 0.1
    assert schedule.alpha_bar(0) == 0.9
    with pytest.raises(ValueError, match="read-only"):
        schedule.alphas_cumprod[0] = 0.1


@pytest.mark.parametrize("levels", [[0.5, 0.9], [0.5, 0.5], [1.0, 0.5], [0.5, 0.0], [np.nan]])
def test_schedule_rejects_levels(levels: list[float]) -> None:
    with pytest.raises(ConfigError, match="fall strictly"):
        NoiseSchedule(np.array(levels))


def test_schedule_rejects_shapes() -> None:
    with pytest.raises(ConfigError, match=r"\[T\]"):
        NoiseSchedule(np.zeros((2, 2)))
    with pytest.raises(ConfigError, match="at least 1 step"):
        NoiseSchedule.linear(steps=0)


def test_leading_steps_are_ddim25() -> None:
    assert SCHEDULE.timesteps(25) == tuple(range(960, -1, -40))


def test_trailing_steps_start_at_noise_and_nest() -> None:
    chosen = {n: SCHEDULE.timesteps(n, "trailing") for n in (1, 2, 4, 8)}
    assert chosen[1] == (999,)
    assert chosen[2] == (999, 499)
    assert chosen[4] == (999, 749, 499, 249)
    assert chosen[8] == (999, 874, 749, 624, 499, 374, 249, 124)
    assert set(chosen[1]) < set(chosen[2]) < set(chosen[4]) < set(chosen[8])


@pytest.mark.parametrize("spacing", get_args(Spacing))
def test_any_number_of_steps_falls_inside_the_schedule(spacing: Spacing) -> None:
    for n in (1, 3, 7, 300, 501, 999, 1000):
        steps = SCHEDULE.timesteps(n, spacing)
        assert len(steps) == n
        assert all(a > b for a, b in zip(steps, steps[1:], strict=False))
        assert 0 <= steps[-1] and steps[0] <= 999


def test_timesteps_rejects() -> None:
    for n in (0, -1, 1001):
        with pytest.raises(ConfigError, match=rf"1..1000, got {n}"):
            SCHEDULE.timesteps(n)
    with pytest.raises(ConfigError, match="'middle'"):
        SCHEDULE.timesteps(4, cast(Spacing, "middle"))
    for t in (-1, 1000):
        with pytest.raises(ConfigError, match=rf"step {t} is outside"):
            SCHEDULE.alpha_bar(t)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predict_x0_undoes_training_target(prediction: Prediction) -> None:
    x0, eps = images(0)
    for t in (0, 40, 500, 999):
        ab = SCHEDULE.alpha_bar(t)
        out = training_target(x0, eps, ab, prediction)
        got = predict_x0(add_noise(x0, eps, ab), out, ab, prediction)
        assert got.dtype == np.float32
        # At t = 999 only 0.6 % of the amplitude is image: float32 noise grows by 1/0.006.
        assert np.allclose(got, x0, atol=1e-4)


def test_v_is_the_rotation_of_salimans_and_ho() -> None:
    """v is the derivative of x_t by the angle whose cosine is sqrt(alpha_bar)."""
    x0, eps = (image.astype(np.float64) for image in images(1))
    phi, step = 0.7, 1e-6
    later = add_noise(x0, eps, float(np.cos(phi + step) ** 2))
    earlier = add_noise(x0, eps, float(np.cos(phi - step) ** 2))
    v = training_target(x0, eps, float(np.cos(phi) ** 2), "v")
    assert np.allclose((later - earlier) / (2 * step), v, atol=1e-6)


def test_one_level_a_sample() -> None:
    x0, eps = images(2)
    levels = np.array([0.9, 0.2], np.float32)
    for prediction in PREDICTIONS:
        batched = training_target(x0, eps, levels[:, None, None, None], prediction)
        for i, level in enumerate(levels):
            one = training_target(x0[i], eps[i], float(level), prediction)
            assert np.allclose(batched[i], one, atol=1e-6)


def test_step_keeps_the_noise_when_nothing_is_clipped() -> None:
    x0, eps = images(3)
    ab, ab_prev = SCHEDULE.alpha_bar(600), SCHEDULE.alpha_bar(400)
    x_t = add_noise(x0, eps, ab)
    got = ddim_step(x_t, eps, ab, ab_prev, prediction="epsilon", clip=True)
    # Diff2Lip eq. 4, as printed.
    ratio = ab_prev / ab
    factor = (1 - ab_prev) ** 0.5 - (ratio * (1 - ab)) ** 0.5
    assert np.allclose(got, ratio**0.5 * x_t + factor * eps, atol=1e-5)


def test_clipping_rederives_the_noise() -> None:
    ab, ab_prev = 0.5, 0.8
    x_t, out = np.full((1, 1), 2.0), np.full((1, 1), 4.0)  # "x0" far out of range
    got = ddim_step(x_t, out, ab, ab_prev, prediction="x0", clip=True)
    eps = (2.0 - 0.5**0.5 * 1.0) / 0.5**0.5
    assert got.item() == pytest.approx(0.8**0.5 * 1.0 + 0.2**0.5 * eps)
    assert ddim_step(x_t, out, ab, 1.0, prediction="x0", clip=True).item() == 1.0
    assert ddim_step(x_t, out, ab, 1.0, prediction="x0", clip=False).item() == 4.0


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [1, 4, 25])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_oracle_recovers_the_image(prediction: Prediction, steps: int, clip: bool) -> None:
    x0, _ = images(4)
    timesteps = SCHEDULE.timesteps(steps, "trailing")
    seen = []

    def oracle(x_t: F32, t: int) -> F32:
        seen.append(t)
        ab = SCHEDULE.alpha_bar(t)
        eps = (x_t - ab**0.5 * x0) / (1 - ab) ** 0.5
        return training_target(x0, eps, ab, prediction)

    start = np.random.default_rng(5).standard_normal(x0.shape).astype(np.float32)
    got = ddim_sample(oracle, start, timesteps, SCHEDULE, prediction=prediction, clip=clip)
    assert tuple(seen) == timesteps
    assert np.allclose(got, x0, atol=1e-4)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_numpy_equals_torch(prediction: Prediction, clip: bool) -> None:
    _, start = images(6)

    def by_numpy(x_t: F32, t: int) -> F32:
        out: F32 = np.tanh(x_t * np.float32(0.5 + t / 2000))
        return out

    def by_torch(x_t: torch.Tensor, t: int) -> torch.Tensor:
        return torch.tanh(x_t * (0.5 + t / 2000))

    kwargs: dict[str, Any] = {"prediction": prediction, "clip": clip}
    steps = SCHEDULE.timesteps(8, "trailing")
    a = ddim_sample(by_numpy, start, steps, SCHEDULE, **kwargs)
    b = ddim_sample(by_torch, torch.from_numpy(start), steps, SCHEDULE, **kwargs)
    assert a.dtype == np.float32 and b.dtype == torch.float32
    assert np.allclose(a, b.numpy(), rtol=1e-4, atol=1e-4)
    if clip:
        assert np.abs(a).max() <= 1.0


def test_input_is_left_alone() -> None:
    x0, start = images(7)
    kept = start.copy()
    ddim_sample(lambda x, t: x0, start, (999, 499), SCHEDULE, prediction="x0")
    assert np.array_equal(start, kept)


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [((), "at least one"), ((0, 40), "fall strictly"), ((40, 40), "fall"), ((1000,), "outside")],
)
def test_sample_rejects_timesteps(timesteps: tuple[int, ...], message: str) -> None:
    _, start = images(8)
    with pytest.raises(ConfigError, match=message):
        ddim_sample(lambda x, t: x, start, timesteps, SCHEDULE, prediction="epsilon")


def test_unknown_prediction_is_named() -> None:
    x0, eps = images(9)
    with pytest.raises(ConfigError, match="'score': use 'epsilon', 'v' or 'x0'"):
        predict_x0(x0, eps, 0.5, cast(Prediction, "score"))


def test_importing_loads_no_torch() -> None:
    code = "import lipwire.engine.model.ddim, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("t", "t_prev"), [(999, 499), (960, 920), (40, 0), (0, None)])
def test_five_coefficients_are_a_ddim_step(
    prediction: Prediction, clip: bool, t: int, t_prev: int | None
) -> None:
    x_t, out = images(3)
    now = SCHEDULE.alpha_bar(t)
    after = 1.0 if t_prev is None else SCHEDULE.alpha_bar(t_prev)
    wanted = ddim_step(x_t, out, now, after, prediction=prediction, clip=clip)
    from_x, from_out, prev_x, prev_x0, limit = step_coefficients(
        now, after, prediction=prediction, clip=clip
    )
    x0 = np.clip(from_x * x_t + from_out * out, -limit, limit)
    np.testing.assert_allclose(prev_x * x_t + prev_x0 * x0, wanted, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_trajectory_is_what_ddim_sample_takes(spacing: Spacing) -> None:
    x, out = images(4)
    steps = trajectory(SCHEDULE, 8, spacing, prediction="epsilon")
    assert [t for t, _ in steps] == list(SCHEDULE.timesteps(8, spacing))
    wanted = ddim_sample(
        lambda x_t, t: 0.3 * x_t + out, x, [t for t, _ in steps], SCHEDULE, prediction="epsilon"
    )
    for _, (from_x, from_out, prev_x, prev_x0, limit) in steps:
        x0 = np.clip(from_x * x + from_out * (0.3 * x + out), -limit, limit)
        x = (prev_x * x + prev_x0 * x0).astype(np.float32)
    np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=1e-4)


def test_a_sample_that_begins_at_a_picture_takes_the_last_steps_of_twice_as_many() -> None:
    assert SCHEDULE.entry_timesteps(1, "trailing") == (249,)
    assert SCHEDULE.entry_timesteps(2, "trailing") == (499, 249)
    assert SCHEDULE.entry_timesteps(4, "trailing") == SCHEDULE.timesteps(8, "trailing")[-4:]
    steps = trajectory(SCHEDULE, 2, "trailing", prediction="v", entered=True)
    assert [t for t, _ in steps] == [499, 249]
    a = SCHEDULE.alpha_bar(499) ** 0.5
    assert steps[0][1][:2] == pytest.approx((a, -((1 - a * a) ** 0.5)))


def test_coefficients_of_an_unknown_prediction() -> None:
    with pytest.raises(ConfigError, match="unknown prediction type 'image'"):
        step_coefficients(0.5, 0.6, prediction="image")  # type: ignore[arg-type]
