"""A network and what is to be said of it -> a bundle that has been held against torch."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from lipwire.engine.audio.mel import HOP, LOOKAHEAD_S, N_FFT, N_MELS
from lipwire.engine.backends.feeds import feed_shapes
from lipwire.engine.backends.ort import OrtBackend
from lipwire.engine.errors import BundleError
from lipwire.engine.model.bundle import MANIFEST, WEIGHTS, Bundle, Manifest, open_bundle
from lipwire.engine.model.onnx_file import read_tensors
from lipwire.engine.nets.graphs import STEP, example_inputs, graphs, voice_graph
from lipwire.engine.nets.reference import sample
from lipwire.engine.types import SPEECH_RATE_HZ
from lipwire.export.checkpoint import Checkpoint
from lipwire.export.graph import OPSET, graph_parity, relative_error, write_graph
from lipwire.export.model_card import seal
from lipwire.export.precision import to_float16

Precision = Literal["float32", "float16"]
# Relative error, |a - b| / |b|, that an exported graph and a whole sampled picture may show. What
# float16 may is 34 dB below the picture: less than 8 bits a channel show on skin.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a kind of model says in its manifest beside what the network tells itself."""

    kind: str
    licence: str
    prediction: str
    spacing: str
    steps_offered: tuple[int, ...]
    default_steps: int
    framing: str
    codes: Mapping[str, list[float]] = field(default_factory=dict)
    expression: float = 1.4
    training: Mapping[str, Any] = field(default_factory=dict)


def as_sampled(recipe: Recipe, checkpoint: Checkpoint, steps: int | None = None) -> Recipe:
    """The recipe with what a checkpoint says of its own sampling: a student of few steps does.

    A student has learnt the levels of one number of steps and is offered at that alone.

    Args:
        recipe: for a checkpoint that says nothing, as published ones do.
        checkpoint: says `prediction`, `spacing`, and `student_steps` or `steps_offered`.
        steps: the exporter's default number; None takes the student's or the recipe's.

    Raises:
        BundleError: a student does not take so many steps.
    """
    about = checkpoint.about
    student = about.get("student_steps")
    if student is not None:
        if steps not in (None, student):
            raise BundleError(f"{checkpoint.path}: was distilled for {student} steps, not {steps}")
        offered, steps = (int(student),), int(student)
    else:
        steps = steps or recipe.default_steps
        offered = tuple(sorted({*about.get("steps_offered", recipe.steps_offered), steps}))
    return replace(
        recipe,
        prediction=str(about.get("prediction", recipe.prediction)),
        spacing=str(about.get("spacing", recipe.spacing)),
        steps_offered=offered,
        default_steps=steps,
        licence=str(about.get("licence", recipe.licence)),
    )


@dataclass(frozen=True, slots=True)
class Options:
    """What the one who exports decides."""

    name: str | None = None  # of the model; None takes its kind's
    version: str = "0"
    licence: str | None = None  # of the weights; None takes that of the published ones
    precision: Precision = "float32"  # of the graphs' arithmetic
    quality: Mapping[str, Any] = field(default_factory=dict)  # measured figures for the manifest


