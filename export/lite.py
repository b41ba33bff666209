"""A lite checkpoint -> a bundle: two ONNX graphs, checked against torch before anything is kept."""

from __future__ import annotations

import platform
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.bundle import MANIFEST, Bundle, Manifest, open_bundle, sha256
from engine.errors import BundleError
from engine.mel import HOP, LOOKAHEAD_S, N_FFT, N_MELS, WINDOW_COLUMNS
from engine.nets.lite import LiteConfig, LiteNet
from engine.types import F32, SPEECH_RATE_HZ

OPSET = 18
TOLERANCE = 1e-4  # relative error, |a - b| / |b|, of ONNX Runtime against torch in float32
STEPS_OFFERED = (1, 2, 4, 8)
DEFAULT_STEPS = 2
WEIGHTS_LICENCE = "CC BY-NC 4.0"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What export needs of a training run."""

    net: LiteNet
    step: int
    training: dict[str, Any]


def load_checkpoint(path: Path) -> Checkpoint:
    """The averaged network of a `lipwire train` checkpoint; no code in the file is run.

    Raises:
        BundleError: not such a checkpoint, or tensors are missing or have other shapes.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such checkpoint") from error
    except Exception as error:  # torch raises several unrelated kinds
        raise BundleError(f"{path}: not a checkpoint that can be read ({error})") from error
    if not isinstance(state, dict) or not {"ema", "net_config", "step"} <= set(state):
        raise BundleError(f"{path}: not a checkpoint of `lipwire train`")
    net = LiteNet(LiteConfig.from_dict(state["net_config"]))
    try:
        net.load_state_dict(state["ema"])
    except RuntimeError as error:
        raise BundleError(f"{path}: {str(error).splitlines()[-1].strip()}") from error
    return Checkpoint(net.eval(), int(state["step"]), dict(state.get("config", {})))


class _Encode(nn.Module):
    """The graph that runs once a frame."""

    def __init__(self, net: LiteNet) -> None:
        super().__init__()
        self.voice, self.encoder = net.voice, net.encoder

    def forward(self, visible: Tensor, reference: Tensor, mel: Tensor) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = self.encoder(visible, reference, self.voice(mel))
        return result


class _Denoise(nn.Module):
    """The graph that runs once a step."""

    def __init__(self, net: LiteNet) -> None:
        super().__init__()
        self.denoiser = net.denoiser

    def forward(
        self, x_t: Tensor, t: Tensor, sigma: Tensor, reference: Tensor, *context: Tensor
    ) -> Tensor:
        v: Tensor = self.denoiser(x_t, t, sigma, reference, *context)
        return v


