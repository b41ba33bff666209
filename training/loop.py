"""The training loop: draw, step, average, save, report; killed anywhere, it goes on exactly.

It trains any `Objective`, on one device or on many (`accelerate launch`, `torchrun`): the samples
of a step are dealt out to ranks and micro-batches, so that their number changes nothing but speed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import os
import shlex
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lipwire.engine.errors import CheckpointError, ConfigError
from lipwire.engine.signals import stopping
from lipwire.training.checkpoint import fit_weights, load_checkpoint, save_checkpoint
from lipwire.training.config import FREE, TrainConfig
from lipwire.training.data.batch import Slot, Source
from lipwire.training.objective import Objective
from lipwire.training.runlog import RunLog


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine to a twentieth, or no change."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.05 + 0.95 * 0.5 * (1 + float(np.cos(np.pi * min(done, 1.0)))))


def share_batch_norm(net: nn.Module, ranks: int, device: str) -> None:
    """Make batch normalisation see the whole batch, wherever its samples are.

    Raises:
        ConfigError: torch cannot, on that kind of device.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    if ranks == 1 or not any(isinstance(module, kinds) for module in net.modules()):
        return
    if device != "cuda":
        raise ConfigError(
            f"this network normalises over the batch, which {ranks} processes on "
            f"{device} cannot do together; use one process"
        )
    # In place, under the same names.
    nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]


def count_on_cpu(optimiser: Any) -> None:
    """Put Adam's counters of steps, a scalar a tensor, back where Adam itself makes them.

    Accelerate moves a resumed run's to the device, which would wait at every step for each of them.
    """
    for state in optimiser.state.values() if optimiser is not None else ():
        state["step"] = state["step"].cpu()


def _tensors(batch: Any) -> Iterator[Tensor]:
    """Of nested tuples, lists, dictionaries and dataclasses; arrays count."""
    if isinstance(batch, Tensor | np.ndarray):
        yield torch.as_tensor(batch)
    elif isinstance(batch, dict):
        yield from _tensors(list(batch.values()))
    elif isinstance(batch, tuple | list):
        for part in batch:
            yield from _tensors(part)
    elif dataclasses.is_dataclass(batch):
        for part in dataclasses.fields(batch):
            yield from _tensors(getattr(batch, part.name))


class _Draws(Dataset[Any]):
    """Batches of one rank by running number: step after step, micro-batch after micro-batch."""

    def __init__(self, source: Source, rank: int, ranks: int, accumulate: int) -> None:
        self.source, self.rank, self.accumulate = source, rank, accumulate
        self.count = ranks * accumulate

    def __getitem__(self, number: int) -> Any:
        step, micro = divmod(number, self.accumulate)
        return self.source.draw(step, Slot(self.rank * self.accumulate + micro, self.count))