def write_bundle(net: nn.Module, recipe: Recipe, out: Path, options: Options) -> Bundle:
    """Write a bundle; it appears at `out` only when every check has passed.

    Args:
        net: in float32 with its weights.
        recipe: what to say of it.
        out: folder of the bundle; an older bundle there is replaced.
        options: the exporter's wishes.

    Raises:
        BundleError: a graph or a sampled picture differs from torch by more than `TOLERANCE`, or
            `out` holds something that is not a bundle.
    """
    foreign = out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).exists()
    if foreign or out.is_file():
        raise BundleError(f"{out}: is there and not a bundle; choose another name")
    precision = options.precision
    net = net.float().eval()
    manifest = _describe(net, recipe, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        # Codes that nobody knows the meaning of choose no mouths.
        whole = graphs(net) + (voice_graph(net) if recipe.codes else ())
        for graph in whole:
            write_graph(graph, folder / f"{graph.name}.onnx")
        inputs = example_inputs(net, 2, seed=2)
        if precision == "float16":
            for file in sorted(folder.iterdir()):
                to_float16(file)
        _write_weights(net, folder)
        parity = {}
        checked = graphs(net, batch=3, seed=1)
        for graph in checked + (voice_graph(net, 3, 1) if recipe.codes else ()):
            parity[f"{graph.name}.onnx"] = graph_parity(graph, folder / f"{graph.name}.onnx")
        _check(parity, precision)
        bundle = seal(folder, manifest, [file.name for file in folder.iterdir()])
        parity |= sample_parity(net, bundle, inputs)
        _check(parity, precision)
        rounded = {what: float(f"{error:.2e}") for what, error in parity.items()}
        bundle = seal(folder, replace(manifest, parity=rounded), bundle.manifest.files)
        if out.exists():
            shutil.rmtree(out)
        shutil.move(str(folder), str(out))
    return open_bundle(out)


def _check(parity: Mapping[str, float], precision: Precision) -> None:
    for what, error in parity.items():
        if not error <= TOLERANCE[precision]:
            raise BundleError(
                f"{what} differs from torch by {error:.1e}, more than "
                f"{TOLERANCE[precision]:.0e}; nothing was written"
            )


def _describe(net: nn.Module, recipe: Recipe, options: Options) -> Manifest:
    """The manifest, but for files and parity."""
    import onnxruntime as ort

    inputs = example_inputs(net, 1)
    references, mel = inputs["references"].shape, inputs["mel"].shape
    built_with = {"torch": torch.__version__, "onnxruntime": ort.__version__}
    built_with["python"] = platform.python_version()
    sound: dict[str, float] = {"rate_hz": SPEECH_RATE_HZ, "n_fft": N_FFT, "hop": HOP}
    sound |= {"bands": N_MELS, "columns": mel[2]}
    return Manifest(
        name=options.name or recipe.kind,
        version=options.version,
        kind=recipe.kind,
        licence=options.licence or recipe.licence,
        files={},
        prediction=recipe.prediction,
        spacing=recipe.spacing,
        steps_offered=recipe.steps_offered,
        default_steps=recipe.default_steps,
        crop_size=references[2],
        framing=recipe.framing,
        references=references[1] // 3,
        reach_px=float(getattr(net.config, "reach_px", 0.0)),
        codes=dict(recipe.codes),
        expression=recipe.expression,
        reference_codes=bool(getattr(net.config, "told", False)),
        network=asdict(net.config),  # type: ignore[call-overload]
        lookahead_s=LOOKAHEAD_S,
        mel=sound,
        precision=options.precision,
        opset=OPSET,
        parameters=sum(p.numel() for p in net.parameters()),
        gflop_per_frame=round(count_gflop(net, recipe.default_steps), 4),
        built_with=built_with,
        training=dict(recipe.training),
        quality=dict(options.quality),
    )


def _write_weights(net: nn.Module, folder: Path) -> None:
    """`weights.safetensors`: those tensors that the graphs do not hold as they are."""
    from safetensors.torch import save_file

    held = {
        tensor.name.removeprefix("net."): tensor.float32
        for file in folder.glob("*.onnx")
        for tensor in read_tensors(file)
        if tensor.float32 is not None
    }
    rest = {
        name: value.contiguous()
        for name, value in net.state_dict().items()
        if name not in held or not np.array_equal(held[name], value.numpy())
    }
    save_file(rest, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # the library makes it private


def sample_parity(
    net: nn.Module, bundle: Bundle, inputs: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """Relative error of the whole sampled picture against plain torch, at every step count."""
    backend = OrtBackend(bundle, device="cpu")
    names = feed_shapes(bundle.manifest, 1, backend.noise_rows)
    arrays = {name: inputs[name].numpy() for name in names}
    ways = {"sample": False} | ({"from a unit": True} if bundle.manifest.reference_codes else {})
    try:
        return {
            f"{way}, {steps} step{'s' * (steps > 1)}": relative_error(
                backend.sample(arrays, steps, entered=entered),
                sample(net, inputs, bundle.manifest, steps, entered=entered).numpy(),
            )
            for way, entered in ways.items()
            for steps in bundle.manifest.steps_offered
        }
    finally:
        backend.close()


def count_gflop(net: nn.Module, steps: int) -> float:
    """GFLOP of one frame at `steps` steps, a multiply-add counting as two."""
    from torch.utils.flop_counter import FlopCounterMode

    total = 0
    for graph in graphs(net, batch=1):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            graph.module(*graph.inputs.values())
        total += counter.get_total_flops() * (steps if graph.name == STEP else 1)
    return total / 1e9
