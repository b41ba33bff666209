"""Objective: what a run learns. The loop draws, steps, averages and saves whatever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from lipwire.training.data.batch import Source


class LossOutput(NamedTuple):
    """What a batch costs."""

    total: Tensor  # f32[], to be made small
    parts: dict[str, Tensor]  # f32[] each, for the log
    fake: Tensor | None = None  # what the critic shall take for fake, and
    real: Tensor | None = None  # for real; None without a critic


class Objective(nn.Module):
    """A network, where its batches come from, and what they cost.

    `forward` prices a batch, so that one wrapper around the objective (autocast, DDP) covers all
    that it does with the network. Frozen helpers may be submodules; a critic may not, because it
    has an optimiser of its own: it is kept out of `parameters()` in a tuple.
    """

    cpu_only = False

    def __init__(self, net: nn.Module, source: Source, critic: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net
        self.source = source
        self._critic = (critic,)

    @property
    def critic(self) -> nn.Module | None:
        """The opponent, trained on what `LossOutput` shows."""
        return self._critic[0]

    def forward(self, batch: Any) -> LossOutput:
        """The losses of one batch, with gradients for `net` alone."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Objective:
        """Switch the network; what is frozen stays in evaluation mode."""
        super().train(False)
        self.net.train(mode)
        return self

    def settings(self) -> dict[str, Any]:
        """What must be the same when a run goes on; stored with it."""
        return {}

    def state(self) -> dict[str, Any]:
        """Further entries of a checkpoint: `net_config` at least."""
        raise NotImplementedError

    def report(self, ema: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Write sample sheets of the averaged network; returns figures for the log."""
        return {}

    def finish(self, ema: nn.Module) -> None:
        """Last touch on the averaged network once all steps are done."""