class Trainer:
    """A run in a folder: an objective, its average, its optimisers, the step.

    Args:
        folder: checkpoints, logs and sample sheets go here; a checkpoint found here is resumed.
        config: of the run; what `config.FREE` names may be changed on resuming, nothing else.
        objective: what is learnt.

    Raises:
        ConfigError: the batch cannot be dealt out evenly, the precision is not to be had here, or
            the checkpoint was made with other settings.
        CheckpointError: the checkpoint cannot be read, or is of another network.
    """

    def __init__(self, folder: Path, config: TrainConfig, objective: Objective) -> None:
        self.folder, self.config, self.objective = folder, config, objective
        folder.mkdir(parents=True, exist_ok=True)
        if config.precision == "fp16" and objective.critic is not None:
            raise ConfigError(
                "fp16 has one loss scale, which a critic's steps change under the "
                "network's; use bf16"
            )
        if config.precision == "fp16" and (objective.cpu_only or not torch.cuda.is_available()):
            raise ConfigError("precision fp16 needs a CUDA device; bf16 works on a CPU")
        # Unless it is told so, accelerate makes several processes without CUDA so many runs of one.
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        cpu = objective.cpu_only or (several and not torch.cuda.is_available())
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=config.precision)
        ranks = self.accelerator.num_processes
        if config.batch % (ranks * config.accumulate):
            raise ConfigError(
                f"batch {config.batch} cannot be dealt out to {ranks} processes "
                f"times {config.accumulate} micro-batches"
            )
        self.step = 0
        share_batch_norm(objective.net, ranks, self.accelerator.device.type)
        self.net = objective.net
        self.ema = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.ema.to(self.accelerator.device)
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.critic_optimiser: torch.optim.AdamW | None = None
        if objective.critic is not None:
            # Adam's memory is short for an opponent that moves (Radford et al., 2016).
            weights, betas = objective.critic.parameters(), (0.5, 0.99)
            self.critic_optimiser = torch.optim.AdamW(
                weights, lr=self._critic_rate, betas=betas, weight_decay=0.0
            )
        if self.checkpoint_path.exists():
            self._load(load_checkpoint(self.checkpoint_path))
        self._check_ranks()
        self._losses, self.optimiser = self.accelerator.prepare(objective, self.optimiser)
        if objective.critic is not None:
            self._judged, self.critic_optimiser = self.accelerator.prepare(
                objective.critic, self.critic_optimiser
            )
        count_on_cpu(self.optimiser)
        count_on_cpu(self.critic_optimiser)
        self._batches: Iterator[Any] | None = None

    def _check_ranks(self) -> None:
        """Every rank must be in the same run, with the same clips, before the first step.

        A node that does not see the run's folder begins anew beside nodes that go on, and hangs;
        one that sees other shards, or has other settings, trains on, wrongly.
        """
        if self.accelerator.num_processes == 1:
            return
        settings = zlib.crc32(repr(sorted(self._settings().items())).encode())
        # Any batch is a function of seed, step and clips: all ranks draw the same one.
        drawn = self.objective.source.draw(self.step, Slot(0, self.config.batch))
        sums = [float(value.double().abs().sum()) for value in _tensors(drawn)]
        here = torch.tensor(
            [self.step, settings, *sums], dtype=torch.float64, device=self.accelerator.device
        )
        every = self.accelerator.gather(here).view(self.accelerator.num_processes, -1)
        low, high = every.amin(0), every.amax(0)
        if low[0] < high[0]:
            raise ConfigError(
                f"{self.folder}: some processes begin at step {low[0]:.0f}, others at "
                f"{high[0]:.0f}; all nodes must see the same run folder, on a disk that they share"
            )
        if low[1] < high[1]:
            raise ConfigError(
                f"{self.folder}: the processes have different settings; start all "
                "with the same command"
            )
        # Not to the bit: nodes may be of different kinds.
        if bool((high - low > 1e-3 * high.clamp_min(1.0)).any()):
            raise ConfigError(
                f"{self.folder}: the processes draw different clips; all nodes must "
                "see the same shards"
            )

    def keep_average(self) -> None:
        """Write the average aside, on the first rank alone: the best one may not be the last."""
        if self.accelerator.is_main_process:
            state = {**self.objective.state(), "step": self.step, "config": self._settings()}
            state["ema"] = self.ema.state_dict()
            save_checkpoint(state, self.folder / f"average-{self.step:07d}.pt")

    @property
    def checkpoint_path(self) -> Path:
        """The newest state of the run, optimisers included."""
        return self.folder / "checkpoint.pt"

    @property
    def _critic_rate(self) -> float:
        rate: float = self.objective.settings().get("critic_rate", self.config.learning_rate)
        return rate

    def _next_batch(self) -> Any:
        if self._batches is None:
            c, a = self.config, self.accelerator
            draws = _Draws(self.objective.source, a.process_index, a.num_processes, c.accumulate)
            loader = DataLoader(
                draws,
                batch_size=None,
                num_workers=c.workers,
                sampler=itertools.count(self.step * c.accumulate),
                generator=torch.Generator(),  # or it would draw from the one that dropout uses
            )
            self._batches = iter(loader)
        return send_to_device(next(self._batches), self.accelerator.device)

    def run_step(self) -> dict[str, float]:
        """One step of the optimisers; returns the losses, averaged over ranks."""
        c, a = self.config, self.accelerator
        rate = learning_rate(c, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # Dropout draws from the global generator: seeding it a step makes resuming exact.
        torch.manual_seed((c.seed * 1_000_003 + self.step) * a.num_processes + a.process_index)
        self._losses.train()
        parts: dict[str, Tensor] = {}

        def add(values: dict[str, Tensor]) -> None:
            for name, value in values.items():
                parts[name] = parts.get(name, 0) + value.detach().float() / c.accumulate

        critic = self.objective.critic
        for micro in range(c.accumulate):
            batch = self._next_batch()
            # Ranks exchange gradients once a step, with the last micro-batch.
            alone = micro + 1 < c.accumulate
            with a.no_sync(self._losses) if alone else contextlib.nullcontext():
                priced = self._losses(batch)
                a.backward(priced.total / c.accumulate)
            add(priced.parts)
            if critic is not None:
                assert priced.fake is not None and priced.real is not None
                with a.no_sync(self._judged) if alone else contextlib.nullcontext():
                    judged = self._judged(priced.fake.detach(), priced.real)
                    a.backward(judged.total / c.accumulate)
                add(judged.parts)
        norm = self._apply(self.optimiser, self.net)
        if critic is not None:
            parts["critic_norm"] = self._apply(self.critic_optimiser, critic)
        self.step += 1
        self._average()
        means = a.reduce(torch.stack(list(parts.values())), "mean").tolist()
        return {**dict(zip(parts, means, strict=True)), "grad_norm": float(norm), "lr": rate}

    def _apply(self, optimiser: Any, net: nn.Module) -> Tensor:
        """Clip, step unless a gradient is not finite, forget the gradients; returns their norm."""
        self.accelerator.unscale_gradients(optimiser)
        norm = nn.utils.clip_grad_norm_(net.parameters(), self.config.clip_norm)
        # A GradScaler skips such a step itself, and lowers its scale.
        if torch.isfinite(norm) or self.accelerator.scaler is not None:
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return norm

    @torch.no_grad()
    def _average(self) -> None:
        """EMA whose memory grows with the run, so that the start is soon forgotten."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for average, value in zip(self.ema.parameters(), self.net.parameters(), strict=True):
            average.lerp_(value, 1 - decay)
        for old, new in zip(self.ema.buffers(), self.net.buffers(), strict=True):
            old.copy_(new)

    def _settings(self) -> dict[str, Any]:
        return {**self.config.to_dict(), **self.objective.settings()}

    def save(self) -> None:
        """Write the checkpoint, on the first rank alone.

        Raises:
            CheckpointError: it could not be written; the last good one is untouched.
        """
        if not self.accelerator.is_main_process:
            return
        state = {
            **self.objective.state(),
            "step": self.step,
            "net": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "config": self._settings(),
        }
        if self.objective.critic is not None and self.critic_optimiser is not None:
            state["critic"] = self.objective.critic.state_dict()
            state["critic_optimiser"] = self.critic_optimiser.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        save_checkpoint(state, self.checkpoint_path)

    def _load(self, state: dict[str, Any]) -> None:
        if missing := {"step", "net", "ema", "optimiser", "config"} - set(state):
            lacking = ", ".join(sorted(missing))
            raise CheckpointError(
                f"{self.checkpoint_path}: not a run's checkpoint, has no {lacking}"
            )
        fit_weights(self.net, state["net"], self.checkpoint_path)
        ours, theirs = self._settings(), state["config"]
        changed = [k for k in ours if k not in FREE and theirs.get(k, ours[k]) != ours[k]]
        if changed:
            raise ConfigError(
                f"{self.checkpoint_path} was trained with other settings ({', '.join(changed)}); "
                "use another folder or the same settings"
            )
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.objective.critic is not None and self.critic_optimiser is not None:
            fit_weights(self.objective.critic, state["critic"], self.checkpoint_path)
            self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]

    def agree(self, stop: bool) -> bool:
        """Whether any rank wants to stop: one that left alone would leave the others waiting."""
        if self.accelerator.num_processes == 1:
            return stop
        wish = torch.tensor([float(stop)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(wish, "sum").item())


def train(trainer: Trainer) -> Trainer:
    """Train until `config.steps`.

    Writes `checkpoint.pt`, `stats.jsonl`, TensorBoard events and sample sheets into its folder.
    Ctrl-C and SIGTERM let the step end and save it.

    Raises:
        CheckpointError: the folder can no longer be written to; the last good checkpoint stays.
        KeyboardInterrupt: stopped and saved.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    config, main = trainer.config, trainer.accelerator.is_main_process
    told = TextColumn("{task.description}")
    columns = (told, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        RunLog(trainer.folder, trainer.step, main) as log,
        stopping() as stop,
        Progress(*columns, disable=not main) as bar,
    ):
        task = bar.add_task("training", total=config.steps, completed=trainer.step)
        while trainer.step < config.steps:
            losses = trainer.run_step()
            log.add(trainer.step, losses)
            bar.update(task, advance=1, description=log.summary())
            stopped, last = trainer.agree(stop()), trainer.step == config.steps
            if trainer.step % config.checkpoint_every == 0 or last or stopped:
                trainer.save()
            if config.keep_every and trainer.step % config.keep_every == 0:
                trainer.keep_average()
            if stopped and not last:
                break
            if trainer.step % config.sample_every == 0 or last:
                if main:
                    figures = trainer.objective.report(trainer.ema, trainer.folder, trainer.step)
                    log.figures(trainer.step, figures)
                trainer.accelerator.wait_for_everyone()
    if trainer.step < config.steps:
        if main:
            again = shlex.join(sys.argv)
            print(f"stopped and saved at step {trainer.step}; to go on: {again}", file=sys.stderr)
        raise KeyboardInterrupt
    trainer.objective.finish(trainer.ema)
    trainer.save()
    return trainer
