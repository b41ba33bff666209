"""Coarser arithmetic for a graph: float16 for GPUs, int8 for CPUs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.backends.ort_session import shortest_run_s
from engine.bundle import Manifest
from engine.diffusion import trajectory
from engine.nets.graphs import STEP, graphs
from engine.nets.reference import SCHEDULE
from engine.types import F32
from export.calibration import Calibration
from export.graph import save_graph

# Kept in float32: sums over whole groups overflow half precision, and softmax loses its tail.
_FULL_PRECISION_OPS = ("InstanceNormalization", "Softmax", "Resize", "GridSample")
_HEAD_CHANNELS = 16
_FINEST_STEPS = 8  # more take longer to calibrate on and visit nearly the same levels
_BATCH = 4  # samples at once while calibrating


def to_float16(path: Path) -> None:
    """Rewrite a graph file to compute in float16; what goes in and comes out stays float32.

    The sinusoids of t and the DDIM step keep float32: t reaches 999 and the coefficients 160, where
    half precision is coarser than what they are to tell apart.
    """
    import onnx
    from onnxruntime.transformers.float16 import (
        DEFAULT_OP_BLOCK_LIST,
        convert_float_to_float16,
    )
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(str(path))
    blocked = _leading_to(model.graph, lambda node: node.op_type in ("Sin", "Cos"))
    blocked |= _after_raw(model.graph)
    half = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_FULL_PRECISION_OPS],
        node_block_list=sorted(blocked),
    )
    del half.graph.value_info[:]  # of the types that were
    ordered = OnnxModel(half)
    ordered.topological_sort()  # its casts come last, after those that read them
    save_graph(ordered.model, path)


def to_int8(path: Path, net: nn.Module, manifest: Manifest, calibration: Calibration) -> float:
    """Rewrite the step graph with int8 convolutions, its ranges measured on real samples.

    The first layer and the heads keep float32: noise of full range comes in, and what is rounded
    last is seen. (On the lite network the heads alone doubled the error.)

    Returns:
        Time of an int8 step as a share of a float32 step on this machine.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    float_s = _time_s(path, net)
    model = onnx.load(str(path))
    kept = _first_and_heads(model.graph) | _after_raw(model.graph)
    target = path.with_suffix(".int8")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a pass that changes nothing here
    try:
        quantize_static(
            str(path),
            str(target),
            _Shown(net, manifest, calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],  # the rest is too little work to gain by it
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(kept),
        )
    finally:
        root.setLevel(level)
    target.replace(path)
    save_graph(onnx.load(str(path)), path)
    return _time_s(path, net) / float_s


def _time_s(path: Path, net: nn.Module) -> float:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = next(graph for graph in graphs(net, batch=1) if graph.name == STEP)
    feeds = {name: values.numpy() for name, values in graph.inputs.items()}
    return shortest_run_s(lambda: session.run(["x_prev"], feeds))


class _Shown:
    """Implements onnxruntime.quantization.CalibrationDataReader: all steps of real samples."""

    def __init__(self, net: nn.Module, manifest: Manifest, calibration: Calibration) -> None:
        self._feeds = _feeds(net, manifest, calibration)

    def get_next(self) -> dict[str, F32] | None:
        """The next inputs of the step graph."""
        return next(self._feeds, None)


@torch.no_grad()
def _feeds(
    net: nn.Module, manifest: Manifest, calibration: Calibration
) -> Iterator[dict[str, F32]]:
    shown = calibration.shown()
    # Low noise levels have ranges of their own, and only many steps visit them.
    coarse = (steps for steps in manifest.steps_offered if steps <= _FINEST_STEPS)
    finest = max(coarse, default=manifest.default_steps)
    by_name = {graph.name: graph for graph in graphs(net, batch=1)}
    step, encode = by_name[STEP], by_name.get("encode")
    for begin in range(0, len(shown["mel"]), _BATCH):
        inputs = {name: values[begin : begin + _BATCH] for name, values in shown.items()}
        if encode is not None:
            made = encode.module(*(inputs[name] for name in encode.inputs))
            inputs |= dict(zip(encode.outputs, made, strict=True))
        size = len(inputs["mel"])
        if manifest.prediction == "image":
            yield {name: inputs[name].numpy() for name in step.inputs}
            continue
        for count in sorted({manifest.default_steps, finest}):
            path = trajectory(
                SCHEDULE, count, manifest.spacing,  # type: ignore[arg-type]
                prediction=manifest.prediction,  # type: ignore[arg-type]
            )  # fmt: skip
            inputs["x_t"] = inputs["noise"]
            for t, numbers in path:
                inputs["t"] = torch.full((size,), float(t))
                inputs["coefficients"] = torch.tensor([numbers]).repeat(size, 1)
                yield {name: np.ascontiguousarray(inputs[name].numpy()) for name in step.inputs}
                inputs["x_t"] = step.module(*(inputs[name] for name in step.inputs))[0]


def _leading_to(graph: Any, wanted: Any) -> set[str]:
    """Names of the nodes that `wanted` picks and of all that their inputs are made of."""
    makers = {output: node for node in graph.node for output in node.output}
    found: set[str] = set()
    waiting = [node for node in graph.node if wanted(node)]
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            waiting += [makers[name] for name in node.input if name in makers]
    return found


def _after_raw(graph: Any) -> set[str]:
    """Names of the nodes between `raw` and `x_prev`: the DDIM step."""
    network = _leading_to(graph, lambda node: "raw" in node.output)
    return _leading_to(graph, lambda node: "x_prev" in node.output) - network


def _first_and_heads(graph: Any) -> set[str]:
    """Names of the first convolution and of those with so few outputs that they are heads."""
    widths = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 4}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    heads = {node.name for node in convolutions if widths.get(node.input[1], 0) <= _HEAD_CHANNELS}
    return {*heads, *(node.name for node in convolutions[:1])}
