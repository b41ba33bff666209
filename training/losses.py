"""The paper's losses as pure functions. Weights follow the released checkpoint (issue 41 there)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def _weighted_mean(errors: Tensor, weights: Tensor | None) -> Tensor:
    return errors.mean() if weights is None else (errors * weights).mean()


def simple_loss(eps: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """L_simple = E |eps_theta - eps|^2 (paper eq. 3), on the hidden region only.

    Args:
        eps: f32[B, 3, S/2, S], predicted noise.
        target: f32[B, 3, S/2, S], the noise that was added.
        weights: f32[B, 1, S/2, S] of mean 1, or None.
    """
    return _weighted_mean((eps - target) ** 2, weights)


def l2_loss(x0: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """L_2 = E |x0_theta - x0|^2 on the one-step estimate (paper eq. 5); shapes as `simple_loss`."""
    return _weighted_mean((x0 - target) ** 2, weights)


def code_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Huber loss of the articulation heard from the voice, f32[B, 7]: tracking has outliers."""
    return F.smooth_l1_loss(predicted, target, beta=0.5)


def split_v(v: Tensor, x_t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """(eps, x0) that a velocity implies (Salimans & Ho, 2022, appendix D).

    With these, L_simple = alpha_bar |dv|^2 and L_2 = (1 - alpha_bar) |dv|^2: at the paper's own
    weight of 1 they add up to a plain loss on v, finite at every noise level.
    """
    ab = alpha_bar.view(-1, 1, 1, 1)
    signal, noise = ab.sqrt(), (1 - ab).sqrt()
    return signal * v + noise * x_t, signal * x_t - noise * v


def cosine_of_codes(predicted: Tensor, target: Tensor) -> Tensor:
    """Correlation of each code over the batch, f32[7]: how well the voice is understood."""
    p = predicted - predicted.mean(0)
    t = target - target.mean(0)
    return (p * t).sum(0) / (p.norm(dim=0) * t.norm(dim=0)).clamp_min(torch.finfo(p.dtype).eps)
