"""Write one graph as ONNX, check it, and compare it with the module it came from."""

from __future__ import annotations

import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipwire.engine.errors import BundleError
from lipwire.engine.nets.graphs import Graph
from lipwire.engine.types import F32

OPSET = 18
MAX_BATCH = 64


def write_graph(graph: Graph, path: Path) -> None:
    """Export a graph with a dynamic batch and its weights inside the file.

    Raises:
        BundleError: the exporter wrote weights outside the file.
    """
    import onnx

    batch = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
    varying: tuple[Any, ...] = (batch,) * len(graph.inputs)
    kinds = [p.kind for p in inspect.signature(graph.module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:  # the last arguments are one tuple to torch
        plain = len(kinds) - 1
        varying = (*varying[:plain], varying[plain:])
    noisy = logging.getLogger("torch.onnx._internal.exporter")
    level = noisy.level
    noisy.setLevel(logging.ERROR)  # it regrets that torchvision is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations, which are not ours
            torch.onnx.export(
                graph.module.eval(),
                tuple(graph.inputs.values()),
                str(path),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=varying,
                external_data=False,
                verbose=False,
            )
    finally:
        noisy.setLevel(level)
    model = onnx.load(str(path), load_external_data=False)
    _forget_origin(model.graph)
    save_graph(model, path)


def save_graph(model: Any, path: Path) -> None:
    """Check an onnx.ModelProto and write it.

    Raises:
        BundleError: it keeps weights outside the file.
    """
    import onnx

    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        raise BundleError(f"{path.name}: weights were written outside the file")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _forget_origin(graph: Any) -> None:
    """Drop the exporter's notes, an onnx.GraphProto's: stack traces name the builder's folders."""
    values = (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for noted in (graph, *values):
        del noted.metadata_props[:]


def relative_error(found: F32, wanted: F32) -> float:
    """|a - b| / |b|, in float64."""
    difference = np.linalg.norm(found.astype(np.float64) - wanted)
    return float(difference / (np.linalg.norm(wanted.astype(np.float64)) or 1.0))


@torch.no_grad()
def graph_parity(graph: Graph, path: Path) -> float:
    """The largest relative error of the file's outputs in ONNX Runtime against the module's."""
    import onnxruntime as ort

    wanted = graph.module.eval()(*graph.inputs.values())
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {name: value.numpy() for name, value in graph.inputs.items()}
    found = session.run(list(graph.outputs), feeds)
    return max(relative_error(np.asarray(f), w.numpy()) for f, w in zip(found, wanted, strict=True))
