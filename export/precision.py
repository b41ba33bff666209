"""Coarser arithmetic for a graph: float16, for GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lipwire.export.graph import save_graph

# Kept in float32: sums over whole groups overflow half precision, and softmax loses its tail.
_FULL_PRECISION_OPS = ("InstanceNormalization", "Softmax", "Resize", "GridSample")


def to_float16(path: Path) -> None:
    """Rewrite a graph file to compute in float16; what goes in and comes out stays float32.

    The sinusoids of t and the DDIM step keep float32: t reaches 999 and the coefficients 160, where
    half precision is coarser than what they are to tell apart.
    """
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
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