def example_inputs(net: LiteNet, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of both graphs but the context, in the ranges that they will see."""
    size, random = net.config.size, torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random) * 2 - 1

    return {
        "visible": uniform(batch, 3, size // 2, size),
        "reference": uniform(batch, 3, size, size),
        "mel": uniform(batch, N_MELS, WINDOW_COLUMNS) * 4,
        "x_t": torch.randn(batch, 3, size // 2, size, generator=random),
        "t": torch.full((batch,), 499.0),
        "sigma": torch.full((batch,), 0.96),
    }


def _forget_origin(graph: Any) -> None:
    """Drop the exporter's notes, an onnx.GraphProto's: stack traces name the builder's folders."""
    values = (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for noted in (graph, *values):
        del noted.metadata_props[:]


def _export(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    varying: tuple[Any, ...],
    outputs: list[str],
    path: Path,
) -> None:
    """Write one graph with a dynamic batch and its weights inside the file."""
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, which are not ours
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=varying,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(str(path), load_external_data=False)
    _forget_origin(model.graph)
    onnx.save(model, str(path))
    onnx.checker.check_model(model, full_check=True)
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        raise BundleError(f"{path.name}: weights were written outside the file")


def export_graphs(net: LiteNet, folder: Path) -> None:
    """Write `encode.onnx` and `denoise.onnx`."""
    inputs = example_inputs(net, 2)
    frame = {k: inputs[k] for k in ("visible", "reference", "mel")}
    step = {k: inputs[k] for k in ("x_t", "t", "sigma", "reference")}
    encode, denoise = _Encode(net), _Denoise(net)
    with torch.no_grad():
        context = encode(*frame.values())
    names = [f"context_{i}" for i in range(len(context))]
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    _export(encode, frame, (batch,) * len(frame), names, folder / "encode.onnx")
    everything = {**step, **dict(zip(names, context, strict=True))}
    # The context is one variadic argument, so its shapes are one tuple.
    varying = (*(batch,) * len(step), (batch,) * len(context))
    _export(denoise, everything, varying, ["v"], folder / "denoise.onnx")


def relative_error(found: F32, wanted: F32) -> float:
    """|a - b| / |b|."""
    norm = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(found - wanted)) / (norm or 1.0)


def parity(net: LiteNet, folder: Path, batch: int = 3) -> dict[str, float]:
    """Relative error of each graph in ONNX Runtime, at another batch than exported."""
    import onnxruntime as ort

    inputs = example_inputs(net, batch, seed=1)
    with torch.no_grad():
        context = _Encode(net)(inputs["visible"], inputs["reference"], inputs["mel"])
        steps = {k: inputs[k] for k in ("x_t", "t", "sigma", "reference")}
        wanted = _Denoise(net)(*steps.values(), *context)

    def run(name: str, feeds: dict[str, F32]) -> list[F32]:
        session = ort.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        return [np.asarray(out) for out in session.run(None, feeds)]

    encoded = run("encode.onnx", {k: inputs[k].numpy() for k in ("visible", "reference", "mel")})
    feeds = {k: v.numpy() for k, v in steps.items()}
    feeds |= {f"context_{i}": c.numpy() for i, c in enumerate(context)}
    (denoised,) = run("denoise.onnx", feeds)
    return {
        "encode.onnx": max(
            relative_error(a, b.numpy()) for a, b in zip(encoded, context, strict=True)
        ),
        "denoise.onnx": relative_error(denoised, wanted.numpy()),
    }


def count_gflop(net: LiteNet, steps: int) -> float:
    """GFLOP of one frame at `steps` steps, a multiply-add counting as two."""
    from torch.utils.flop_counter import FlopCounterMode

    inputs = example_inputs(net, 1)
    with torch.no_grad(), FlopCounterMode(display=False) as once:
        context = _Encode(net)(inputs["visible"], inputs["reference"], inputs["mel"])
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        net.denoiser(inputs["x_t"], inputs["t"], inputs["sigma"], inputs["reference"], *context)
    return float((once.get_total_flops() + steps * step.get_total_flops()) / 1e9)


def export_lite(
    checkpoint: Path,
    out: Path,
    *,
    name: str = "lite",
    version: str = "0",
    training: Mapping[str, Any] | None = None,
    quality: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle; it appears at `out` only when every check has passed.

    Args:
        checkpoint: of `lipwire train`.
        out: folder of the bundle; an older bundle there is replaced.
        name: of the model.
        version: of the model.
        training: what the manifest says of the data, beside the run's own settings.
        quality: measured figures for the manifest.

    Raises:
        BundleError: unreadable checkpoint, a graph that differs from torch by more than 1e-4, or
            `out` holds something that is not a bundle.
    """
    import onnxruntime as ort

    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise BundleError(f"{out}: is not empty and not a bundle; choose another folder")
    loaded = load_checkpoint(checkpoint)
    net = loaded.net
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        export_graphs(net, folder)
        errors = parity(net, folder)
        for graph, error in errors.items():
            if not error <= TOLERANCE:
                raise BundleError(
                    f"{graph} differs from torch by {error:.1e}, more than {TOLERANCE:.0e}; "
                    "nothing was written"
                )
        manifest = Manifest(
            name=name,
            version=version,
            kind="lite",
            licence=WEIGHTS_LICENCE,
            files={p.name: sha256(p) for p in sorted(folder.iterdir())},
            prediction="v",
            spacing="trailing",
            steps_offered=STEPS_OFFERED,
            default_steps=DEFAULT_STEPS,
            crop_size=net.config.size,
            lookahead_s=LOOKAHEAD_S,
            mel={"rate_hz": SPEECH_RATE_HZ, "n_fft": N_FFT, "hop": HOP, "bands": N_MELS,
                 "columns": WINDOW_COLUMNS},
            opset=OPSET,
            parameters=sum(p.numel() for p in net.parameters()),
            gflop_per_frame=round(count_gflop(net, DEFAULT_STEPS), 4),
            built_with={"torch": torch.__version__, "onnxruntime": ort.__version__,
                        "python": platform.python_version()},
            training={"step": loaded.step, "config": loaded.training, **(training or {})},
            quality=dict(quality or {}),
            parity={graph: float(f"{error:.2e}") for graph, error in errors.items()},
        )  # fmt: skip
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        open_bundle(folder)
        _replace(folder, out)
    return open_bundle(out)


def _replace(folder: Path, out: Path) -> None:
    """Put the finished bundle in place of an older one."""
    if out.exists():
        shutil.rmtree(out)
    shutil.move(str(folder), str(out))
