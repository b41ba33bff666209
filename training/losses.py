"""The losses as pure functions (Diff2Lip eq. 3, 5-9); their weights are in `config.LossWeights`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from lipwire.training.nets.perceptual import Perceptual
from lipwire.training.nets.syncnet import SyncExpert

GanForm = Literal["log", "hinge"]
# A probability that rounds to 0 must make neither the loss nor its gradient infinite.
_LEAST = 1e-7


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


def agreement_loss(probability: Tensor, together: bool) -> Tensor:
    """Binary cross-entropy of an expert's f32[B] when the truth is `together` or not."""
    said = probability if together else 1 - probability
    return -said.clamp_min(_LEAST).log().mean()


def sync_loss(expert: SyncExpert, x0: Tensor, mel: Tensor) -> Tensor:
    """L_sync (paper eq. 6): the frozen expert shall find five estimates and their sound in step.

    Args:
        expert: frozen; gradients pass through it and stay out of it.
        x0: f32[B, 5, 3, S/2, S], estimates of the hidden halves.
        mel: f32[B, 80, 16], from the first of the five frames on.
    """
    return agreement_loss(frozen_call(expert, x0, mel), together=True)


def perceptual_loss(measure: Perceptual, x0: Tensor, target: Tensor) -> Tensor:
    """L_lpips (paper eq. 7) on whole frames f32[N, 3, S, S], so that the seam counts too."""
    return frozen_call(measure, x0, target).float().mean()


def generator_loss(critic: nn.Module, x0: Tensor, form: GanForm) -> Tensor:
    """What L_GAN (paper eq. 8, 9) asks of the denoiser: five estimates that pass for real.

    Args:
        critic: f32[B, 5, 3, S, S] -> logits, high for real (the paper prints it the other way
            round: labels may be swapped); gradients stay out of it.
        x0: f32[B, 5, 3, S, S], whole frames.
        form: "log" is -log D(fake) in place of log(1 - D(fake)), whose gradient dies just when
            the critic is sure (Goodfellow et al., 2014, sec. 3; Isola et al. do the same);
            "hinge" is -logit (Lim & Ye, 2017).
    """
    logits = frozen_call(critic, x0).float()
    return F.softplus(-logits).mean() if form == "log" else -logits.mean()


def critic_loss(real: Tensor, fake: Tensor, form: GanForm) -> Tensor:
    """What L_GAN asks of the critic, from its logits f32[B, P] (paper eq. 8, negated)."""
    real, fake = real.float(), fake.float()
    if form == "log":  # -log D(real) - log(1 - D(fake))
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def r1_penalty(logits: Tensor, real: Tensor) -> Tensor:
    """R1 = |d logits / d real|^2 / 2 a sample (Mescheder et al., 2018, eq. 9).

    Args:
        logits: f32[B, P], the critic's answer to `real`.
        real: f32[B, 5, 3, S, S] that requires a gradient.
    """
    # The patches' mean, as in the loss: their sum would grow with the picture.
    (slope,) = torch.autograd.grad(logits.mean(1).sum(), real, create_graph=True)
    return slope.square().flatten(1).sum(1).mean() / 2


def code_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Huber loss of the articulation heard from the voice, f32[B, 7]: tracking has outliers."""
    return F.smooth_l1_loss(predicted, target, beta=0.5)


def frozen_call(module: nn.Module, *inputs: Tensor) -> Tensor:
    """`module(*inputs)` with its weights as constants: gradients reach the inputs alone."""
    weights = {name: value.detach() for name, value in module.named_parameters()}
    return functional_call(module, weights, inputs)


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
