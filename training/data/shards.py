"""Shards: tars in WebDataset's layout, one group of members `KEY.name` a sample."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lipwire.engine.errors import ConfigError

FORMAT = 2  # of a prepared clip; 1 had no speech.npy


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
    """Every sample of a shard: its key, its members by name without the key, its JSON.

    Raises:
        ConfigError: the file is no shard of ours.
    """
    found = []
    # Read whole before anything is given out: who stops half-way leaves no open file behind.
    try:
        with tarfile.open(path) as tar:
            members = {member.name: member for member in tar}
            for name in members:
                if not name.endswith(".json"):
                    continue
                # Keys written before format 2 may have dots in them.
                key = name.removesuffix(".json")
                own = {n[len(key) + 1 :]: m for n, m in members.items() if n.startswith(f"{key}.")}
                file = tar.extractfile(members[name])
                assert file is not None
                found.append((key, own, json.load(file)))
    except (tarfile.TarError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: is not a shard ({error})") from error
    yield from found


def write_json(path: Path, value: Any) -> None:
    """Write so that the file is never there in part."""
    partial = path.with_suffix(f"{path.suffix}.partial")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    partial.replace(path)


def shard_reports(folder: Path) -> Iterator[dict[str, Any]]:
    """What was noted beside each shard."""
    for path in sorted(folder.glob("*-[0-9]*.tar")):
        yield json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
