"""What is measured: networks by name, as bundles that ONNX Runtime opens."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lipwire.engine.errors import ConfigError
from lipwire.engine.model.bundle import Bundle, open_bundle
from lipwire.engine.nets import build_network, make_network
from lipwire.engine.nets.diff2lip import Diff2LipConfig
from lipwire.engine.nets.graphs import example_inputs, graphs
from lipwire.engine.nets.wav2lip import SIZE
from lipwire.export.model_card import seal

STEPS = (1, 2, 4, 8, 25)
# Shaped like the paper's, and sampled in seconds.
SMALL = Diff2LipConfig(
    image_size=64,
    model_channels=32,
    num_res_blocks=1,
    attention_resolutions=(2, 4),
    channel_mult=(1, 2, 2),
    num_head_channels=32,
)


def paper_network(config: Diff2LipConfig | None = None) -> nn.Module:
    """The paper's network with made weights: time does not depend on their values."""
    net = make_network("diff2lip", asdict(config or Diff2LipConfig.official()))
    state = net.state_dict()
    for key, tensor in state.items():
        state[key] = torch.from_numpy(made_tensor(key, tuple(tensor.shape)))
    net.load_state_dict(state)
    return net.eval()


def made_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A weight that is a function of its name alone, as the golden vectors' are."""
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) >= 2:
        return n * np.float32(0.7 / math.sqrt(math.prod(shape[1:])))
    return 1 + 0.1 * n if key.endswith("weight") else np.asarray(0.1 * n, np.float32)


def wav2lip_network() -> nn.Module:
    """The generator of the paper's baseline, 96x96, with made weights."""
    return make_network("wav2lip", {}).eval()


def network(name: str) -> nn.Module:
    """The shipped lite network, the paper's, or Wav2Lip's."""
    if name == "lite":
        return build_network(open_bundle())
    if name == "paper":
        return paper_network()
    if name == "wav2lip":
        return wav2lip_network()
    raise ConfigError(f"no network {name!r}: lite, paper or wav2lip")


def paper_bundle(net: nn.Module, folder: Path) -> Bundle:
    """The paper's network as a bundle, without the checks of `lipwire export`."""
    return _bundle(
        net,
        folder,
        kind="diff2lip",
        prediction="epsilon",
        spacing="leading",
        steps_offered=STEPS,
        network=asdict(net.config),  # type: ignore[call-overload]
        crop_size=example_inputs(net, 1)["references"].shape[2],
    )


def wav2lip_bundle(net: nn.Module, folder: Path) -> Bundle:
    """Wav2Lip's generator as a bundle, without the checks of `lipwire export`."""
    told = {"kind": "wav2lip", "prediction": "image", "spacing": "trailing", "crop_size": SIZE}
    return _bundle(net, folder, steps_offered=(1,), network={}, **told)


def _bundle(net: nn.Module, folder: Path, **told: Any) -> Bundle:
    from lipwire.export.graph import write_graph

    shipped = open_bundle().manifest
    manifest = replace(
        shipped,
        name="paper" if told["kind"] == "diff2lip" else "wav2lip",
        default_steps=told["steps_offered"][-1],
        references=1,
        framing="box",
        reach_px=0.0,
        reference_codes=False,
        mel={**shipped.mel, "columns": 16},
        training={},
        quality={},
        parity={},
        **told,
    )
    folder.mkdir(parents=True)
    names = []
    for graph in graphs(net):
        names.append(f"{graph.name}.onnx")
        write_graph(graph, folder / names[-1])
    return seal(folder, manifest, names)


def golden(folder: Path) -> tuple[Diff2LipConfig, Mapping[str, Any]]:
    """The small network of the golden vectors, and its inputs and outputs."""
    try:
        described = json.loads((folder / "diff2lip_tiny.json").read_text(encoding="utf-8"))
        with np.load(folder / "diff2lip_tiny.npz") as stored:
            arrays = {name: stored[name] for name in stored.files}
        names = Diff2LipConfig.__dataclass_fields__
        config = Diff2LipConfig(**{name: described[name] for name in names})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: holds no golden vectors diff2lip_tiny ({error})") from error
    return config, arrays
