from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest

from lipwire.engine.errors import ConfigError
from lipwire.training.data.layouts import Clip, find_clips, guess_layout


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def _speakers(clips: list[Clip]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        found[clip.split].add(clip.speaker)
    return found


@pytest.mark.parametrize("root", ["dev/mp4", "mp4", "."])
def test_voxceleb2(tmp_path: Path, root: str) -> None:
    for speaker in range(20):
        for video in ("aaa", "bbb"):
            _touch(tmp_path, *(f"{root}/id{speaker:05d}/{video}/{u:05d}.mp4" for u in (1, 2, 7)))
    assert guess_layout(tmp_path) == "voxceleb2"
    clips = find_clips(tmp_path)
    assert len(clips) == 120 == len({c.key for c in clips}), "numbers repeat, keys do not"
    found = _speakers(clips)
    assert not found["train"] & found["val"] and len(found["train"] | found["val"]) == 20
    assert 1 <= len(found["val"]) <= 6
    everybody = find_clips(tmp_path, val_share=0)
    assert {c.split for c in everybody} == {"train"} and len(everybody) == 120
    assert len(_speakers(find_clips(tmp_path, val_share=0.5))["val"]) > len(found["val"])
    first = find_clips(tmp_path, first_utterances=True)
    assert len(first) == 40 and {Path(c.path).stem for c in first} == {"00001"}
    assert {c.key for c in first} <= {c.key for c in clips}


def test_lrw_is_split_as_published(tmp_path: Path) -> None:
    for word in ("ABOUT", "WORLD"):
        for split, number in (("train", 1), ("train", 2), ("val", 1), ("test", 1)):
            _touch(tmp_path, f"{word}/{split}/{word}_{number:05d}.mp4")
            _touch(tmp_path, f"{word}/{split}/{word}_{number:05d}.txt")
    assert guess_layout(tmp_path) == "lrw"
    clips = find_clips(tmp_path)
    assert sorted(c.split for c in clips) == ["test"] * 2 + ["train"] * 4 + ["val"] * 2
    assert clips[0].key == "ABOUT_train_ABOUT_00001"
    with pytest.raises(ConfigError, match="only VoxCeleb2 has utterances"):
        find_clips(tmp_path, first_utterances=True)


def test_folders_split_by_speaker_whoever_else_comes(tmp_path: Path) -> None:
    for speaker in range(30):
        _touch(
            tmp_path,
            f"person{speaker}/a.mp4",
            f"person{speaker}/b.MKV",
            f"person{speaker}/notes.txt",
        )
    before = _speakers(find_clips(tmp_path))
    assert not before["train"] & before["val"] and before["val"]
    for speaker in range(30, 60):
        _touch(tmp_path, f"person{speaker}/a.mp4")
    after = _speakers(find_clips(tmp_path))
    assert before["train"] <= after["train"] and before["val"] <= after["val"]


def test_one_speaker_is_trained_on_and_of_two_one_is_held_out(tmp_path: Path) -> None:
    _touch(tmp_path, "someone/a.mp4", "someone/b.mp4")
    assert {c.split for c in find_clips(tmp_path)} == {"train"}
    _touch(tmp_path, "other/a.mp4")
    assert {c.split for c in find_clips(tmp_path)} == {"train", "val"}


def _manifest(root: Path, rows: list[dict[str, str]]) -> None:
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_manifest_decides(tmp_path: Path) -> None:
    row = {"file": "v/a.b.mp4", "kind": "talking", "split": "train", "speaker": "ann"}
    _manifest(
        tmp_path,
        [
            row,
            {**row, "file": "v/c.mp4", "speaker": "bob", "split": "val"},
            {**row, "file": "v/d.mp4", "kind": "speech"},
            {**row, "file": "v/e.mp4", "split": "robustness"},
        ],
    )
    assert find_clips(tmp_path) == [
        Clip(str(tmp_path / "v/a.b.mp4"), "ann", "train", "v_a_b"),
        Clip(str(tmp_path / "v/c.mp4"), "bob", "val", "v_c"),
    ]
    assert len(find_clips(tmp_path, exclude=("c*",))) == 1


def test_a_manifest_that_shares_speakers_or_lacks_columns_is_refused(tmp_path: Path) -> None:
    row = {"file": "a.mp4", "kind": "talking", "split": "train", "speaker": "ann"}
    _manifest(tmp_path, [row, {**row, "split": "val"}])
    with pytest.raises(ConfigError, match="speaker ann is in train and in val"):
        find_clips(tmp_path)
    _manifest(tmp_path, [{"file": "a.mp4", "kind": "talking"}])
    with pytest.raises(ConfigError, match="no column speaker, split"):
        find_clips(tmp_path)


def test_unknown_layouts_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no talking clips"):
        find_clips(tmp_path)
    with pytest.raises(ConfigError, match="'piles'"):
        find_clips(tmp_path, "piles")
