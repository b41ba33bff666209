"""Shards: tars in WebDataset's layout, one group of members `KEY.name` a sample.

Nothing here stays open: a corpus has more members than a process may hold files or memory maps.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lipwire.engine.errors import ConfigError

log = logging.getLogger(__name__)

# Of a prepared clip; 1 had no speech.npy, up to 2 all crops were crops.npy.
FORMAT = 3
INDEX = "index.npz"  # beside the shards: where each sample begins


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


class StoredArray:
    """A .npy inside an uncompressed tar: what is indexed is read then, as a copy.

    Args:
        path: of the tar.
        member: of the array.
    """

    __slots__ = ("_path", "_offset", "shape", "dtype")

    def __init__(self, path: Path, member: tarfile.TarInfo) -> None:
        with path.open("rb") as file:
            file.seek(member.offset_data)
            version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
            read = np.lib.format.read_array_header_2_0
            if version == (1, 0):
                read = np.lib.format.read_array_header_1_0
            shape, _, dtype = read(file)  # type: ignore[no-untyped-call]
            self._path, self._offset = path, file.tell()
        self.shape: tuple[int, ...] = shape
        self.dtype: np.dtype[Any] = dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        # The map is closed as soon as the copy is made.
        return np.array(np.memmap(self._path, self.dtype, "r", self._offset, self.shape)[index])

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """The whole array."""
        return self[...] if dtype is None else self[...].astype(dtype)


def read_index(
    path: Path, damaged: Callable[[str], None] | None = None
) -> Iterator[tuple[str, dict[str, tarfile.TarInfo], dict[str, Any]]]:
    """Every sample of a shard: its key, its members by name without the key, its JSON.

    Args:
        path: of the shard.
        damaged: told why the rest of a shard cannot be read; the samples before that are given.
            None: that is an error.

    Raises:
        ConfigError: the file is no shard of ours.
    """
    found = []
    # Read whole before anything is given out: who stops half-way leaves no open file behind.
    try:
        with tarfile.open(path) as tar:
            members: dict[str, tarfile.TarInfo] = {}
            cut: Exception | None = None
            try:
                members.update((member.name, member) for member in tar)
            except tarfile.TarError as error:
                cut = error
            for name in members:
                if not name.endswith(".json"):
                    continue
                # Keys written before format 2 may have dots in them.
                key = name.removesuffix(".json")
                own = {n[len(key) + 1 :]: m for n, m in members.items() if n.startswith(f"{key}.")}
                file = tar.extractfile(members[name])
                assert file is not None
                # The JSON is a sample's last member: where it is whole, the others are.
                found.append((key, own, json.load(file)))
            if cut is not None:
                raise cut
    except (tarfile.TarError, json.JSONDecodeError, OSError) as error:
        if damaged is None:
            raise ConfigError(f"{path}: is not a shard ({error})") from error
        damaged(str(error))
    yield from found


def read_sample(
    path: Path, offset: int, members: int
) -> tuple[str, dict[str, tarfile.TarInfo], dict[str, Any]]:
    """One sample of a shard, as `read_index` gives it, without looking at the others.

    Args:
        path: of the shard.
        offset: where its first header begins.
        members: how many it has, in a row.

    Raises:
        ConfigError: nothing of the kind begins there.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                found = [member for _, member in zip(range(members), tar, strict=False)]
                (about,) = (m for m in found if m.name.endswith(".json"))
                key = about.name.removesuffix(".json")
                content = tar.extractfile(about)
                assert content is not None
                own = {m.name.removeprefix(f"{key}."): m for m in found}
                return key, own, json.load(content)
    except (tarfile.TarError, json.JSONDecodeError, ValueError, OSError) as error:
        raise ConfigError(
            f"{path}: no sample begins at byte {offset} ({error}); if {INDEX} is not of these "
            "shards, delete it"
        ) from error


def place(members: dict[str, tarfile.TarInfo], about: dict[str, Any]) -> tuple[int, int, int]:
    """Where a sample of `read_index` begins, how many members it has, and how many frames."""
    begin = min(member.offset for member in members.values())
    return begin, len(members), int(about["frames"])


def write_places(folder: Path, places: Mapping[str, Iterable[tuple[int, int, int]]]) -> None:
    """Note where every sample of a folder begins, by the names of its shards, and their sizes."""
    names = sorted(places)
    rows = [(number, *row) for number, name in enumerate(names) for row in places[name]]
    sizes = [(folder / name).stat().st_size for name in names]
    partial = folder / f"{INDEX}.partial"
    with partial.open("wb") as file:
        np.savez(
            file,
            shards=np.array(names),
            places=np.array(rows, np.int64).reshape(-1, 4),
            sizes=np.array(sizes, np.int64),
        )
    partial.replace(folder / INDEX)


def read_places(folder: Path, split: str) -> tuple[list[Path], npt.NDArray[np.int64]]:
    """Where the samples of a split begin.

    One small file says it of all shards; those that it does not know, or knows with another size,
    are looked through. Of one that is cut off the whole samples are taken; it is named.

    Returns:
        The shards, and i64[N, 4] of shard, offset, members and frames of every sample.
    """
    paths = sorted(folder.glob(f"{split}-*.tar"))
    known: dict[str, npt.NDArray[np.int64]] = {}
    sizes: dict[str, int] = {}
    if (folder / INDEX).exists():
        with np.load(folder / INDEX) as index:
            places = index["places"]
            # Sorted by shard: each is one run of rows.
            bounds = np.searchsorted(places[:, 0], np.arange(len(index["shards"]) + 1))
            known = {
                str(name): places[begin:end, 1:]
                for name, begin, end in zip(index["shards"], bounds, bounds[1:], strict=False)
            }
            # Indexes of format 2 do not say how long the shards are.
            if "sizes" in index:
                shards = index["shards"].tolist()
                sizes = dict(zip(shards, index["sizes"].tolist(), strict=True))
    rows, lost = [np.zeros((0, 4), np.int64)], 0
    for number, path in enumerate(paths):
        found = known.get(path.name)
        if found is None or sizes.get(path.name, -1) not in (-1, path.stat().st_size):
            said: list[str] = []
            whole = [place(m, about) for _, m, about in read_index(path, said.append)]
            if said:
                of = "" if found is None else f" of {len(found)}"
                log.warning(
                    "%s is damaged (%s): %d%s clips of it are used; copy or prepare it again",
                    path,
                    said[0],
                    len(whole),
                    of,
                )
                lost += 1
            found = np.array(whole, np.int64)
        found = found.reshape(-1, 3)
        rows.append(np.column_stack([np.full(len(found), number, np.int64), found]))
    if lost:
        log.warning("%s: %d of %d %s shards are damaged", folder, lost, len(paths), split)
    return paths, np.concatenate(rows)


def write_json(path: Path, value: Any) -> None:
    """Write so that the file is never there in part."""
    partial = path.with_suffix(f"{path.suffix}.partial")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    partial.replace(path)


def shard_reports(folder: Path) -> Iterator[dict[str, Any]]:
    """What was noted beside each shard."""
    for path in sorted(folder.glob("*-[0-9]*.tar")):
        yield json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
