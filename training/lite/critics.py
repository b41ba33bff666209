"""The painter's two opponents and what they cost themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipwire.training.losses import code_loss
from lipwire.training.nets.mouth import MouthCritic, ShapeCritic
from lipwire.training.objective import LossOutput


def mouth_gan_loss(critic: MouthCritic, fake: Tensor, real: Tensor, codes: Tensor) -> Tensor:
    """The patch critic's hinge (Lim & Ye, 2017): real above 1, painted below -1.

    A quarter of what counts as painted are real mouths beside the code of another.
    """
    wrong = codes.roll(1, dims=0)
    loss: Tensor = (
        F.relu(1 - critic(real, codes)).mean()
        + 0.75 * F.relu(1 + critic(fake, codes)).mean()
        + 0.25 * F.relu(1 + critic(real, wrong)).mean()
    )
    return loss


def gradient_penalty(critic: MouthCritic, real: Tensor, codes: Tensor) -> Tensor:
    """R1 (Mescheder et al., 2018): the squared gradient, at real pictures, of the mean verdict."""
    real = real.detach().requires_grad_(True)
    verdicts = critic(real, codes).mean(dim=(1, 2, 3))  # a sum would weigh 500 patches 250,000-fold
    (gradient,) = torch.autograd.grad(verdicts.sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


class MouthCritics(nn.Module):
    """Both critics and their own loss; pictures come with their codes as constant planes."""

    def __init__(self, codes: int, size: int, r1: float) -> None:
        super().__init__()
        self.shape, self.patches = ShapeCritic(codes, size), MouthCritic(codes)
        self.r1 = r1

    def forward(self, fake: Tensor, real: Tensor) -> LossOutput:
        """Price estimates and real mouths, f32[B, 3 + codes, S/2, S], see `with_code`."""
        hidden, codes = real[:, :3], real[:, 3:, 0, 0]
        # A little noise: it must not learn what only this camera's pixels say.
        found, _ = self.shape(hidden + 0.03 * torch.randn_like(hidden))
        shape = code_loss(found, codes)
        gan = mouth_gan_loss(self.patches, fake[:, :3].clamp(-1, 1), hidden, codes)
        penalty = gradient_penalty(self.patches, hidden, codes) if self.r1 else gan.new_zeros(())
        return LossOutput(shape + gan + self.r1 * penalty, {"read": shape, "critic": gan})


def with_code(hidden: Tensor, codes: Tensor) -> Tensor:
    """f32[B, 3, h, w] and f32[B, codes] -> f32[B, 3 + codes, h, w]."""
    planes = codes[:, :, None, None].expand(-1, -1, *hidden.shape[2:])
    return torch.cat([hidden, planes], dim=1)
