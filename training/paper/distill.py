"""Progressive distillation (Salimans & Ho, 2022): two of a teacher's steps, learnt as one.

Each stage halves the steps; its student is the next stage's teacher. See docs/research.md.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipwire.engine.errors import ConfigError
from lipwire.engine.model.ddim import ddim_step, predict_x0
from lipwire.training.config import TrainConfig
from lipwire.training.data.batch import FiveFrames, NoisedBatch, NoisedClips
from lipwire.training.data.dataset import StoredClips
from lipwire.training.families import (
    SCHEDULE,
    Family,
    LiteFamily,
    Opened,
    PaperFamily,
    alpha_bars,
    open_network,
    sampled,
)
from lipwire.training.loop import Trainer, train
from lipwire.training.objective import LossOutput, Objective
from lipwire.training.paper.diff2lip import given_of, noised
from lipwire.training.paper.trajectory import figure_sheet

STAGES = (4, 2, 1)
DISTIL = TrainConfig(
    steps=2_000,
    batch=8,
    learning_rate=1e-4,
    warmup=50,
    weight_decay=0.0,
    ema=0.99,
    checkpoint_every=250,
    sample_every=1_000,
)


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of a student and the two of its teacher that make it up."""

    start: int
    middle: int
    end: int | None  # None: the clean picture


def hops(steps: int) -> list[Hop]:
    """The hops of a student with `steps` steps, noise to clean; the levels are nested."""
    fine = [*SCHEDULE.timesteps(2 * steps, "trailing"), None]
    found = []
    for index in range(0, 2 * steps, 2):
        start, middle = fine[index], fine[index + 1]
        assert start is not None and middle is not None
        found.append(Hop(start, middle, fine[index + 2]))
    return found


def student_of(family: Family) -> Family:
    """How the student is called: by velocity, on levels that begin at pure noise.

    At the first of a thousand levels x0 = (x_t - s eps) / a magnifies an error in eps by s / a =
    157, so a network that speaks epsilon cannot go from noise to picture in one step.
    """
    if isinstance(family, PaperFamily):
        return replace(family, prediction="v", spacing="trailing")
    assert isinstance(family, LiteFamily)  # is so already
    return family


def two_steps_as_one(x_t: Tensor, x_end: Tensor, start: float, end: float) -> Tensor:
    """The x0 whose single DDIM step leads where two have led (Salimans & Ho, appendix G).

    Solves x_end = a' x0 + (s' / s) (x_t - a x0) for x0, with a, s the scales of signal and noise.

    Args:
        x_t: f32[N, ...] where the hop starts.
        x_end: f32[N, ...] where the teacher arrived.
        start: alpha_bar of x_t.
        end: alpha_bar of x_end, 1.0 for the clean picture.
    """
    a, a_end = start**0.5, end**0.5
    ratio = ((1 - end) / (1 - start)) ** 0.5
    return (x_end - ratio * x_t) / (a_end - ratio * a)


