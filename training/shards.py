"""Shards: tars in WebDataset's layout, one group of members `KEY.name` a sample."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def add_member(tar: tarfile.TarFile, name: str, value: Any) -> None:
    """Add an array as .npy, or anything else as JSON."""
    buffer = io.BytesIO()
    if isinstance(value, np.ndarray):
        np.save(buffer, value)
    else:
        buffer.write(json.dumps(value).encode())
    info = tarfile.TarInfo(name)
    info.size = buffer.tell()
    buffer.seek(0)
    tar.addfile(info, buffer)


def map_member(path: Path, member: tarfile.TarInfo) -> Any:
    """A .npy inside an uncompressed tar as a memory map."""
    with path.open("rb") as file:
        file.seek(member.offset_data)
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
            np.lib.format.read_array_header_2_0)  # fmt: skip
        shape, _, dtype = read(file)  # type: ignore[no-untyped-call]
        return np.memmap(path, dtype, "r", file.tell(), shape)


def read_index(path: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo], dict[str, Any]]]:
    """Every sample of a shard: its key, its members by name without the key, its JSON."""
    with tarfile.open(path) as tar:
        samples: dict[str, dict[str, tarfile.TarInfo]] = {}
        for member in tar:
            key, _, name = member.name.partition(".")
            samples.setdefault(key, {})[name] = member
        for key, members in samples.items():
            file = tar.extractfile(members["json"])
            assert file is not None
            yield key, members, json.load(file)
