"""Frechet distance between the features of two sets of pictures: FID, and what stands in for it.

FID (Heusel et al., 2017) is this distance over one certain network's features, Inception's of 2015.
Without its weights there is no FID; the same distance over the fixed Gabor bank's statistics needs
none and is called `frechet_gabor`, over an EfficientNet's features of the mouth `frechet_effnet`,
never FID: their numbers are of another size altogether. The 2,048 of Inception want thousands of
pictures; of 112 a few hundred are enough for a covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from lipwire.engine.errors import CheckpointError
from lipwire.engine.face.alignment import CROP_SIZE
from lipwire.engine.types import F32, F64, U8
from lipwire.training.data.dataset import to_planes
from lipwire.training.evaluation.measures import Interval
from lipwire.training.nets.imagenet import MouthFeatures
from lipwire.training.nets.perceptual import GaborFeatures

DRAWS = 200
# A draw takes a root of a matrix of this side; larger ones would take longer than the clips did.
MAX_DRAWN_WIDTH = 512
# Fewer: the interval is itself uncertain; more: gigabytes for lists of thousands of clips.
MAX_BLOCKS = 100


class Features(Protocol):
    """What a picture looks like, as a vector."""

    name: str
    """the figure's name: fid, frechet_gabor or frechet_effnet"""

    def __call__(self, pictures: Sequence[U8]) -> F32:
        """uint8[S, S, 3] each -> f32[N, D]."""
        ...


class GaborStatistics:
    """Mean and spread of each of the Gabor bank's planes, 160 numbers a picture."""

    name = "frechet_gabor"

    def __init__(self) -> None:
        self._bank = GaborFeatures()

    @torch.no_grad()
    def __call__(self, pictures: Sequence[U8]) -> F32:
        """uint8[S, S, 3] each -> f32[N, 160]."""
        planes = self._bank.features(torch.from_numpy(np.stack([to_planes(p) for p in pictures])))
        parts = [part for p in planes for part in (p.mean((2, 3)), p.std((2, 3)))]
        return np.asarray(torch.cat(parts, dim=1).numpy(), np.float32)


class MouthStatistics:
    """Means over the mouth of the deepest features that `MouthFeatures` compares.

    Raises:
        ConfigError: the packages that carry ImageNet's weights are not installed.
    """

    name = "frechet_effnet"

    def __init__(self) -> None:
        self._net = MouthFeatures.pretrained()

    @torch.no_grad()
    def __call__(self, pictures: Sequence[U8]) -> F32:
        """uint8[S, S, 3] each, of which the lower half is looked at -> f32[N, 112]."""
        planes = torch.from_numpy(np.stack([to_planes(p) for p in pictures]))
        hidden = F.interpolate(
            planes[:, :, planes.shape[2] // 2 :],
            (CROP_SIZE // 2, CROP_SIZE),
            mode="bilinear",
            align_corners=False,
        )
        return np.asarray(self._net.features(hidden)[-1].mean((2, 3)).numpy(), np.float32)


class Inception:
    """The network of FID, as the TorchScript file `inception-2015-12-05.pt` that NVIDIA publishes.

    Args:
        path: of that file; it takes uint8 pictures of any size and resizes them itself.

    Raises:
        CheckpointError: it cannot be read, or does not answer with one vector a picture.
    """

    name = "fid"

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(
                f"{path}: no such file; FID needs Inception's weights of 2015, published by NVIDIA "
                "as inception-2015-12-05.pt. Without it, the distance over Gabor features is taken"
            )
        try:
            self._net: Any = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            shape = self([np.zeros((128, 128, 3), np.uint8)]).shape
        except Exception as error:  # TorchScript raises what its interpreter stumbled over
            why = str(error).strip().splitlines()[-1]
            raise CheckpointError(f"{path}: not inception-2015-12-05.pt ({why})") from error
        if len(shape) != 2:
            raise CheckpointError(
                f"{path}: answers with {list(shape)}, not with a vector a picture"
            )

    @torch.no_grad()
    def __call__(self, pictures: Sequence[U8]) -> F32:
        """uint8[S, S, 3] each -> f32[N, 2048]."""
        batch = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy())
        return np.asarray(self._net(batch, return_features=True).numpy(), np.float32)


class Moments(NamedTuple):
    """Sums over some pictures' features; those of more pictures add up."""

    number: int
    total: F64
    """f64[D]"""
    squares: F64
    """f64[D, D]"""

    @classmethod
    def of(cls, features: F32) -> Moments:
        """Of f32[N, D]."""
        x = features.astype(np.float64)
        return cls(len(x), x.sum(0), x.T @ x)

    @property
    def mean(self) -> F64:
        """f64[D]."""
        return self.total / self.number

    @property
    def covariance(self) -> F64:
        """f64[D, D], unbiased."""
        centre = np.outer(self.total, self.total) / self.number
        return np.asarray((self.squares - centre) / max(self.number - 1, 1))


def added(parts: Sequence[Moments]) -> Moments:
    """The moments of all the pictures together."""
    return Moments(
        sum(p.number for p in parts),
        np.sum([p.total for p in parts], axis=0),
        np.sum([p.squares for p in parts], axis=0),
    )


def frechet(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson & Landau, 1982)."""
    # C_a C_b has the eigenvalues of A C_b A with A = C_a^(1/2), which is symmetric: no complex
    # root of a product that is not.
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = root @ b.covariance @ root
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.T) / 2), 0)).sum()
    gap = a.mean - b.mean
    distance = gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return max(float(distance), 0.0)


class Blocks:
    """Moments of any number of clips in little memory: clips share blocks, which are then drawn."""

    def __init__(self) -> None:
        self.parts: list[Moments] = []
        self._clips = 0

    def add(self, features: F32) -> None:
        """One clip's, f32[N, D]; wide ones all go into one block, for none is drawn."""
        moments = Moments.of(features)
        most = MAX_BLOCKS if features.shape[1] <= MAX_DRAWN_WIDTH else 1
        if len(self.parts) < most:
            self.parts.append(moments)
        else:
            block = self._clips % most
            self.parts[block] = added([self.parts[block], moments])
        self._clips += 1


def frechet_of_clips(
    real: Sequence[Moments], fake: Sequence[Moments], draws: int = DRAWS
) -> tuple[float, Interval]:
    """The distance over all clips and its 95 % interval by drawing clips, both sides alike.

    Args:
        real: moments of each clip, or of each block of clips.
        fake: likewise, of the same clips.
        draws: how many.

    Returns:
        Value and interval; of wide features, or of fewer than two parts, there is none.
    """
    value = frechet(added(real), added(fake))
    if len(real) < 2 or len(real[0].total) > MAX_DRAWN_WIDTH:
        return value, (float("nan"), float("nan"))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        picks = rng.integers(0, len(real), len(real))
        drawn.append(frechet(added([real[i] for i in picks]), added([fake[i] for i in picks])))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return value, (float(low), float(high))
