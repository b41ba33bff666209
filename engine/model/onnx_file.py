"""Read the tensors of an ONNX file without the onnx package: where they lie, and what they hold.

A bundle is opened where neither onnx nor torch is installed. Two questions must be answered there:
does a graph fetch data from outside its file, and which weights does it hold under which names.
Only the fields of onnx.proto that lead to a tensor are followed; the rest is skipped unread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lipwire.engine.errors import BundleError

_FLOAT32 = 1  # TensorProto.DataType
_EXTERNAL = 1  # TensorProto.DataLocation
# message -> field number -> what lies there. Tensors also hide in attributes and subgraphs.
_PATHS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DEPTH = 32  # of nested messages; real graphs need a handful


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One TensorProto."""

    name: str
    shape: tuple[int, ...]
    external: bool  # its data lies in another file
    float32: npt.NDArray[np.float32] | None
    """a view of its values; None if they are of another type or not stored raw"""


def read_tensors(path: Path) -> Iterator[StoredTensor]:
    """Every tensor of a graph file, in subgraphs and attributes too.

    Raises:
        BundleError: the file is no protocol buffer.
    """
    try:
        yield from _walk("model", np.memmap(path, np.uint8, "r").data, 0)
    except (ValueError, IndexError, OSError) as error:
        raise BundleError(f"{path}: is no ONNX graph ({error})") from error


def external_data(path: Path) -> str | None:
    """The name of the first tensor that lies outside the file, or None.

    Raises:
        BundleError: the file is no protocol buffer.
    """
    return next((tensor.name for tensor in read_tensors(path) if tensor.external), None)


def _walk(kind: str, data: memoryview, depth: int) -> Iterator[StoredTensor]:
    if kind == "tensor":
        yield _tensor(data)
        return
    if depth > _DEPTH:
        raise ValueError("nested too deeply")
    for number, value in _fields(data):
        inner = _PATHS[kind].get(number)
        if inner is not None and isinstance(value, memoryview):
            yield from _walk(inner, value, depth + 1)


def _tensor(data: memoryview) -> StoredTensor:
    name, shape, kind, raw, external = "", list[int](), 0, None, False
    for number, value in _fields(data):
        if number == 1:  # dims, packed or one by one
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8", "replace")
        elif number == 9 and isinstance(value, memoryview):
            raw = value
        elif number == 13 or (number == 14 and value == _EXTERNAL):
            external = True
    values = None
    if kind == _FLOAT32 and raw is not None:
        values = np.frombuffer(raw, "<f4").reshape(shape)
    return StoredTensor(name, tuple(shape), external, values)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of one message; fixed-size values are skipped as 0."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 2:
            length, at = _varint(data, at)
            if length > len(data) - at:
                raise ValueError("it ends too early")
            yield number, data[at : at + length]
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            yield number, 0
        else:
            raise ValueError(f"wire type {wire}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has no end")


def _varints(data: memoryview) -> list[int]:
    values, at = list[int](), 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values
