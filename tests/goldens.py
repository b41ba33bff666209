"""The rule by which the reference weights of the golden vectors were filled."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Golden = tuple[dict[str, Any], dict[str, NDArray[Any]]]


def golden_tensor(key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Value of one floating-point tensor of a state dict: a function of its name alone."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    n = rng.standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        value = 1 + 0.1 * np.abs(n)
    elif len(shape) >= 2:
        value = n * (0.7 / math.sqrt(math.prod(shape[1:])))
    elif key.endswith("weight"):
        value = 1 + 0.1 * n
    else:
        value = 0.1 * n
    return np.asarray(value, dtype=np.float32)


def fill_golden(model: nn.Module) -> None:
    """Give every floating-point tensor of ``model`` its golden value; switch it to eval."""
    state = model.state_dict()
    for key, tensor in state.items():
        if tensor.is_floating_point():
            state[key] = torch.from_numpy(golden_tensor(key, tuple(tensor.shape)))
    model.load_state_dict(state)
    model.eval()


def load_golden(shared_dir: Path, name: str) -> Golden:
    """The description and the arrays of one golden set."""
    folder = shared_dir / "goldens"
    described: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as stored:
        return described, {key: stored[key] for key in stored.files}


def relative_error(got: torch.Tensor | NDArray[Any], want: NDArray[Any]) -> float:
    """Frobenius norm of the difference over that of ``want``, in float64."""
    a = np.asarray(got, dtype=np.float64)
    b = np.asarray(want, dtype=np.float64)
    assert a.shape == b.shape, f"{a.shape} against the golden {b.shape}"
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
