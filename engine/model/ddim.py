"""Noise schedule and DDIM sampling, the same for numpy arrays and torch tensors.

Three ways to say what a network predicts, with a = sqrt(alpha_bar), s = sqrt(1 - alpha_bar)
and x_t = a * x0 + s * eps (Ho et al., 2020, eq. 4; Diff2Lip eq. 2):

    "epsilon"   eps
    "v"         a * eps - s * x0   (Salimans & Ho, 2022, sec. 4)
    "x0"        x0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lipwire.engine.errors import ConfigError

Prediction = Literal["epsilon", "v", "x0"]
Spacing = Literal["leading", "trailing"]


class ArrayLike(Protocol):
    """What the formulas below need of an array: numpy's and torch's common ground."""

    def __add__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __rmul__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...
    def clip(self, min: Any, max: Any) -> Any: ...


Array = TypeVar("Array", bound=ArrayLike)
# One level for all samples, or an array [B,1,1,1] with a level for each (training).
AlphaBar = float | ArrayLike


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """How much of the clean image is left after each step.

    Attributes:
        alphas_cumprod: f64[T], alpha_bar of steps 0..T-1, falling, inside (0, 1).
    """

    alphas_cumprod: NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        levels = np.array(self.alphas_cumprod, dtype=np.float64)
        if levels.ndim != 1 or levels.size == 0:
            raise ConfigError(f"alphas_cumprod must be [T] with T >= 1, got {levels.shape}")
        if not (np.all(levels > 0) and np.all(levels < 1) and np.all(np.diff(levels) < 0)):
            raise ConfigError("alphas_cumprod must fall strictly inside (0, 1)")
        levels.setflags(write=False)
        object.__setattr__(self, "alphas_cumprod", levels)

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Self:
        """Betas in equal increments (Ho et al., 2020, sec. 4); the defaults are the paper's."""
        if steps < 1:
            raise ConfigError(f"a schedule needs at least 1 step, got {steps}")
        betas = np.linspace(beta_start, beta_end, steps, dtype=np.float64)
        return cls(np.cumprod(1.0 - betas))

    def __len__(self) -> int:
        return int(self.alphas_cumprod.size)

    def alpha_bar(self, t: int) -> float:
        """The level at step ``t``, as a float so that no array is promoted to float64."""
        if not 0 <= t < len(self):
            raise ConfigError(f"step {t} is outside the schedule's 0..{len(self) - 1}")
        return float(self.alphas_cumprod[t])

    def timesteps(self, n: int, spacing: Spacing = "leading") -> tuple[int, ...]:
        """Choose ``n`` steps to sample at, in the order they are taken (falling).

        Of T = 1000 steps, n = 4 gives

            "leading"    750, 500, 250, 0     the paper's (its ddim25 is 960, 920, ..., 0)
            "trailing"   999, 749, 499, 249   starts at pure noise, which few steps need;
                                              a choice of n is part of every multiple of n

        (Lin et al., 2024, table 2, names them so.)

        Raises:
            ConfigError: ``n`` is not in 1..T, or the spacing is unknown.
        """
        total = len(self)
        if not 1 <= n <= total:
            raise ConfigError(f"the number of sampling steps must be 1..{total}, got {n}")
        if spacing == "leading":
            return tuple(i * (total // n) for i in reversed(range(n)))
        if spacing == "trailing":
            return tuple(total - 1 - i * total // n for i in range(n))
        raise ConfigError(f"unknown timestep spacing {spacing!r}: use 'leading' or 'trailing'")

    def entry_timesteps(self, n: int, spacing: Spacing = "leading") -> tuple[int, ...]:
        """The ``n`` steps of a sample that begins at a picture near the wanted one, not at noise.

        They are the last of a schedule of 2 n, or of 4: of T = 1000, trailing, n = 1 gives 249 and
        n = 2 gives 499, 249 (SDEdit, Meng et al., 2022: the picture with the noise of the first).
        """
        return self.timesteps(max(4, 2 * n), spacing)[-n:]


def add_noise(x0: Array, eps: Array, alpha_bar: AlphaBar) -> Array:
    """Forward process: x_t from a clean image and noise (Diff2Lip eq. 2)."""
    a, s = _scales(alpha_bar)
    x_t: Array = a * x0 + s * eps
    return x_t


def predict_x0(x_t: Array, out: Array, alpha_bar: AlphaBar, prediction: Prediction) -> Array:
    """Clean-image estimate from a network's output."""
    a, s = _scales(alpha_bar)
    if prediction == "epsilon":
        from_eps: Array = (x_t - s * out) / a
        return from_eps
    if prediction == "v":
        from_v: Array = a * x_t - s * out
        return from_v
    if prediction == "x0":
        return out
    raise _unknown(prediction)


def ddim_step(
    x_t: Array,
    out: Array,
    alpha_bar: float,
    alpha_bar_prev: float,
    *,
    prediction: Prediction,
    clip: bool = True,
) -> Array:
    """One deterministic DDIM step (Song et al., 2021, eq. 12, eta = 0; Diff2Lip eq. 4).

    Args:
        x_t: f32[B,C,H,W], the sample at the current step.
        out: The network's output for it, same shape.
        alpha_bar: Level of the current step.
        alpha_bar_prev: Level of the next, less noisy step taken; 1.0 after the last.
        prediction: What ``out`` is.
        clip: Keep the clean-image estimate in ±1.

    Returns:
        The sample at the next step taken, same shape.
    """
    x0 = predict_x0(x_t, out, alpha_bar, prediction)
    if clip:
        x0 = x0.clip(-1.0, 1.0)
    if alpha_bar_prev == 1.0:  # no noise left to add back
        return x0
    a, s = _scales(alpha_bar)
    # Not the network's own noise estimate: with x0 clipped the two would disagree about
    # x_t, and the sample would drift off the noise level the next step expects.
    eps: Array = (x_t - a * x0) / s
    return add_noise(x0, eps, alpha_bar_prev)


def ddim_sample(
    denoise: Callable[[Array, int], Array],
    x: Array,
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
    *,
    prediction: Prediction,
    clip: bool = True,
) -> Array:
    """Denoise ``x`` through ``timesteps`` (Song et al., 2021, eq. 12), eta = 0.

    A network that repaints part of an image puts the known part back inside ``denoise``,
    where its other inputs are assembled too; what the sampler leaves there never matters.

    Args:
        denoise: ``(x_t, t) -> out``, the network with its conditions bound.
        x: f32[B,C,H,W], the sample at ``timesteps[0]``; pure noise as a rule.
        timesteps: Steps to take, strictly falling, as from ``schedule.timesteps``.
        schedule: The schedule the network was trained on.
        prediction: What ``denoise`` returns.
        clip: Keep the clean-image estimate in ±1 at every step.

    Returns:
        The clean sample, same shape.

    Raises:
        ConfigError: ``timesteps`` is empty, does not fall or leaves the schedule, or the
            prediction is unknown.
    """
    if not timesteps:
        raise ConfigError("sampling needs at least one timestep")
    if any(t <= t_next for t, t_next in pairwise(timesteps)):
        raise ConfigError(f"timesteps must fall strictly, got {tuple(timesteps)}")
    # 1.0 after the last: the final step lands on the clean image itself.
    levels = [*(schedule.alpha_bar(t) for t in timesteps), 1.0]
    for t, (alpha_bar, alpha_bar_prev) in zip(timesteps, pairwise(levels), strict=True):
        out = denoise(x, t)
        x = ddim_step(x, out, alpha_bar, alpha_bar_prev, prediction=prediction, clip=clip)
    return x


# Columns of a step's coefficients, see `step_coefficients`.
COEFFICIENTS = ("x0_from_x", "x0_from_out", "prev_from_x", "prev_from_x0", "limit")


def step_coefficients(
    alpha_bar: float, alpha_bar_prev: float, *, prediction: Prediction, clip: bool = True
) -> tuple[float, ...]:
    """One DDIM step as five numbers, so that a compiled graph can take it without knowing more.

        x0       = clamp(x0_from_x * x_t + x0_from_out * out, -limit, limit)
        x_{t-1}  = prev_from_x * x_t + prev_from_x0 * x0

    This is `ddim_step` with the noise eps = (x_t - a x0) / s put into x_{t-1} = a' x0 + s' eps.

    Returns:
        In the order of ``COEFFICIENTS``.
    """
    a, s = _scales(alpha_bar)
    a_prev, s_prev = _scales(alpha_bar_prev)
    estimate = {"epsilon": (1 / a, -s / a), "v": (a, -s), "x0": (0.0, 1.0)}
    if prediction not in estimate:
        raise _unknown(prediction)
    kept = s_prev / s
    return (*estimate[prediction], kept, a_prev - kept * a, 1.0 if clip else float("inf"))


def trajectory(
    schedule: NoiseSchedule,
    steps: int,
    spacing: Spacing,
    *,
    prediction: Prediction,
    clip: bool = True,
    entered: bool = False,
) -> list[tuple[int, tuple[float, ...]]]:
    """The steps that ``ddim_sample`` takes, each as its timestep and its coefficients.

    Args:
        schedule: of the noise.
        steps: how many.
        spacing: of the timesteps.
        prediction: what the network returns.
        clip: keep the clean-image estimate in ±1.
        entered: begin at a picture, see `NoiseSchedule.entry_timesteps`.
    """
    choose = schedule.entry_timesteps if entered else schedule.timesteps
    timesteps = choose(steps, spacing)
    levels = [*(schedule.alpha_bar(t) for t in timesteps), 1.0]
    return [
        (t, step_coefficients(now, after, prediction=prediction, clip=clip))
        for t, (now, after) in zip(timesteps, pairwise(levels), strict=True)
    ]


def _scales(alpha_bar: Any) -> tuple[Any, Any]:
    """Signal and noise amplitudes, sqrt(alpha_bar) and sqrt(1 - alpha_bar)."""
    return alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5


def _unknown(prediction: object) -> ConfigError:
    return ConfigError(f"unknown prediction type {prediction!r}: use 'epsilon', 'v' or 'x0'")
