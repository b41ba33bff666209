from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from lipwire.engine.errors import ConfigError
from lipwire.training.data.shards import add_member, map_member, read_index

OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "train-0000.tar"
    with tarfile.open(path, "w") as tar:
        for key in ("a", "b"):
            add_member(tar, f"{key}.mel.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
            add_member(tar, f"{key}.json", {"speaker": key})
    return path


def test_members_are_mapped_where_they_lie(shard: Path) -> None:
    found = list(read_index(shard))
    assert [(key, about["speaker"]) for key, _, about in found] == [("a", "a"), ("b", "b")]
    mapped = map_member(shard, found[1][1]["mel.npy"])
    assert isinstance(mapped, np.memmap) and mapped.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="needs /proc")
def test_who_stops_half_way_leaves_no_file_open(shard: Path) -> None:
    index = read_index(shard)
    assert next(index)[0] == "a"
    names = {str(fd.readlink()) for fd in OPEN_FILES.iterdir() if fd.is_symlink()}
    assert str(shard) not in names


def test_another_file_is_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "train-0000.tar"
    path.write_bytes(b"not a tar" * 100)
    with pytest.raises(ConfigError, match="is not a shard"):
        next(read_index(path))


def test_shards_are_plain_tars_of_arrays_in_webdatasets_layout(shards: Path) -> None:
    """What any reader of WebDataset does: group members in a row by the name before the dot."""
    samples: list[tuple[str, dict[str, bytes]]] = []
    with tarfile.open(next(shards.glob("train-*.tar"))) as tar:
        for member in tar:
            key, _, name = member.name.partition(".")
            assert "/" not in key
            if not samples or samples[-1][0] != key:
                samples.append((key, {}))
            file = tar.extractfile(member)
            assert file is not None
            samples[-1][1][name] = file.read()
    assert len({key for key, _ in samples}) == len(samples), "a clip's members lie together"
    for _, members in samples:
        assert set(members) == {"crops.npy", "landmarks.npy", "speech.npy", "mel.npy", "json"}
        crops = np.load(BytesIO(members["crops.npy"]))
        assert crops.shape == (json.loads(members["json"])["frames"], 128, 128, 3)