class DistilObjective(Objective):
    """Match the teacher's two steps, on levels that the student will visit."""

    def __init__(
        self,
        family: Family,
        teacher_family: Family,
        student: nn.Module,
        teacher: nn.Module,
        clips: FiveFrames,
        config: TrainConfig,
        steps: int,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.hops = hops(steps)
        levels = [hop.start for hop in self.hops]
        super().__init__(student, NoisedClips(clips, config.batch, config.seed, levels))
        self.family, self.teacher_family = family, teacher_family
        self.teacher = teacher.requires_grad_(False).eval()
        self.clips, self.steps, self.extra = clips, steps, extra or {}

    def train(self, mode: bool = True) -> DistilObjective:
        """Never: dropout would make the student chase a teacher that heard something else."""
        super().train(False)
        return self

    @torch.no_grad()
    def target(self, batch: NoisedBatch, x_t: Tensor, t: Tensor) -> Tensor:
        """x0 that the student shall estimate, f32[5B, 3, S/2, S] in about ±1."""
        condition = self.teacher_family.condition(self.teacher, given_of(batch))
        found = torch.empty_like(x_t)
        for hop in self.hops:
            chosen = (t == hop.start).nonzero().flatten()
            if not len(chosen):
                continue
            start = SCHEDULE.alpha_bar(hop.start)
            end = 1.0 if hop.end is None else SCHEDULE.alpha_bar(hop.end)
            at = _picked(condition, chosen)
            x = x_t[chosen]
            levels = (start, SCHEDULE.alpha_bar(hop.middle), end)
            for level, (now, after) in zip((hop.start, hop.middle), pairwise(levels), strict=True):
                out = self.teacher_family.denoise(
                    self.teacher, x, torch.full_like(chosen, level), at
                ).float()
                # Clipped, as the sampler that the student replaces clips.
                x = ddim_step(x, out, now, after, prediction=self.teacher_family.prediction)
            found[chosen] = two_steps_as_one(x_t[chosen], x, start, end)
        return found

    def forward(self, batch: NoisedBatch) -> LossOutput:
        """Truncated-SNR weighting (Salimans & Ho, sec. 4): max(SNR, 1) |x0 - target|^2."""
        hidden, _, t, x_t = noised(batch)
        target = self.target(batch, x_t, t)
        condition = self.family.condition(self.net, given_of(batch))
        out = self.family.denoise(self.net, x_t, t, condition).float()
        alpha_bar = alpha_bars(t)
        x0 = predict_x0(x_t, out, alpha_bar, self.family.prediction)
        weight = (alpha_bar / (1 - alpha_bar)).clamp_min(1.0)
        loss = (weight * (x0 - target) ** 2).mean()
        parts = {"total": loss, "distil": loss, "x0": ((x0 - hidden) ** 2).mean()}
        return LossOutput(loss, parts)

    def settings(self) -> dict[str, Any]:
        return {"student_steps": self.steps}

    def state(self) -> dict[str, Any]:
        return {**self.extra, **sampled(self.family, self.net), "student_steps": self.steps}

    def report(self, ema: nn.Module, folder: Path, step: int) -> dict[str, float]:
        path = folder / f"samples-{step:06d}.png"
        figure_sheet(self.family, ema, self.clips, path, steps=self.steps)
        return {}


def _picked(value: Any, chosen: Tensor) -> Any:
    """The chosen samples of a condition: tensors, in nested tuples."""
    if isinstance(value, Tensor):
        return value[chosen]
    return tuple(_picked(part, chosen) for part in value)


def distil_stage(
    teacher: Opened, clips: FiveFrames, folder: Path, config: TrainConfig, steps: int
) -> Trainer:
    """Train one student of `steps` steps in `folder`, which may hold it already."""
    kept = {k: v for k, v in teacher.state.items() if k == "code_stats"}
    families = student_of(teacher.family), teacher.family
    nets = copy.deepcopy(teacher.net), teacher.net
    objective = DistilObjective(*families, *nets, clips, config, steps, kept)
    objective.net.requires_grad_(True)
    return train(Trainer(folder, config, objective))


def distil(
    checkpoint: Path,
    shards: Path,
    folder: Path,
    *,
    stages: Sequence[int] = STAGES,
    config: TrainConfig = DISTIL,
) -> list[Path]:
    """Students of fewer and fewer steps, each in `folder`/steps-N; killed anywhere, it goes on.

    Returns:
        The students' checkpoints, in the order of `stages`.

    Raises:
        ConfigError: the stages do not halve.
        CheckpointError: the teacher cannot be read.
    """
    if not stages or stages[-1] < 1 or any(a != 2 * b for a, b in pairwise(stages)):
        raise ConfigError(f"stages must fall by halves, as 4 2 1 do; got {list(stages)}")
    teacher = open_network(checkpoint)
    family, net = teacher.family, teacher.net
    size, plain = family.size(net), family.name == "paper"
    stored = StoredClips(shards, "train")
    clips = FiveFrames(stored, size, plain=plain, columns=family.columns(net))
    found = []
    for steps in stages:
        trainer = distil_stage(teacher, clips, folder / f"steps-{steps}", config, steps)
        found.append(trainer.checkpoint_path)
        teacher = open_network(trainer.checkpoint_path)
    return found
