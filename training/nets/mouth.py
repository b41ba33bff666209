"""Two critics of painted mouths: does the shape obey its code, and does the picture look real?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, stride=2, padding=1),
        nn.GroupNorm(8, outputs),
        nn.LeakyReLU(0.2),
    )


class ShapeCritic(nn.Module):
    """Reads the articulation code off a lower half; trained on real ones, then asked about painted.

    It looks at half the resolution: at the full one the painter would learn to write the code into
    a texture that this network reads and nobody sees.
    """

    def __init__(self, codes: int, size: int = 128) -> None:
        super().__init__()
        self.features = nn.ModuleList((_down(3, 32), _down(32, 64), _down(64, 96), _down(96, 128)))
        last = (size // 64) * (size // 32)  # pixels left of size/4 x size/2
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(128 * last, 128),
            nn.SiLU(),
            nn.Linear(128, codes),
        )

    def forward(self, hidden: Tensor) -> tuple[Tensor, list[Tensor]]:
        """f32[B, 3, S/2, S] in ±1 -> code f32[B, codes], and the feature maps on the way."""
        h = F.avg_pool2d(hidden, 2)
        maps = []
        for layer in self.features:
            h = layer(h)
            maps.append(h)
        code: Tensor = self.head(h).float()
        return code, maps


class MouthCritic(nn.Module):
    """A PatchGAN (Isola et al., 2017) on the mouth: one verdict a patch of about 22 pixels.

    It sees the middle of the upper five eighths of the lower half. With cheeks, neck and collar in
    sight, which are moved from a reference and as sharp as it, hardly a patch told it anything.
    The code goes in beside the picture (projection, Miyato & Koyama, 2018): a sharp mouth of the
    wrong shape is no real one.
    """

    def __init__(self, codes: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.LeakyReLU(0.2),
        )
        self.verdict = nn.Conv2d(4 * width, 1, 3, padding=1)
        self.code = nn.Linear(codes, 4 * width)

    def forward(self, hidden: Tensor, code: Tensor) -> Tensor:
        """f32[B, 3, S/2, S], f32[B, codes] -> f32[B, 1, S/13, S/8], high where it looks real."""
        height, width = hidden.shape[2:]
        h = self.layers(hidden[:, :, : height * 5 // 8, width // 4 : -(width // 4)])
        wanted = torch.einsum("bchw,bc->bhw", h, self.code(code)) / h.shape[1]
        verdict: Tensor = self.verdict(h).float() + wanted[:, None]
        return verdict
