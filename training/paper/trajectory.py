"""Sampling as it goes: x_t and the x0 estimate at every step (Diff2Lip fig. 3), and the result."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lipwire.engine.model.ddim import ddim_step
from lipwire.engine.types import U8
from lipwire.training.data.batch import FiveFrames
from lipwire.training.families import SCHEDULE, Family, Given, estimates
from lipwire.training.nets.syncnet import FRAMES

NOISE_SEED = 0
SHOWN = 8  # pairs of x_t and x0 a sheet shows


class Moment(NamedTuple):
    """One step of sampling, before it is taken."""

    t: int
    x_t: Tensor  # f32[N, 3, S/2, S]
    x0: Tensor  # f32[N, 3, S/2, S] in ±1, the estimate


def fixed_noise(size: int) -> Tensor:
    """The one picture of noise that every frame starts from, f32[1, 3, S/2, S]."""
    shape = (1, 3, size // 2, size)
    return torch.from_numpy(np.random.default_rng(NOISE_SEED).standard_normal(shape, np.float32))


@torch.no_grad()
def sampled(family: Family, net: Any, condition: Any, noise: Tensor, steps: int) -> list[Moment]:
    """DDIM from `noise`, eta = 0, x0 clipped to ±1 (paper eq. 4).

    Returns:
        Every step; the last one's x0 is the result.
    """
    x_t, moments = noise, []
    levels = SCHEDULE.timesteps(steps, family.spacing)
    for t, t_next in pairwise([*levels, None]):
        assert t is not None
        at = torch.full((len(x_t),), t, device=x_t.device)
        out = family.denoise(net, x_t, at, condition)
        _, x0 = estimates(out, x_t, at, family.prediction)
        moments.append(Moment(t, x_t, x0.clamp(-1, 1)))
        after = 1.0 if t_next is None else SCHEDULE.alpha_bar(t_next)
        x_t = ddim_step(x_t, out, SCHEDULE.alpha_bar(t), after, prediction=family.prediction)
    return moments


@torch.no_grad()
def trajectory(family: Family, net: Any, given: Given, steps: int) -> list[Moment]:
    """`sampled` from the noise in `given.fill` with all else that is given, f32[N, ...]."""
    return sampled(family, net, family.condition(net, given), given.fill, steps)


def repaint(family: Family, net: Any, given: Given, steps: int) -> Tensor:
    """Whole frames with their hidden halves repainted, f32[N, 3, S, S] in ±1."""
    return torch.cat([given.visible, trajectory(family, net, given, steps)[-1].x0], dim=2)


def to_image(planes: Tensor) -> U8:
    """f32[3, S, S] in ±1 -> uint8[S, S, 3]."""
    values = np.asarray(planes.float().cpu()).transpose(1, 2, 0)
    return np.clip(np.rint((values + 1) * 127.5), 0, 255).astype(np.uint8)


def figure_sheet(
    family: Family, net: Any, clips: FiveFrames, path: Path, *, faces: int = 4, steps: int = 25
) -> None:
    """Write a PNG with two rows a face: x_t above, its x0 estimate below, noise to clean.

    The first column is the reference above the real frame; the last x0 is what would be shown.
    """
    import cv2

    device = next(net.parameters()).device
    rng = np.random.default_rng(NOISE_SEED)
    samples = [clips.sample(rng) for _ in range(faces)]
    half, middle = clips.size // 2, FRAMES // 2
    frames = torch.stack([s.frames[middle] for s in samples]).to(device)
    given = Given(
        frames[:, :, :half],
        torch.stack([s.references for s in samples]).to(device),
        torch.stack([s.mels[middle] for s in samples]).to(device),
        fixed_noise(clips.size).to(device).expand(faces, -1, -1, -1),
    )
    moments = trajectory(family, net, given, steps)
    # At uniform intervals, the last one included.
    chosen = [moments[i] for i in np.linspace(0, len(moments) - 1, SHOWN).round().astype(int)]

    def row(first: Tensor, halves: list[Tensor], face: int) -> U8:
        whole = [torch.cat([given.visible[face], h[face].clamp(-1, 1)], dim=1) for h in halves]
        return np.hstack([to_image(p) for p in (first, *whole)])

    rows = []
    for face in range(faces):
        rows.append(row(given.references[face], [m.x_t for m in chosen], face))
        rows.append(row(frames[face], [m.x0 for m in chosen], face))
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])
