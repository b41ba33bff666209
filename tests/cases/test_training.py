"""Training and export eat what there is: equal names, blanks in lists, anybody's weights."""

from __future__ import annotations

import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import write_clip
from torch import nn

from lipwire.engine.errors import BundleError, CheckpointError
from lipwire.export.checkpoint import read_checkpoint
from lipwire.training.checkpoint import fit_weights, load_checkpoint, weights_of
from lipwire.training.data.layouts import find_clips, guess_layout
from lipwire.training.data.prepare import PrepareConfig, prepare
from lipwire.training.evaluation.lists import read_list


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


# --- two clips never share a key (C97) ---


def test_clips_of_one_name_are_all_kept(tmp_path: Path) -> None:
    source = tmp_path / "ds" / "x"
    source.mkdir(parents=True)
    clip = write_clip(tmp_path / "clip.mp4", 8, size=160)
    for name in ("00001.mp4", "00001.mov", "take 1.mp4", "take_1.mp4"):
        shutil.copy(clip, source / name)
    report = prepare(tmp_path / "ds", tmp_path / "sh", PrepareConfig(sync="off"), workers=1)
    (shard,) = (tmp_path / "sh").glob("train-*.tar")
    with tarfile.open(shard) as tar:
        names = tar.getnames()
    assert report["kept"] == 4 and report["rejected"] == {}
    assert len(names) == len(set(names)) and len({name.split(".")[0] for name in names}) == 4


@pytest.mark.parametrize(
    "names",
    [
        ("a/1.mp4", "a/1.MKV"),
        ("a/b c.mp4", "a/b_c.mp4"),
        ("a.b/1.mp4", "a_b/1.mp4"),
        ("a/b/1.mp4", "a_b/1.mp4"),
        ("a/1.x.mp4", "a/1_x.mp4", "a/1 x.mp4"),
    ],
)
def test_keys_are_apart_and_do_not_depend_on_who_else_is_there(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    clips = find_clips(touch(tmp_path / "s", *names, "z/9.mp4"))
    assert len({clip.key for clip in clips}) == len(names) + 1
    assert {"z_9"} < {clip.key for clip in clips}
    assert all("." not in clip.key and "/" not in clip.key for clip in clips)


@pytest.mark.parametrize(
    "names",
    [
        ("id1.mp4", "id2.mp4"),
        ("id1/a.mp4",),
        ("mp4/a.mp4",),
        ("ann/train/a.mp4",),
        ("id10 best of/x.mp4",),
        ("manifest.csv", "a/b.mp4"),
    ],
)
def test_a_name_decides_no_layout(tmp_path: Path, names: tuple[str, ...]) -> None:
    source = touch(tmp_path / "s", *names)
    if "manifest.csv" in names:
        (source / "manifest.csv").write_text("id,file\n1,b.mp4\n")
    assert guess_layout(source) == "folders"
    assert len(find_clips(source)) == sum(name.endswith(".mp4") for name in names)


# --- blanks in lists (C98) ---


@pytest.mark.parametrize(
    ("line", "audio", "video"),
    [
        ("k one.mp4", "k one.mp4", "k one.mp4"),
        ("k one", "k one.mp4", "k one.mp4"),
        ("two words.wav k one.mp4", "two words.wav", "k one.mp4"),
        ("plain.mp4 k one.mp4", "plain.mp4", "k one.mp4"),
        ("plain.mp4 plain.mp4", "plain.mp4", "plain.mp4"),
    ],
)
def test_names_with_blanks(tmp_path: Path, line: str, audio: str, video: str) -> None:
    root = touch(tmp_path / "r", "k one.mp4", "two words.wav", "plain.mp4")
    (tmp_path / "list.txt").write_text(line + "\n")
    _, (pair,) = read_list(tmp_path / "list.txt", root)
    assert (pair.audio.name, pair.video.name) == (audio, video)


def test_pairs_of_a_list_do_not_share_a_key(tmp_path: Path) -> None:
    root = touch(tmp_path / "r", "a/b.mp4", "a__b.mp4")
    (tmp_path / "list.txt").write_text("a/b.mp4\na__b.mp4\na/b.mp4\n")
    _, pairs = read_list(tmp_path / "list.txt", root)
    assert len(pairs) == 2 and len({pair.key for pair in pairs}) == 2


# --- anybody's weights (C89, C91, C100) ---


class Net(nn.Module):
    """Small, with names in two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 2)


STATE = Net().state_dict()
OTHER = {"disc.weight": torch.ones(9, 9), "disc.bias": torch.ones(9)}


def under(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in STATE.items()}


DUMPS: dict[str, Any] = {
    "bare": STATE,
    **{
        key: {key: STATE, "epoch": 3}
        for key in (*"state_dict model generator net_g G params weights".split(), "anything at all")
    },
    "ema beside weights": {"model": {k: v * 0 for k, v in STATE.items()}, "model_ema": STATE},
    "params_ema": {"params": {k: v * 0 for k, v in STATE.items()}, "params_ema": STATE},
    "nested": {"state": {"ema": STATE, "step": 5}},
    "GAN": {
        "generator": STATE,
        "discriminator": {**OTHER, **under("d")},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
    },
    **{
        f"prefix {p}": {"state_dict": under(p)}
        for p in (
            "module.",
            "_orig_mod.",
            "module._orig_mod.",
            "_orig_mod.module.",
            "net.",
            "model.net.",
            "generator.",
            "module.generator.",
        )
    },
    "compiled part": {
        f"body._orig_mod.{k[5:]}" if k.startswith("body.") else k: v for k, v in STATE.items()
    },
    "Lightning with others": {"state_dict": {**under("net."), **OTHER}, "callbacks": {}},
}


@pytest.mark.parametrize("name", sorted(DUMPS))
def test_weights_are_found_under_any_key(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.pth"
    torch.save(DUMPS[name], path)
    exported, trained = Net(), Net()
    read_checkpoint(path).fill(exported)
    fit_weights(trained, weights_of(load_checkpoint(path)), path)
    for net in (exported, trained):
        assert all(torch.equal(net.state_dict()[key], value) for key, value in STATE.items())


def test_a_file_without_weights_names_what_it_has(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "args": {"lr": 0.1}}, tmp_path / "c.pth")
    with pytest.raises(BundleError, match=r"holds no tensors, but epoch \(int\), args \(dict\)"):
        read_checkpoint(tmp_path / "c.pth")


def test_torchscript_is_told_how_to_convert(tmp_path: Path) -> None:
    path = tmp_path / "Wav2Lip-SD-GAN.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Sequential(nn.Linear(3, 2))).save(str(path))
    for read, error in ((read_checkpoint, BundleError), (load_checkpoint, CheckpointError)):
        reader: Callable[[Path], object] = read
        with pytest.raises(error, match=r"TorchScript.*torch\.jit\.load") as caught:
            reader(path)
        assert "\n" not in str(caught.value)
