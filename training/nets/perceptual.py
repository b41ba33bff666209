"""Pictures as people compare them: features in which blur is far from sharp (Diff2Lip eq. 7).

`VggFeatures` is the paper's choice, LPIPS with VGG-16 (Zhang et al., 2018); its weights are
downloads, given as files. `GaborFeatures` needs none and is not a stand-in under the same name:
figures made with it say `gabor`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import pi
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipwire.engine.errors import CheckpointError
from lipwire.training.checkpoint import fit_weights, load_checkpoint, weights_of

# VGG-16 (Simonyan & Zisserman, 2015, table 1, D) under torchvision's names: `features.N`.
VGG_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# ImageNet's mean and spread, for values in ±1 instead of 0..1.
MEAN = (-0.030, -0.088, -0.188)
SPREAD = (0.458, 0.448, 0.450)


class Perceptual(nn.Module):
    """A frozen measure; `forward` is a distance for each picture, 0 for the same picture."""

    name: str

    def __call__(self, found: Tensor, wanted: Tensor) -> Tensor:
        """In float32 always: eight bits of a small difference, as autocast takes, are noise."""
        with torch.autocast(found.device.type, enabled=False):
            distance: Tensor = super().__call__(found.float(), wanted.float())
            return distance

    def forward(self, found: Tensor, wanted: Tensor) -> Tensor:
        """f32[B, 3, S, S] in ±1, twice -> f32[B]."""
        raise NotImplementedError


class VggFeatures(Perceptual):
    """Distances of unit-length VGG features after each of the five blocks.

    With the published linear weights this is LPIPS; without, the layers' channels count alike
    (eq. 7 as printed, on normalised features).
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = "vgg"
        self.features = nn.Sequential()
        channels = 3
        for block, widths in enumerate(VGG_WIDTHS):
            if block:
                self.features.append(nn.MaxPool2d(2))
            for width in widths:
                self.features.append(nn.Conv2d(channels, width, 3, padding=1))
                self.features.append(nn.ReLU())
                channels = width
        self.linear = nn.ParameterList(torch.ones(widths[-1]) for widths in VGG_WIDTHS)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(SPREAD).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.spread: Tensor
        self.requires_grad_(False)

    def _blocks(self, x: Tensor) -> list[Tensor]:
        """The five blocks' last activations, each pixel's vector at unit length."""
        h, found = (x - self.mean) / self.spread, []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(h)
            h = layer(h)
        return [f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (*found, h)]

    def forward(self, found: Tensor, wanted: Tensor) -> Tensor:
        """LPIPS (Zhang et al., 2018, eq. 1)."""
        distance = found.new_zeros(len(found))
        for a, b, weight in zip(
            self._blocks(found), self._blocks(wanted), self.linear, strict=True
        ):
            distance = distance + torch.einsum("bchw,c->bhw", (a - b) ** 2, weight).mean((1, 2))
        return distance

    def load(self, weights: Mapping[str, Tensor], origin: object) -> None:
        """Take torchvision's `features.N.*` and, if there, LPIPS's `linN.model.1.weight`.

        Raises:
            CheckpointError: a tensor of VGG-16 is missing or has another shape, or the file holds
                linear weights for some of the blocks only.
        """
        convolutions = {
            k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features.")
        }
        if not convolutions:
            raise CheckpointError(f"{origin}: no features.N.weight of VGG-16 in it")
        fit_weights(self.features, convolutions, origin)
        names = [f"lin{i}.model.1.weight" for i in range(len(VGG_WIDTHS))]
        given = [name for name in names if name in weights]
        if given and given != names:
            raise CheckpointError(f"{origin}: {(set(names) - set(given)).pop()} is missing")
        for name, parameter in zip(given, self.linear, strict=False):
            if weights[name].numel() != parameter.numel():
                raise CheckpointError(
                    f"{origin}: {name} is {list(weights[name].shape)} in the file, "
                    f"[1, {parameter.numel()}, 1, 1] here"
                )
            parameter.copy_(weights[name].flatten())
        self.name = "lpips-vgg" if given else "vgg"


