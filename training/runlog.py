"""What a run leaves behind while it runs, and how it is asked to stop."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from engine.errors import CheckpointError


class RunLog:
    """`stats.jsonl` and TensorBoard.

    Args:
        folder: of the run.
        start: the step that it goes on from.
        active: False on all ranks but the first, which then write nothing.
    """

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
        """Note one step."""
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


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Tells whether Ctrl-C or SIGTERM came; the second one interrupts at once."""
    wishes: list[int] = []

    def wish(number: int, _: object) -> None:
        wishes.append(number)
        if len(wishes) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals are the main thread's
        return
    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(wishes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
