"""Sample sheets: what the averaged network paints for faces and voices it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.diffusion import NoiseSchedule, ddim_sample
from engine.nets.lite import LiteNet
from engine.types import F32, U8
from training.data import Clips
from training.mouths import draw

SCHEDULE = NoiseSchedule.linear()


@torch.no_grad()
def paint(
    net: LiteNet, crops: Tensor, references: Tensor, codes: Tensor, steps: int, seed: int = 0
) -> Tensor:
    """Repaint hidden halves with given articulation codes; f32[B, 3, S, S] in ±1."""
    half = crops.shape[2] // 2
    noise = np.random.default_rng(seed).standard_normal((1, 3, half, 2 * half)).astype(np.float32)
    context = net.encoder(crops[:, :, :half], references, codes)

    def denoise(x: Tensor, t: int) -> Tensor:
        level = torch.full((len(x),), float(t))
        sigma = torch.full((len(x),), float(np.sqrt(1 - SCHEDULE.alphas_cumprod[t])))
        return net.denoiser(x, level, sigma, references, *context)

    x_t = torch.from_numpy(noise).repeat(len(crops), 1, 1, 1)
    hidden = ddim_sample(denoise, x_t, SCHEDULE.timesteps(steps, spacing="trailing"), SCHEDULE,
                         prediction="v")  # fmt: skip
    return torch.cat([crops[:, :, :half], hidden], dim=2)


def to_image(planes: Tensor | F32) -> U8:
    """f32[3, S, S] in ±1 -> uint8[S, S, 3]."""
    values = np.asarray(planes, np.float32).transpose(1, 2, 0)
    return np.clip(np.rint((values + 1) * 127.5), 0, 255).astype(np.uint8)


def sample_sheet(net: LiteNet, clips: Clips, path: Path, columns: int = 10, steps: int = 2) -> None:
    """Write a PNG of rows: input, references, the mouth as measured, closed, wide open.

    Each column is a frame of another clip.
    """
    import cv2

    net.eval()
    batch = draw(clips, columns, net.config.references, np.random.default_rng(0), augmented=False)
    crops, references = torch.from_numpy(batch.crops), torch.from_numpy(batch.references)
    codes = torch.from_numpy(batch.codes)
    closed, wide = torch.zeros_like(codes), torch.zeros_like(codes)
    # Opening, its sides, jaw and lower lip move together when a mouth opens.
    closed[:, [0, 1, 3, 5]], wide[:, [0, 1, 3, 5]] = -0.9, 2.0
    rows = [crops, *references.chunk(net.config.references, dim=1)]
    rows += [paint(net, crops, references, wanted, steps) for wanted in (codes, closed, wide)]
    sheet = np.vstack([np.hstack([to_image(p) for p in row]) for row in rows])
    cv2.imwrite(str(path), sheet[..., ::-1])
