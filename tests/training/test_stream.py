from __future__ import annotations

import json
import tarfile
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ConfigError
from training.shards import add_member
from training.stream import ClipStream, Position

SHARDS, PER_SHARD = 6, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of seven clips, each of its own colour."""
    out = tmp_path_factory.mktemp("stream")
    for shard in range(SHARDS):
        with tarfile.open(out / f"train-{shard:04d}.tar", "w") as tar:
            for number in range(PER_SHARD):
                key = f"s{shard}c{number}"
                value = shard * PER_SHARD + number
                for name, array in (
                    ("crops.npy", np.full((6, 8, 8, 3), value, np.uint8)),
                    ("landmarks.npy", np.zeros((6, 468, 2), np.float16)),
                    ("speech.npy", np.full(6 * 640, value, np.int16)),
                    ("mel.npy", np.zeros((80, 20), np.float32)),
                ):
                    add_member(tar, f"{key}.{name}", array)
                add_member(tar, f"{key}.json", {"speaker": f"p{shard}", "format": 2})
    return out


def _keys(stream: ClipStream, count: int) -> list[str]:
    return [clip.key for clip in islice(stream, count)]


def test_every_epoch_gives_every_clip_once_in_its_own_order(folder: Path) -> None:
    total = SHARDS * PER_SHARD
    stream = ClipStream(folder, "train", seed=1, buffer=16)
    keys = _keys(stream, 2 * total)
    first, second = keys[:total], keys[total:]
    assert len(set(first)) == len(set(second)) == total
    assert first != second and first != sorted(first)
    assert keys == _keys(ClipStream(folder, "train", seed=1, buffer=16), 2 * total)
    assert first != _keys(ClipStream(folder, "train", seed=2, buffer=16), total)
    # A buffer mixes shards.
    assert len({key[:2] for key in first[:PER_SHARD]}) > 1


def test_clips_carry_their_own_pictures_and_sound(folder: Path) -> None:
    for clip in islice(ClipStream(folder, "train", seed=0), 10):
        value = int(clip.key[1]) * PER_SHARD + int(clip.key[3])
        assert (clip.crops == value).all() and (clip.speech == value).all()
        assert clip.speaker == f"p{clip.key[1]}"


@pytest.mark.parametrize("drawn", [0, 1, 17, 41, 42, 60])
def test_a_resumed_stream_goes_on_with_the_next_clip(folder: Path, drawn: int) -> None:
    whole = _keys(ClipStream(folder, "train", seed=3, buffer=5), drawn + 50)
    stopped = ClipStream(folder, "train", seed=3, buffer=5)
    _keys(stopped, drawn)
    state = json.loads(json.dumps(stopped.state()))
    resumed = ClipStream(folder, "train", seed=3, buffer=5, position=Position(**state))
    assert _keys(resumed, 50) == whole[drawn:]


def test_ranks_and_workers_share_nothing_and_miss_nothing(folder: Path) -> None:
    parts = []
    for rank in range(2):
        for worker in range(3):
            stream = ClipStream(
                folder, "train", seed=0, rank=rank, ranks=2, worker=worker, workers=3
            )
            parts.append(set(_keys(stream, PER_SHARD)))
    assert len(set.union(*parts)) == SHARDS * PER_SHARD == sum(map(len, parts))


def test_too_many_readers_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="6 train shards for 8 readers"):
        ClipStream(folder, "train", seed=0, ranks=8)
    with pytest.raises(ConfigError, match="reader 2 of 2"):
        ClipStream(folder, "train", seed=0, rank=2, ranks=2)


def test_a_file_that_is_no_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-0000.tar").write_bytes(b"x" * 2000)
    with pytest.raises(ConfigError, match="train-0000.tar: is not a shard"):
        _keys(ClipStream(tmp_path, "train", seed=0), 1)


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
