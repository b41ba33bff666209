from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip

from engine.errors import ConfigError
from training.articulation import clip_codes, raw_codes
from training.data import load_clips
from training.prepare import find_clips, prepare


def test_report_counts_what_was_kept_and_why_not(shards: Path) -> None:
    report = json.loads((shards / "report.json").read_text())
    assert report["kept"] == 10
    assert report["frames"] == 300
    assert report["no face"] == 1
    assert report["unreadable"] == 2  # one without sound, one that is no film


def test_clips_hold_aligned_crops_landmarks_and_mel(shards: Path) -> None:
    clips = load_clips(shards, "train")
    assert len(clips) == 9
    for clip in clips:
        assert clip.crops.shape == (30, 128, 128, 3)
        assert clip.landmarks.shape == (30, 468, 2)
        assert clip.mel.shape[0] == 80 and abs(clip.mel.shape[1] - 97) <= 6
        eyes = clip.landmarks[:, [33, 263]].mean(0)
        assert np.abs(eyes - [[32.6, 30.9], [95.4, 31.1]]).max() < 4, "eyes are in their place"


def test_splits_are_by_speaker(shards: Path) -> None:
    train = {c.speaker for c in load_clips(shards, "train")}
    held_out = {c.speaker for c in load_clips(shards, "val")}
    assert held_out == {"speaker09"} and not train & held_out


def test_codes_follow_the_mouth(shards: Path) -> None:
    clip = load_clips(shards, "train")[0]
    dark = (255 - clip.crops[:, 72:92, 54:74].astype(np.float32)).mean((1, 2, 3))
    opening = clip_codes(clip.landmarks)[:, 0]
    assert np.corrcoef(dark, opening)[0, 1] > 0.5


def test_codes_are_zero_for_closed_lips_and_ignore_identity() -> None:
    points = np.zeros((3, 468, 2), np.float32)
    points[:, 152, 1] = [100, 100, 110]
    assert raw_codes(points)[:, 0].max() == 0
    assert clip_codes(points)[:, 3].tolist() == [0, 0, 10]
    assert clip_codes(points + 7)[:, 3].tolist() == [0, 0, 10], "a longer face is the same speech"


def test_prepare_goes_on_where_it_was(shards: Path, tmp_path: Path) -> None:
    source = tmp_path / "clips" / "someone"
    source.mkdir(parents=True)
    write_clip(source / "a.mp4")
    out = tmp_path / "shards"
    first = prepare(tmp_path / "clips", out, workers=1)
    stamp = (out / "train-0000.tar").stat().st_mtime_ns
    assert prepare(tmp_path / "clips", out, workers=1) == first
    assert (out / "train-0000.tar").stat().st_mtime_ns == stamp, "a whole shard is not made again"


def test_a_folder_without_clips_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no talking clips"):
        find_clips(tmp_path)


def test_a_folder_without_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run `lipwire prepare` first"):
        load_clips(tmp_path, "train")
