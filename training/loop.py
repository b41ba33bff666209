"""The training loop: draw, step, average, save, report; killed anywhere, it goes on exactly."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.diffusion import NoiseSchedule
from engine.errors import ConfigError
from engine.nets.lite import LiteConfig, LiteNet
from training.config import TrainConfig
from training.data import Batch, Clips, mel_windows
from training.losses import code_loss, l2_loss, simple_loss, split_v

SCHEDULE = NoiseSchedule.linear()


@dataclass(frozen=True, slots=True)
class StepResult:
    """The losses of one step, as scalars that carry gradients."""

    total: Tensor
    parts: dict[str, float]


def visited_timesteps(grid: int) -> npt.NDArray[np.int64]:
    """Noise levels to train on, each as often as 1, 2, 4 .. `grid` sampling steps visit it.

    Sampling starts at pure noise whatever its step count, so that level matters most.
    """
    if grid == 0:
        return np.arange(len(SCHEDULE))
    counts = [2**i for i in range(grid.bit_length()) if 2**i <= grid]
    return np.concatenate([SCHEDULE.timesteps(n, spacing="trailing") for n in counts])


def compute_losses(net: LiteNet, batch: Batch, config: TrainConfig, step: int) -> StepResult:
    """All losses of one batch; noise, levels and mixing follow from (seed, step)."""
    random = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    crops, references = torch.from_numpy(batch.crops), torch.from_numpy(batch.references)
    weights = torch.from_numpy(batch.weights)
    size = len(crops)
    heard = net.voice(torch.from_numpy(batch.voice_mels))
    voice_loss = code_loss(heard, torch.from_numpy(batch.voice_codes))

    # Mostly the mouth as measured, so that the painter learns to obey; sometimes as heard, so
    # that it has seen what it will be given. Its loss does not reach the voice branch.
    codes = torch.from_numpy(batch.codes)
    codes = codes + config.code_noise * torch.randn(codes.shape, generator=random)
    use_heard = torch.rand(size, 1, generator=random) < config.voice_share
    codes = torch.where(use_heard, heard[:size].detach(), codes)

    levels = torch.from_numpy(visited_timesteps(config.timestep_grid))
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
    total = simple + config.l2_weight * l2 + config.code_weight * voice_loss
    parts = {"total": total, "simple": simple, "l2": l2, "voice": voice_loss}
    return StepResult(total, {name: float(value.detach()) for name, value in parts.items()})


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.05 + 0.95 * 0.5 * (1 + float(np.cos(np.pi * min(done, 1.0)))))


class Trainer:
    """A run in a folder: network, average, optimiser, step.

    Args:
        folder: checkpoints, logs and sample sheets go here; a checkpoint found here is resumed.
        config: of the run; the number of steps may be changed on resuming, nothing else.
        train: clips to learn from.
        net_config: sizes of the network.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, train: Clips, net_config: LiteConfig | None = None
    ) -> None:
        self.folder, self.config, self.train_clips = folder, config, train
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.net = LiteNet(net_config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = LiteNet(net_config).requires_grad_(False)
        self.ema.load_state_dict(self.net.state_dict())
        self.optimiser = torch.optim.AdamW(self.net.parameters(), weight_decay=1e-4)
        self.step = 0
        if self.checkpoint_path.exists():
            self._load(torch.load(self.checkpoint_path, weights_only=True))

    @property
    def checkpoint_path(self) -> Path:
        """The newest state of the run, optimiser included."""
        return self.folder / "checkpoint.pt"

    def run_step(self) -> dict[str, float]:
        """One step of the optimiser; returns the losses."""
        c = self.config
        rng = np.random.default_rng((c.seed, self.step))
        batch = self.train_clips.batch(c.batch, c.voices, rng, augment=True)
        rate = learning_rate(c, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # Dropout draws from the global generator: seeding it a step makes resuming exact.
        torch.manual_seed(c.seed * 1_000_003 + self.step)
        self.net.train()
        result = compute_losses(self.net, batch, c, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        result.total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), c.clip_norm)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.step += 1
        self._average()
        return {**result.parts, "grad_norm": float(norm), "lr": rate}

    @torch.no_grad()
    def _average(self) -> None:
        """EMA whose memory grows with the run, so that the start is soon forgotten."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for average, value in zip(self.ema.parameters(), self.net.parameters(), strict=True):
            average.lerp_(value, 1 - decay)

    def save(self) -> None:
        """Write the checkpoint aside and rename it: a kill leaves the old one or the new one."""
        state = {
            "step": self.step,
            "net": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "config": self.config.to_dict(),
            "net_config": self.net.config.to_dict(),
            "code_stats": torch.from_numpy(self.train_clips.code_stats),
        }
        partial = self.checkpoint_path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint_path)

    def _load(self, state: dict[str, Any]) -> None:
        ours, theirs = self.config.to_dict(), state["config"]
        changed = [k for k in ours if k != "steps" and theirs.get(k, ours[k]) != ours[k]]
        if changed or LiteConfig.from_dict(state["net_config"]) != self.net.config:
            raise ConfigError(
                f"{self.checkpoint_path} was trained with other settings "
                f"({', '.join(changed) or 'network'}); use another folder or the same settings"
            )
        self.net.load_state_dict(state["net"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]


def train(
    shards: Path, folder: Path, config: TrainConfig, net_config: LiteConfig | None = None
) -> Trainer:
    """Train until `config.steps`, resuming what lies in `folder`.

    Writes `checkpoint.pt`, `stats.jsonl`, TensorBoard events and `samples-NNNNNN.png` there.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from torch.utils.tensorboard import SummaryWriter

    from training.samples import sample_sheet

    clips = Clips(shards, "train")
    trainer = Trainer(folder, config, clips, net_config)
    try:
        held_out = Clips(shards, "val", clips.code_stats)
    except ConfigError:
        held_out = clips
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=trainer.step)
    with writer, _open_stats(folder, trainer.step) as stats, Progress(*columns) as progress:
        task = progress.add_task("training", total=config.steps, completed=trainer.step)
        recent: dict[str, float] = {}
        while trainer.step < config.steps:
            losses = trainer.run_step()
            for name, value in losses.items():
                recent[name] = 0.98 * recent.get(name, value) + 0.02 * value
            stats.write(json.dumps({"step": trainer.step, **losses}) + "\n")
            progress.update(
                task,
                advance=1,
                description=f"simple {recent['simple']:.4f} l2 {recent['l2']:.4f} "
                f"voice {recent['voice']:.3f}",
            )
            if trainer.step % 50 == 0:
                stats.flush()
                for name, value in recent.items():
                    writer.add_scalar(name, value, trainer.step)
            last = trainer.step == config.steps
            if trainer.step % config.checkpoint_every == 0 or last:
                trainer.save()
            if trainer.step % config.sample_every == 0 or last:
                sample_sheet(trainer.ema, held_out, folder / f"samples-{trainer.step:06d}.png")
    trainer.ema.voice.gain.copy_(voice_gain(trainer.ema, held_out))
    trainer.save()
    return trainer


def _open_stats(folder: Path, step: int) -> TextIO:
    """The log, without lines that a killed run wrote after its last checkpoint."""
    path = folder / "stats.jsonl"
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept))
    return path.open("a")


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
