"""The lite model's own objective: the mouth as measured, the voice as heard, painted apart."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import ConfigError
from engine.nets.lite import LiteConfig, LiteNet
from training.batch import Slot
from training.config import LiteRecipe, TrainConfig
from training.data import Batch, Clips, mel_windows
from training.families import SCHEDULE, visited_timesteps
from training.loop import Trainer, train
from training.losses import code_loss, l2_loss, simple_loss, split_v
from training.objective import Objective, Priced
from training.samples import sample_sheet


def compute_losses(
    net: LiteNet, batch: Batch, recipe: LiteRecipe, random: torch.Generator
) -> Priced:
    """All losses of one batch; noise, levels and mixing are drawn from `random`."""
    crops, references = torch.from_numpy(batch.crops), torch.from_numpy(batch.references)
    weights = torch.from_numpy(batch.weights)
    size = len(crops)
    heard = net.voice(torch.from_numpy(batch.voice_mels))
    voice_loss = code_loss(heard, torch.from_numpy(batch.voice_codes))

    # Mostly the mouth as measured, so that the painter learns to obey; sometimes as heard, so
    # that it has seen what it will be given. Its loss does not reach the voice branch.
    codes = torch.from_numpy(batch.codes)
    codes = codes + recipe.code_noise * torch.randn(codes.shape, generator=random)
    use_heard = torch.rand(size, 1, generator=random) < recipe.voice_share
    codes = torch.where(use_heard, heard[:size].detach(), codes)

    levels = torch.from_numpy(visited_timesteps(recipe.timestep_grid))
    t = levels[torch.randint(len(levels), (size,), generator=random)]
    alpha_bar = torch.tensor(SCHEDULE.alphas_cumprod, dtype=torch.float32)[t]
    hidden = crops[:, :, crops.shape[2] // 2 :]
    noise = torch.randn(hidden.shape, generator=random)
    ab = alpha_bar.view(-1, 1, 1, 1)
    x_t = ab.sqrt() * hidden + (1 - ab).sqrt() * noise

    visible = crops[:, :, : crops.shape[2] // 2]
    context = net.encoder(visible, references, codes)
    v = net.denoiser(x_t, t.float(), (1 - alpha_bar).sqrt(), references, *context)
    eps, x0 = split_v(v, x_t, alpha_bar)
    simple = simple_loss(eps, noise, weights)
    l2 = l2_loss(x0, hidden, weights)
    total = simple + recipe.l2_weight * l2 + recipe.code_weight * voice_loss
    parts = {"total": total, "simple": simple, "l2": l2, "voice": voice_loss}
    return Priced(total, parts)


class LiteDraw(NamedTuple):
    """A batch and the seed of all else that is random about its step."""

    batch: Batch
    seed: int


class LiteSource:
    """Augmented pictures and further voices; one process draws a step whole."""

    def __init__(self, clips: Clips, batch: int, voices: int, seed: int) -> None:
        self.clips, self.batch, self.voices, self.seed = clips, batch, voices, seed

    def draw(self, step: int, slot: Slot) -> LiteDraw:
        """See `training.batch.Source`."""
        part = () if slot.count == 1 else (slot.index,)
        rng = np.random.default_rng((self.seed, step, *part))
        batch = self.clips.batch(
            self.batch // slot.count, max(1, self.voices // slot.count), rng, augment=True
        )
        return LiteDraw(batch, (self.seed * 1_000_003 + step) * slot.count + slot.index)


class LiteObjective(Objective):
    """`compute_losses` for the loop.

    Args:
        clips: to learn from.
        config: of the run.
        recipe: of the losses.
        net_config: sizes of the network.
        held_out: for sample sheets and the voice's gain; without it, `clips`.
    """

    cpu_only = True
    net: LiteNet

    def __init__(
        self,
        clips: Clips,
        config: TrainConfig,
        recipe: LiteRecipe,
        net_config: LiteConfig | None = None,
        held_out: Clips | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        net = LiteNet(net_config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(net, LiteSource(clips, config.batch, recipe.voices, config.seed))
        self.recipe, self.clips, self.held_out = recipe, clips, held_out or clips

    def forward(self, draw: LiteDraw) -> Priced:
        """See `Objective`."""
        random = torch.Generator().manual_seed(draw.seed)
        return compute_losses(self.net, draw.batch, self.recipe, random)

    def settings(self) -> dict[str, Any]:
        """See `Objective`."""
        return asdict(self.recipe)

    def state(self) -> dict[str, Any]:
        """See `Objective`."""
        return {
            "family": "lite",
            "net_config": self.net.config.to_dict(),
            "code_stats": torch.from_numpy(self.clips.code_stats),
        }

    def report(self, ema: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """See `Objective`."""
        assert isinstance(ema, LiteNet)
        sample_sheet(ema, self.held_out, folder / f"samples-{step:06d}.png")
        return {}

    def finish(self, ema: nn.Module) -> None:
        """Turn the voice up to people's spread."""
        assert isinstance(ema, LiteNet)
        ema.voice.gain.copy_(voice_gain(ema, self.held_out))


def train_lite(
    shards: Path,
    folder: Path,
    config: TrainConfig,
    recipe: LiteRecipe | None = None,
    net_config: LiteConfig | None = None,
) -> Trainer:
    """Train the lite model on `shards` in `folder`; see `training.loop.train`."""
    clips = Clips(shards, "train")
    try:
        held_out = Clips(shards, "val", clips.code_stats)
    except ConfigError:
        held_out = None
    objective = LiteObjective(clips, config, recipe or LiteRecipe(), net_config, held_out)
    return train(Trainer(folder, config, objective))


# Understanding is partial, so louder gestures are also wronger ones. With 1.6 the first lite model
# moved 0.6 of what people do; with 2.4 as much as they do, but wide mouths lost their shape.
MAX_GAIN = 2.0


@torch.no_grad()
def voice_gain(net: LiteNet, clips: Clips) -> Tensor:
    """How much more mouths move than the voice branch says, per code, f32[7] in 1..MAX_GAIN."""
    net.eval()
    heard = [
        net.voice(torch.from_numpy(mel_windows(clip))) / net.voice.gain for clip in clips.clips
    ]
    moved = np.concatenate([clips.normalised(clip.codes) for clip in clips.clips])
    ratio = torch.from_numpy(moved.std(0)) / torch.cat(heard).std(0)
    return ratio.clamp(1.0, MAX_GAIN)
