"""A network, clips and an objective small enough to step through in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipwire.engine.types import F32, U8
from lipwire.training.data.batch import FiveFrames, Slot
from lipwire.training.data.dataset import ClipData
from lipwire.training.objective import LossOutput, Objective

TINY_PAPER = {
    "image_size": 32,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": (),
    "channel_mult": (1, 1),
    "num_head_channels": 32,
}
TINY_LITE = {
    "size": 32,
    "widths": (8, 8, 16, 16),
    "embed": 16,
    "voice_width": 16,
    "references": 1,
    "mel_columns": 16,
}


def clip(seed: int, frames: int = 60, size: int = 128) -> ClipData:
    """Five minutes in the life of a black bar that opens with the sound; no face anywhere."""
    rng = np.random.default_rng(seed)
    opening = np.convolve(rng.uniform(0, 1, frames + 4), np.ones(5) / 5, "valid")
    opening = (opening - opening.min()) / np.ptp(opening)
    crops: U8 = np.full((frames, size, size, 3), rng.integers(90, 160), np.uint8)
    for index, value in enumerate(opening):
        tall = round(value * size / 8)
        middle = size * 3 // 4
        crops[index, middle - tall : middle + tall, size // 3 : -size // 3] = (40, 20, 20)
    columns = np.interp(np.arange(int(frames * 3.2) + 16) / 3.2, np.arange(frames), opening)
    mel: F32 = (8 * columns[None] - 4 + 0.1 * rng.standard_normal((80, 1))).astype(np.float32)
    codes: F32 = np.repeat(opening[:, None], 7, 1).astype(np.float32)
    return ClipData(
        f"toy{seed}",
        f"toy{seed}",
        crops,
        np.zeros((frames, 468, 2), np.float32),
        np.clip(mel, -4, 4),
        codes,
    )


def five_frames(size: int = 32) -> FiveFrames:
    """Samples of two such clips."""
    return FiveFrames([clip(0), clip(1)], size)


class Line(Objective):
    """Least squares: learns y = 3 x, from samples that depend on (step, number) alone."""

    cpu_only = True

    def __init__(self, batch: int = 8, rival: bool = False) -> None:
        torch.manual_seed(0)
        critic = Rival() if rival else None
        super().__init__(nn.Linear(4, 1), LineSource(batch), critic)

    def forward(self, batch: tuple[Tensor, Tensor]) -> LossOutput:
        x, y = batch
        found = self.net(x)
        loss = ((found - y) ** 2).mean()
        return LossOutput(loss, {"total": loss, "simple": loss}, found, y)

    def state(self) -> dict[str, Any]:
        return {"net_config": {}}

    def report(self, ema: nn.Module, folder: Path, step: int) -> dict[str, float]:
        return {"figure": 1.0}


class Rival(nn.Module):
    """A critic of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    def forward(self, fake: Tensor, real: Tensor) -> LossOutput:
        loss = (self.net(fake) - self.net(real) + 1).square().mean()
        return LossOutput(loss, {"critic": loss})


class LineSource:
    """See `Line`."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def draw(self, step: int, slot: Slot) -> tuple[Tensor, Tensor]:
        rngs = [np.random.default_rng((step, n)) for n in slot.numbers(self.batch)]
        x = torch.from_numpy(np.stack([r.standard_normal(4, np.float32) for r in rngs]))
        return x, 3 * x.sum(1, keepdim=True)