ORIENTATIONS = 6
SCALES = 4
WAVELENGTH_PX = 4.0  # of the finest scale; shorter is sensor noise
# Contrast below which a response counts as noise and is not blown up by the normalisation.
NOISE_FLOOR = 0.02


class GaborFeatures(Perceptual):
    """Normalised responses of a fixed Gabor bank: four octaves, six orientations, two phases.

    What early vision computes, and what VGG's first blocks learn: local edges with their phase
    (where a lip's line is), their energy (how much detail there is, wherever exactly: a blurred
    mouth has too little of it, which no pixel loss minds), and colour by region. Responses are
    divided by the local contrast (Heeger, 1992), so dim faces count like bright ones. It knows
    nothing of what a mouth is; VGG does, a little.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = "gabor"
        radius = int(WAVELENGTH_PX)
        y, x = torch.meshgrid(*(2 * [torch.arange(-radius, radius + 1.0)]), indexing="ij")
        envelope = torch.exp(-(x**2 + y**2) / (2 * (WAVELENGTH_PX / 2) ** 2))
        kernels = []
        for index in range(ORIENTATIONS):
            angle = torch.tensor(pi * index / ORIENTATIONS)
            phase = 2 * pi / WAVELENGTH_PX * (x * angle.cos() + y * angle.sin())
            for wave in (phase.cos(), phase.sin()):
                kernel = wave * envelope
                kernel = kernel - envelope * (kernel.sum() / envelope.sum())  # blind to brightness
                kernels.append(kernel / kernel.abs().sum())
        self.register_buffer("kernels", torch.stack(kernels)[:, None], persistent=False)
        # Luma and two opponent colours (BT.601's weights).
        colours = torch.tensor(
            [[0.299, 0.587, 0.114], [0.5, -0.419, -0.081], [-0.169, -0.331, 0.5]]
        )
        self.register_buffer("colours", colours.view(3, 3, 1, 1), persistent=False)
        self.kernels: Tensor
        self.colours: Tensor

    def features(self, x: Tensor) -> list[Tensor]:
        """f32[B, 3, S, S] in ±1 -> for each octave f32[B, 20, s, s]."""
        planes = F.conv2d(x, self.colours)
        found = []
        pad = self.kernels.shape[-1] // 2
        for octave in range(SCALES):
            if octave:
                planes = F.avg_pool2d(planes, 2)
            luma = F.pad(planes[:, :1], (pad, pad, pad, pad), mode="replicate")
            response = F.conv2d(luma, self.kernels)
            pairs = response.view(len(x), ORIENTATIONS, 2, *response.shape[2:])
            energy = (pairs.square().sum(2) + 1e-8).sqrt()
            contrast = F.avg_pool2d(energy.mean(1, keepdim=True), 5, 1, 2, count_include_pad=False)
            normal = contrast + NOISE_FLOOR
            found.append(torch.cat([response / normal, energy / normal, planes[:, 1:]], dim=1))
        return found

    def forward(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Mean squared difference of the features, each octave counted alike."""
        pairs = zip(self.features(found), self.features(wanted), strict=True)
        return torch.stack([(a - b).square().mean((1, 2, 3)) for a, b in pairs]).mean(0)


def load_perceptual(files: Sequence[Path] = ()) -> Perceptual:
    """LPIPS or VGG features from published weights, the Gabor bank without any.

    Raises:
        CheckpointError: a file cannot be read or does not fit.
    """
    if not files:
        return GaborFeatures()
    weights: dict[str, Tensor] = {}
    for path in files:
        weights |= weights_of(load_checkpoint(path))
    vgg = VggFeatures()
    vgg.load(weights, " and ".join(map(str, files)))
    return vgg
