"""Network architectures; importing this loads torch.

net = build_network(open_bundle(path))      # as it was exported, float32, eval
for graph in graphs(net, batch=1): ...      # lipwire.engine.nets.graphs: what a runtime compiles
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipwire.engine.errors import BundleError, ConfigError
from lipwire.engine.model.bundle import WEIGHTS, Bundle
from lipwire.engine.model.onnx_file import read_tensors
from lipwire.engine.nets.diff2lip import Diff2LipConfig, Diff2LipUNet
from lipwire.engine.nets.lite import LiteConfig, LiteNet
from lipwire.engine.nets.wav2lip import Wav2Lip, Wav2LipConfig


def make_network(kind: str, settings: dict[str, Any]) -> nn.Module:
    """An untrained network of a bundle's kind.

    Raises:
        ConfigError: they do not fit together.
    """
    try:
        if kind == "lite":
            return LiteNet(LiteConfig.from_dict(settings))
        if kind == "diff2lip":
            return Diff2LipUNet(Diff2LipConfig(**settings))
        if kind == "wav2lip":
            return Wav2Lip(Wav2LipConfig(**settings))
    except (TypeError, KeyError, ValueError) as error:
        raise ConfigError(f"the settings of a {kind} network are wrong ({error})") from error
    raise ConfigError(f"there is no network of kind {kind!r}")


def build_network(bundle: Bundle) -> nn.Module:
    """The network that a bundle was exported from, in float32 on the CPU, in eval mode.

    Its weights are those that the graphs hold under their names in the state dict, and for the
    rest, which the exporter folded or rounded, `weights.safetensors`.

    Raises:
        BundleError: the bundle does not describe its network, or tensors are missing, misshapen
            or not finite; the first is named.
    """
    manifest = bundle.manifest
    if not manifest.network:
        raise BundleError(f"{bundle.path}: does not describe its network; export it again")
    try:
        net = make_network(manifest.kind, manifest.network)
    except ConfigError as error:
        raise BundleError(f"{bundle.path}: {error}") from error
    load_weights(net, _stored_weights(bundle), str(bundle.path))
    return net.eval()


def _stored_weights(bundle: Bundle) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name in bundle.manifest.files:
        if name.endswith(".onnx"):
            for tensor in read_tensors(bundle.file(name)):
                if tensor.float32 is not None and tensor.name:
                    weights[tensor.name.removeprefix("net.")] = torch.from_numpy(
                        np.array(tensor.float32)
                    )
    if WEIGHTS in bundle.manifest.files:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            weights |= load_file(bundle.file(WEIGHTS))
        except SafetensorError as error:
            raise BundleError(f"{bundle.file(WEIGHTS)}: cannot be read ({error})") from error
    return weights


def load_weights(
    net: nn.Module, weights: dict[str, Tensor], where: str, *, strict: bool = False
) -> None:
    """Put weights into a network.

    Raises:
        BundleError: names the first tensors that are missing, misshapen, left over or not finite.
    """
    # Counts training steps and does nothing in eval; not every checkpoint has it.
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    wrong = []
    for name, wanted in state.items():
        found = weights.get(name)
        if found is None:
            wrong.append(f"{name} {list(wanted.shape)} is missing")
        elif found.shape != wanted.shape:
            wrong.append(f"{name} is {list(found.shape)}, must be {list(wanted.shape)}")
        elif not bool(found.isfinite().all()):
            wrong.append(f"{name} holds NaN or infinity")
        else:
            state[name] = found.to(wanted.dtype)
    if strict:
        extra = [name for name in weights if name not in net.state_dict()]
        wrong += [f"{name} {list(weights[name].shape)} does not belong to it" for name in extra]
    if wrong:
        more = f"; and {len(wrong) - 3} more tensors differ" if len(wrong) > 3 else ""
        raise BundleError(f"{where}: {'; '.join(wrong[:3])}{more}")
    net.load_state_dict(state, strict=False)
