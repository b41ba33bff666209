"""Checkpoints: written whole or not at all; what does not fit is named when it is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from lipwire.engine.errors import CheckpointError
from lipwire.engine.nets.state_dict import find_weights, torchscript, unwrapped


class _Remembering:
    """A file that remembers what went wrong: torch.save hides the cause behind its own error."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write aside, then rename: a kill or a full disk leaves the old file or the new one.

    Raises:
        CheckpointError: it could not be written; what `path` held before is still there.
    """
    partial = path.with_suffix(".partial")
    written: _Remembering | None = None
    try:
        with partial.open("wb") as file:
            written = _Remembering(file)
            torch.save(state, written)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        cause = error if written is None or written.error is None else written.error
        kept = f"the last good one, {path}, is untouched" if path.exists() else "none was kept"
        raise CheckpointError(f"the checkpoint could not be written ({cause}); {kept}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, ours or published; no code in the file is run.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if (told := torchscript(path)) is not None:
        raise CheckpointError(f"{path}: {told}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except Exception as error:  # torch raises whatever its unpickler stumbled over
        raise CheckpointError(f"{path}: not a checkpoint that can be read ({error})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: not a checkpoint, but a {type(state).__name__}")
    return state


def weights_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's tensors in a checkpoint of ours or of somebody else's, see `find_weights`."""
    return find_weights(state)[1]


def fit_weights(net: nn.Module, weights: Mapping[str, Tensor], origin: object) -> None:
    """Load `weights` into `net`, or say which tensor is the first that does not fit.

    Raises:
        CheckpointError: a tensor is missing, has another shape, or is unknown to the network.
    """
    wanted = net.state_dict()
    # What counts the steps of a batch normalisation does nothing; older checkpoints lack it.
    counters = {k: v for k, v in wanted.items() if k.endswith("num_batches_tracked")}
    weights = counters | unwrapped(weights, wanted)
    for key, tensor in wanted.items():
        if key not in weights:
            raise CheckpointError(
                f"{origin}: {key} is missing; the network has it as {list(tensor.shape)}"
            )
        if weights[key].shape != tensor.shape:
            raise CheckpointError(
                f"{origin}: {key} is {list(weights[key].shape)} in the checkpoint, "
                f"{list(tensor.shape)} in the network"
            )
    for key in weights:
        if key not in wanted:
            raise CheckpointError(f"{origin}: {key} is not in the network")
    net.load_state_dict(weights)
