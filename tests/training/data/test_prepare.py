from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip

from lipwire.engine.audio.mel import log_mel
from lipwire.engine.errors import ConfigError
from lipwire.engine.face.articulation import clip_codes, raw_codes
from lipwire.engine.media.sound import as_float
from lipwire.training.data.clip import SAMPLES_PER_FRAME, Rejected, Rules, shifted
from lipwire.training.data.dataset import load_clips
from lipwire.training.data.layouts import find_clips
from lipwire.training.data.prepare import PrepareConfig, _mend_shard, _report, prepare
from lipwire.training.data.shards import StoredArray, add_member, read_index, write_json


def test_report_counts_what_was_kept_and_why_not(shards: Path) -> None:
    report = json.loads((shards / "report.json").read_text())
    assert report["kept"] == 4
    assert report["frames"] == 120
    rejected = report["rejected"]
    assert rejected["no face"] == {"speaker01_faceless": "in 8 of 8 frames"}
    assert list(rejected["no audio"]) == ["speaker00_mute"]
    assert list(rejected["unreadable"]) == ["speaker02_broken"]
    assert report["sync"] == {"in step": 0, "not sure": 4, "shifted": {}}, "too short to tell"


def test_clips_hold_aligned_crops_landmarks_and_mel(shards: Path) -> None:
    clips = load_clips(shards, "train")
    assert len(clips) == 3
    for clip in clips:
        assert clip.crops.shape == (30, 128, 128, 3)
        assert clip.landmarks.shape == (30, 468, 2)
        assert clip.mel.shape[0] == 80 and abs(clip.mel.shape[1] - 97) <= 6
        assert np.allclose(log_mel(as_float(np.asarray(clip.speech))), clip.mel)
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


def test_a_killed_preparation_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipwire.training.data.prepare.CLIPS_PER_SHARD", 1)
    source = tmp_path / "clips" / "someone"
    source.mkdir(parents=True)
    for name in "abc":
        write_clip(source / f"{name}.mp4", frames=8)
    out = tmp_path / "shards"
    first = prepare(tmp_path / "clips", out, workers=1)
    before = {p.name: p.read_bytes() for p in sorted(out.iterdir())}
    assert len(before) == 3 * 2 + 4
    stamp = (out / "train-0000.tar").stat().st_mtime_ns
    # As a kill leaves it: a shard half written, the later steps not begun.
    (out / "train-0002.tar").rename(out / "train-0002.partial")
    with (out / "train-0002.partial").open("r+b") as file:
        file.truncate(3000)
    for name in ("sync.json", "report.json", "index.npz", "train-0002.json"):
        (out / name).unlink()
    assert prepare(tmp_path / "clips", out, workers=1) == first
    assert {p.name: p.read_bytes() for p in sorted(out.iterdir())} == before
    assert (out / "train-0000.tar").stat().st_mtime_ns == stamp, "a whole shard is not made again"

    with pytest.raises(ConfigError, match="begun with framing stabilised, not box"):
        prepare(tmp_path / "clips", out, PrepareConfig(Rules(framing="box")), workers=1)
    write_clip(source / "d.mp4", frames=8)
    with pytest.raises(ConfigError, match="0 clips that are gone, not 1 that were not there"):
        prepare(tmp_path / "clips", out, workers=1)


def test_shards_of_an_earlier_version_are_read_but_not_added_to(
    shards: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "train-0000.tar", "w") as tar:
        for key, members, about in read_index(shards / "val-0000.tar"):
            for name in ("landmarks.npy", "mel.npy"):
                value = StoredArray(shards / "val-0000.tar", members[name])[:]
                add_member(tar, f"{key}.v1.{name}", value)
            (clip,) = load_clips(shards, "val")
            add_member(tar, f"{key}.v1.crops.npy", clip.crops[:])
            old = {name: about[name] for name in ("path", "speaker", "split", "frames")}
            add_member(tar, f"{key}.v1.json", old)
    (clip,) = load_clips(tmp_path, "train")
    assert len(clip) == 30 and len(clip.speech) == 0
    source = tmp_path / "clips"
    source.mkdir()
    write_clip(source / "a.mp4", frames=8)
    with pytest.raises(ConfigError, match="earlier version"):
        prepare(source, tmp_path, workers=1)


def test_clips_out_of_step_are_moved_or_dropped_once(shards: Path, tmp_path: Path) -> None:
    (path,) = shards.glob("val-*.tar")
    key = next(read_index(path))[0]
    for sync, unsure, off in (
        ("shift", "keep", True),
        ("drop", "keep", True),
        ("shift", "drop", False),
    ):
        out = tmp_path / f"{sync}-{unsure}"
        out.mkdir()
        copy = out / path.name
        copy.write_bytes(path.read_bytes())
        step = {"lag": 3, "confidence": 0.99, "fit": 0.4, "frames": 60, "sure": off, "off": off}
        (out / "sync.json").write_text(json.dumps({key: step}))
        write_json(copy.with_suffix(".json"), {"rejected": {}})
        config = PrepareConfig(sync=sync, unsure=unsure)
        for _ in range(2):  # the second time as after a kill
            _mend_shard((copy, {key: step}), config)
            report = _report(out, config)
            if (sync, unsure) == ("shift", "keep"):
                assert report["kept"] == 1 and report["frames"] == 27
                assert report["sync"]["shifted"] == {key: 3}
            else:
                name = "out of sync" if off else "sync not sure"
                assert report["kept"] == 0 and list(report["rejected"][name]) == [key]


def test_moved_clips_have_the_sound_of_their_frames() -> None:
    speech = np.repeat(np.arange(40, dtype=np.int16), SAMPLES_PER_FRAME)
    crops = np.broadcast_to(np.arange(30, dtype=np.uint8)[:, None, None, None], (30, 4, 4, 3))
    sample = {
        "crops.npy": crops,
        "landmarks.npy": crops[:, 0],
        "speech.npy": speech,
        "json": {"frames": 30, "first_frame": 2},
    }
    for lag in (4, -4):
        moved = shifted(sample, lag)
        picture, sound = moved["crops.npy"][:, 0, 0, 0], moved["speech.npy"][::SAMPLES_PER_FRAME]
        assert len(picture) == 26 == moved["json"]["frames"]
        # What sounded with frame i + lag is what frame i says.
        assert np.array_equal(sound[:26], picture.astype(int) + lag)
    with pytest.raises(Rejected, match="out of sync: by 27 frames"):
        shifted(sample, 27)


@pytest.mark.parametrize("bad", [{"sync": "guess"}, {"unsure": "ask"}])
def test_bad_options_are_refused(bad: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        PrepareConfig(**bad)
    with pytest.raises(ConfigError, match="framing"):
        PrepareConfig(Rules(framing="round"))


def test_a_folder_without_clips_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no talking clips"):
        find_clips(tmp_path)


def test_a_folder_without_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run `lipwire prepare` first"):
        load_clips(tmp_path, "train")
