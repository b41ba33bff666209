"""Read checkpoints without running what they may contain, and say what is wrong with them."""

from __future__ import annotations

import json
import os
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipwire.engine.errors import BundleError
from lipwire.engine.model.bundle import open_bundle
from lipwire.engine.nets import build_network, load_weights
from lipwire.engine.nets.state_dict import (
    describe,
    find_weights,
    plain_name,
    torchscript,
    unwrapped,
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by name, and whatever else the file says."""

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)
    """of a .pt what is not weights; of a .safetensors its metadata, parsed where it is JSON"""

    @property
    def training(self) -> dict[str, Any]:
        """The run's step and settings, where it says them."""
        return {name: self.about[name] for name in ("step", "config") if name in self.about}

    def fill(self, net: nn.Module) -> None:
        """Put the weights into a network, all of them.

        Raises:
            BundleError: names the first tensors that are missing, misshapen, left over or not
                finite.
        """
        weights = unwrapped(self.tensors, net.state_dict())
        load_weights(net, weights, str(self.path), strict=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a .pt, .pth or .safetensors file.

    Weights may be the whole file or lie under any name, see `find_weights`; what data-parallel
    training and torch.compile put before every name is taken away.

    Raises:
        BundleError: not there, truncated, or it holds code besides tensors.
    """
    if not path.is_file():
        raise BundleError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        tensors, about = _read_safetensors(path)
    else:
        values = _read_pickle(path)
        place, tensors = find_weights(values)
        if not tensors:
            raise BundleError(f"{path}: holds no tensors, but {describe(values)}")
        # Without a wrapper every tensor is a weight; beside one, e.g. what its codes mean.
        inside = place.partition(".")[0]
        told = {str(k): v for k, v in values.items() if k != inside}
        about = {k: v for k, v in told.items() if place or not isinstance(v, Tensor)}
    if not tensors:
        raise BundleError(f"{path}: holds no tensors")
    return Checkpoint(path, {plain_name(name): value for name, value in tensors.items()}, about)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = {k: _parsed(v) for k, v in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: not a safetensors file that can be read ({error})") from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_pickle(path: Path) -> dict[Any, Any]:
    if (told := torchscript(path)) is not None:
        raise BundleError(f"{path}: {told}")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            raise BundleError(f"{path}: not a checkpoint that can be read") from error
        raise BundleError(
            f"{path}: holds code ({code.group(1)}) besides tensors and is refused; save its "
            "state dict alone"
        ) from error
    except Exception as error:  # torch raises several unrelated kinds
        cause = " ".join(str(error).split())[:200]
        raise BundleError(f"{path}: not a checkpoint that can be read ({cause})") from error
    if not isinstance(values, dict):
        raise BundleError(f"{path}: holds a {type(values).__name__} instead of named tensors")
    return values


def write_safetensors(bundle: Path, out: Path) -> Path:
    """Write a bundle's network as safetensors: float32, by the names of its state dict.

    The metadata say what it is, so that `read_checkpoint` and the exporters take it again.

    Raises:
        BundleError: the bundle does not hold its network, or `out` cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    opened = open_bundle(bundle)
    manifest = opened.manifest
    tensors = {k: v.contiguous() for k, v in build_network(opened).state_dict().items()}
    names = ("kind", "name", "version", "licence", "prediction", "spacing")
    about = {name: getattr(manifest, name) for name in names}
    about["net_config"] = json.dumps(manifest.network)
    if len(manifest.steps_offered) == 1:
        about["student_steps"] = json.dumps(manifest.default_steps)
    else:
        about["steps_offered"] = json.dumps(manifest.steps_offered)
    about |= {k: json.dumps(v) for k, v in manifest.training.items() if k in ("step", "config")}
    partial = out.with_name(f".{os.getpid()}.partial")
    try:
        save_file(tensors, partial, about)
        partial.replace(out)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{out}: cannot be written ({error})") from error
    finally:
        partial.unlink(missing_ok=True)
    return out
