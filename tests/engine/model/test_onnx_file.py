"""The reader of ONNX files against the onnx package that writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lipwire.engine.errors import BundleError
from lipwire.engine.model.onnx_file import external_data, read_tensors

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


def graph(where: str = "initializer", external: bool = False) -> bytes:
    """A model whose tensor `w` lies as an initializer, in an attribute, or in a subgraph."""
    tensor = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    if external:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "w.bin"
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3])
    nodes = [helper.make_node("Identity", ["w"], ["y"])]
    if where == "attribute":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    inner = helper.make_graph(nodes, "inner", [], [out])
    if where == "initializer":
        inner.initializer.append(tensor)
    if where == "subgraph":
        constant = helper.make_node("Constant", [], ["w"], value=tensor)
        branch = helper.make_graph([constant, *nodes], "branch", [], [out])
        test = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        condition = helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
        inner = helper.make_graph([test], "outer", [condition], [out])
    data: bytes = helper.make_model(inner).SerializeToString()
    return data


@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph"])
def test_tensors_are_found_wherever_they_lie(tmp_path: Path, where: str) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(graph(where))
    found = {tensor.name: tensor for tensor in read_tensors(path)}["w"]
    assert found.float32 is not None
    assert np.array_equal(found.float32, np.arange(6).reshape(2, 3))
    assert external_data(path) is None
    path.write_bytes(graph(where, external=True))
    assert external_data(path) == "w"


def test_every_initializer_of_the_shipped_graphs_is_read_as_onnx_reads_it() -> None:
    from lipwire.engine.model.bundle import open_bundle

    path = open_bundle().file("step.onnx")
    found = {tensor.name: tensor.float32 for tensor in read_tensors(path)}
    for tensor in onnx.load(str(path)).graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            assert np.array_equal(found[tensor.name], numpy_helper.to_array(tensor))


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 40, b"\x3a\xff\x01abc", b"\x0b"])
def test_garbage_is_one_line(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(garbage)
    with pytest.raises(BundleError, match=r"g\.onnx: is no ONNX graph"):
        list(read_tensors(path))


def test_every_truncation_is_an_error_or_fewer_tensors(tmp_path: Path) -> None:
    data, path = graph(), tmp_path / "g.onnx"
    for length in range(1, len(data)):
        path.write_bytes(data[:length])
        try:
            assert len(list(read_tensors(path))) <= 1
        except BundleError:
            pass
