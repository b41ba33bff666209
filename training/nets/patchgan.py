"""The discriminator of five frames (Diff2Lip eq. 8), a PatchGAN (Isola et al., 2017, sec. 3.2.2).

The frames are stacked on the channels: to tell five real frames from five estimates it must look
at how a mouth moves, not only at how one looks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipwire.training.nets.syncnet import FRAMES

SLOPE = 0.2


class SequencePatchGan(nn.Module):
    """Five frames in, one logit for each patch of about 70 px (34 with two `layers`) out.

    No normalisation: batch statistics would tie the samples of a batch together, and so several
    devices to one another; instance norm would hide a wrong brightness. R1 keeps it in check
    where that is asked for.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        steps: list[nn.Module] = []
        channels = 3 * FRAMES
        for index, outputs in enumerate(widths):
            stride = 2 if index < layers else 1
            steps += [nn.Conv2d(channels, outputs, 4, stride, 1), nn.LeakyReLU(SLOPE)]
            channels = outputs
        self.layers = nn.Sequential(*steps, nn.Conv2d(channels, 1, 4, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """f32[B, 5, 3, S, S] in ±1 -> f32[B, P] logits, high for real."""
        return torch.flatten(self.layers(frames.flatten(1, 2)), 1)
