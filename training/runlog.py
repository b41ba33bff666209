"""What a run leaves behind while it runs, and its picture."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TextIO

import numpy as np

from lipwire.engine.errors import CheckpointError, ConfigError


class RunLog:
    """`stats.jsonl` and TensorBoard."""

    def __init__(self, folder: Path, start: int, active: bool = True) -> None:
        self.folder, self.start, self.active = folder, start, active
        self.recent: dict[str, float] = {}

    def __enter__(self) -> RunLog:
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start)
            self.stats = _open_stats(self.folder, self.start)
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.writer.close()
            with contextlib.suppress(OSError):  # a full disk has been told already
                self.stats.close()

    def add(self, step: int, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self.recent[name] = 0.98 * self.recent.get(name, value) + 0.02 * value
        self._write({"step": step, **losses})
        if self.active and step % 50 == 0:
            for name, value in self.recent.items():
                self.writer.add_scalar(name, value, step)

    def figures(self, step: int, values: dict[str, float]) -> None:
        """Note what a report measured."""
        if values:
            self._write({"step": step, **values})
        for name, value in values.items():
            if self.active:
                self.writer.add_scalar(name, value, step)

    def _write(self, line: dict[str, float]) -> None:
        if not self.active:
            return
        try:
            self.stats.write(json.dumps(line) + "\n")
            if line["step"] % 50 == 0:
                self.stats.flush()
        except OSError as error:
            raise CheckpointError(
                f"{self.folder} cannot be written ({error}); the last good checkpoint is kept"
            ) from error

    def summary(self) -> str:
        """The losses of late, short."""
        hidden = ("total", "grad_norm", "lr", "critic_norm")
        return " ".join(f"{k} {v:.4f}" for k, v in self.recent.items() if k not in hidden)


def _open_stats(folder: Path, step: int) -> TextIO:
    """The log, without lines that a killed run wrote after its last checkpoint."""
    path = folder / "stats.jsonl"
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept))
    return path.open("a")


# Not shown: rates that follow from the settings, and the sum of what is shown already.
HIDDEN = frozenset({"step", "lr", "total"})


def draw_curves(folder: Path, out: Path, smooth: int = 50) -> None:
    """Draw every loss and figure of a run's `stats.jsonl` over its steps, a panel each.

    Raises:
        ConfigError: the folder holds no log, or an empty one, or `out` cannot be written.
    """
    path = folder / "stats.jsonl"
    if not path.exists():
        raise ConfigError(f"{folder}: holds no stats.jsonl; is it the folder of a run?")
    columns: dict[str, tuple[list[int], list[float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            continue
        values = json.loads(line)
        for name in values.keys() - HIDDEN:
            steps, column = columns.setdefault(name, ([], []))
            steps.append(values["step"])
            column.append(values[name])
    if not columns:
        raise ConfigError(f"{path}: no step in it yet")
    from matplotlib.figure import Figure

    across = min(3, len(columns))
    down = -(-len(columns) // across)
    figure = Figure(figsize=(4 * across, 2.4 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flat
    most = max(len(steps) for steps, _ in columns.values())
    for panel, (name, (steps, column)) in zip(panels, sorted(columns.items()), strict=False):
        if len(column) < most / 2:
            panel.plot(steps, column, "o-", markersize=3)
        else:
            width = min(smooth, len(column))
            means = np.convolve(column, np.full(width, 1 / width), "valid")
            panel.plot(steps[width - 1 :], means, linewidth=1)
            if 0 < 3 * means.min() < means.max():  # else one decade with ugly ticks
                panel.set_yscale("log")
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=7, which="both")
        panel.grid(alpha=0.3, which="both")
    for panel in list(figure.axes)[len(columns) :]:
        panel.set_axis_off()
    figure.supxlabel("step", fontsize=9)
    try:
        figure.savefig(out, dpi=110)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error})") from error
