from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from lipwire.engine.errors import ConfigError
from lipwire.training.data.batch import FiveFrames
from lipwire.training.data.dataset import StoredClips, load_clips
from lipwire.training.data.prepare import _check_sync
from lipwire.training.data.shards import (
    FORMAT,
    StoredArray,
    add_member,
    place,
    read_index,
    write_places,
)

OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "train-0000.tar"
    with tarfile.open(path, "w") as tar:
        for key in ("a", "b"):
            add_member(tar, f"{key}.mel.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
            add_member(tar, f"{key}.json", {"speaker": key})
    return path


def test_members_are_read_where_they_lie(shard: Path) -> None:
    found = list(read_index(shard))
    assert [(key, about["speaker"]) for key, _, about in found] == [("a", "a"), ("b", "b")]
    stored = StoredArray(shard, found[1][1]["mel.npy"])
    assert stored.shape == (2, 3) and len(stored) == 2 and stored[1].tolist() == [3, 4, 5]
    assert np.asarray(stored, np.int64).tolist() == [row.tolist() for row in stored]


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
        assert set(members) == {
            "jpegs.npy",
            "ends.npy",
            "landmarks.npy",
            "speech.npy",
            "mel.npy",
            "json",
        }
        ends = np.load(BytesIO(members["ends.npy"]))
        assert len(ends) == json.loads(members["json"])["frames"]
        assert ends[-1] == len(np.load(BytesIO(members["jpegs.npy"])))


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="needs /proc")
def test_a_corpus_has_more_clips_than_a_process_may_open_files(tmp_path: Path) -> None:
    """What 145,000 clips do to a limit of 1,024 files, 600 do to one of 256."""
    import resource

    speech = np.zeros(8 * 640, np.int16)
    for number in range(200):
        with tarfile.open(tmp_path / f"train-{number:04d}.tar", "w") as tar:
            for clip in range(3):
                key = f"{number}_{clip}"
                for name, value in {
                    "crops.npy": np.full((8, 8, 8, 3), number, np.uint8),
                    "landmarks.npy": np.full((8, 468, 2), clip, np.float16),
                    "speech.npy": speech,
                    "mel.npy": np.zeros((80, 26), np.float32),
                    "json": {"speaker": key, "split": "train", "frames": 8, "format": FORMAT},
                }.items():
                    add_member(tar, f"{key}.{name}", value)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(list(OPEN_FILES.iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        paths = sorted(tmp_path.glob("*.tar"))
        assert len(_check_sync(paths)) == 600
        loaded, stored = load_clips(tmp_path, "train"), StoredClips(tmp_path, "train")
        held = stored[:]
        drawn = FiveFrames(stored, 8)
        for step in range(20):
            drawn.sample(np.random.default_rng(step))
        assert len(list(OPEN_FILES.iterdir())) <= before + 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(loaded) == len(held) == 600
    assert [c.crops[3].max() for c in held] == [int(c.key.split("_")[0]) for c in held]
    write_places(tmp_path, {p.name: [place(m, a) for _, m, a in read_index(p)] for p in paths})
    again = StoredClips(tmp_path, "train")
    assert [c.key for c in again] == [c.key for c in loaded] and again.lengths.tolist() == [8] * 600
    data = paths[0].read_bytes()
    paths[0].write_bytes(data[512:] + data[:512])
    with pytest.raises(ConfigError, match=r"train-0000\.tar: no sample begins at byte 0"):
        again[0]
    paths[0].unlink()
    assert len(StoredClips(tmp_path, "train")) == 597, "a shard that is gone is not looked for"


@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "not"])
def test_of_a_shard_that_is_cut_off_the_whole_clips_are_used(
    shards: Path, tmp_path: Path, indexed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (whole,) = shards.glob("train-*.tar")
    (tmp_path / "train-0000.tar").write_bytes(whole.read_bytes())
    cut, junk = tmp_path / "train-0001.tar", tmp_path / "train-0002.tar"
    cut.write_bytes(whole.read_bytes())
    junk.write_bytes(whole.read_bytes())
    paths = sorted(tmp_path.glob("*.tar"))
    if indexed:
        write_places(tmp_path, {p.name: [place(m, a) for _, m, a in read_index(p)] for p in paths})
    samples = list(read_index(whole))
    assert len(samples) == 3
    begin = samples[2][1]["jpegs.npy"].offset_data  # within the third clip's pictures
    cut.write_bytes(whole.read_bytes()[: begin + 1000])
    junk.write_bytes(b"not a tar" * 100)
    with pytest.raises(ConfigError, match=r"train-0001\.tar: is not a shard"):
        list(read_index(cut))
    with caplog.at_level("WARNING"):
        stored = StoredClips(tmp_path, "train")
    keys = [key for key, _, _ in samples]
    assert [clip.key for clip in stored] == keys + keys[:2]
    assert all(len(clip.crops[len(clip) - 1]) == 128 for clip in stored)
    of = " of 3" * indexed
    assert f"train-0001.tar is damaged (unexpected end of data): 2{of} clips" in caplog.text
    assert f"): 0{of} clips of it are used" in caplog.text
    assert "2 of 3 train shards are damaged" in caplog.text
    assert len(load_clips(tmp_path, "train")) == 5
