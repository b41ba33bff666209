"""The lite painter's objective: the paper's pixel losses, a shape critic and a patch critic.

The painter is driven by the *measured* code of its target, so that it learns to obey within
minutes; what the voice says is learned apart (training/voice.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.diffusion import NoiseSchedule
from engine.nets.lite import LiteNet
from training.losses import code_loss, l2_loss, simple_loss, split_v
from training.mouths import MouthBatch
from training.nets.mouth import MouthCritic, ShapeCritic

SCHEDULE = NoiseSchedule.linear()
ALPHA_BAR = torch.tensor(SCHEDULE.alphas_cumprod, dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class LiteWeights:
    """How much each loss counts."""

    simple: float = 1.0  # paper eq. 3
    l2: float = 1.0  # paper eq. 5, issue 41 of the authors
    shape: float = 0.1
    features: float = 0.2
    gan: float = 0.006
    code_noise: float = 0.2


@dataclass(frozen=True, slots=True)
class Painted:
    """What the painter made of a batch."""

    x0: Tensor
    """f32[B, 3, S/2, S], its estimate of the hidden half"""
    codes: Tensor
    """f32[B, codes], the shape that it was asked for"""
    losses: dict[str, Tensor]


def _denoise(net: LiteNet, x_t: Tensor, t: Tensor, references: Tensor,
             context: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(eps, x0) as estimated at levels `t`, int64[B]."""
    alpha_bar = ALPHA_BAR[t]
    v = net.denoiser(x_t, t.float(), (1 - alpha_bar).sqrt(), references, *context)
    return split_v(v, x_t, alpha_bar)


def paint(net: LiteNet, batch: MouthBatch, weights: LiteWeights, random: torch.Generator,
          levels: Tensor) -> Painted:  # fmt: skip
    """Pixel losses of one batch, a third each of three kinds of x_t:

    pure noise, where every sampling starts; the network's own first estimate with noise put back,
    which is what the second of two steps is given; and the true picture with noise at any of
    `levels`, as the paper trains. Without the second kind the network learns to trust the mouth
    that shines through x_t over the code, and more steps only damp the movement.
    """
    crops, references = torch.from_numpy(batch.crops), torch.from_numpy(batch.references)
    size, half = len(crops), crops.shape[2] // 2
    hidden, visible = crops[:, :, half:], crops[:, :, :half]
    codes = torch.from_numpy(batch.codes)
    codes = codes + weights.code_noise * torch.randn(codes.shape, generator=random)
    context = net.encoder(visible, references, codes)
    noise = torch.randn(hidden.shape, generator=random)

    third = size // 3
    t = levels[torch.randint(len(levels), (size,), generator=random)]
    t[:third] = len(SCHEDULE) - 1
    t[third : 2 * third] = (len(SCHEDULE) - 1) // 2
    start = hidden
    if third:
        with torch.no_grad():
            part = slice(third, 2 * third)
            first = torch.full((third,), len(SCHEDULE) - 1)
            _, guess = _denoise(net, noise[part], first, references[part],
                                tuple(c[part] for c in context))  # fmt: skip
            start = hidden.clone()
            start[part] = guess.clamp(-1, 1)
    ab = ALPHA_BAR[t].view(-1, 1, 1, 1)
    x_t = ab.sqrt() * start + (1 - ab).sqrt() * noise
    _, x0 = _denoise(net, x_t, t, references, context)
    # In terms of the true picture, whatever x_t was made of: eps implied by it.
    eps, target = (x_t - ab.sqrt() * x0) / (1 - ab).sqrt(), (x_t - ab.sqrt() * hidden) / (
        1 - ab).sqrt()  # fmt: skip
    where = torch.from_numpy(batch.weights)
    return Painted(x0, codes, {
        "simple": simple_loss(eps, target, where), "l2": l2_loss(x0, hidden, where),
    })  # fmt: skip


def shape_losses(critic: ShapeCritic, painted: Painted, hidden: Tensor) -> dict[str, Tensor]:
    """How far the painted shape is from the code, and its features from the true mouth's.

    Gradients reach the painter alone: hand in a frozen critic.
    """
    found, maps = critic(painted.x0)
    with torch.no_grad():
        _, wanted = critic(hidden)
    features = torch.stack([F.l1_loss(a, b) for a, b in zip(maps[:3], wanted[:3], strict=True)])
    return {"shape": code_loss(found, painted.codes), "features": features.mean()}


def gan_generator_loss(critic: MouthCritic, x0: Tensor, codes: Tensor) -> Tensor:
    """The painter's side of the hinge (Lim & Ye, 2017)."""
    return -critic(x0, codes).mean()


def gan_critic_loss(critic: MouthCritic, real: Tensor, x0: Tensor, codes: Tensor) -> Tensor:
    """The critic's side: real above 1, painted below -1, real with another's code no better."""
    wrong = codes.roll(1, dims=0)
    loss: Tensor = (
        F.relu(1 - critic(real, codes)).mean()
        + 0.75 * F.relu(1 + critic(x0.detach(), codes)).mean()
        + 0.25 * F.relu(1 + critic(real, wrong)).mean()
    )
    return loss


def gradient_penalty(critic: MouthCritic, real: Tensor, codes: Tensor) -> Tensor:
    """R1 (Mescheder et al., 2018): the squared gradient at real pictures."""
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(real, codes).sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def np_seed(seed: int, step: int) -> int:
    """One seed a step, for torch's generators."""
    return int(np.random.default_rng((seed, step)).integers(2**62))
