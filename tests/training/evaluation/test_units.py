"""Figures of the painter alone: bank from the first half, targets from the second."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lipwire.engine.errors import ConfigError
from lipwire.engine.nets.lite import LiteConfig, LiteNet
from lipwire.training.checkpoint import save_checkpoint
from lipwire.training.data.dataset import ClipData, load_clips
from lipwire.training.evaluation.units import WAYS, gradient, main, measure_units, painted, task_of

SMALL = LiteConfig(widths=(8, 16, 24, 32), embed=32, voice_width=32, references=3, told=True)
STATS = np.array([[0.0] * 7, [1.0] * 7], np.float32)


@pytest.fixture(scope="module")
def clip(shards: Path) -> ClipData:
    """A clip of 60 frames: one of the tests' and the same backwards."""
    found = load_clips(shards, "val")[0]
    both = {
        name: np.concatenate([getattr(found, name), getattr(found, name)[::-1]])
        for name in ("crops", "landmarks", "codes")
    }
    return replace(found, **both)


def test_targets_are_far_from_the_bank(clip: ClipData) -> None:
    task = task_of(clip, STATS, 3, told=True)
    closed, unit, _ = task.warm[0].chunk(3, dim=1)
    crops = np.stack([(task.crops.numpy() + 1) * 127.5]).round()[0].astype(np.uint8)
    assert np.array_equal(crops[-1].transpose(1, 2, 0), clip.crops[-1])
    assert torch.equal(unit[:, :, 64:], task.unit)
    assert task.warm[1].shape == task.cold[1].shape == (7, 3, 7)
    first = {np.asarray(c).tobytes() for c in clip.crops[:30]}
    shown = ((closed.numpy() + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)
    assert all(np.ascontiguousarray(picture).tobytes() in first for picture in shown)
    same = task_of(clip, STATS, 2, told=False).warm[0]
    assert torch.equal(same[:, :3], same[:, 3:]), "an untold network is given the unit twice"


def test_an_untrained_network_shows_its_references(clip: ClipData) -> None:
    task = task_of(clip, STATS, 3, told=False)
    net = LiteNet(SMALL).eval()
    share = 3 * np.exp(2.0) / (1 + 3 * np.exp(2.0))  # the references' beside painting's 0
    for way in ("warm", "at 249", "at 499", "499 249"):
        torch.testing.assert_close(painted(net, task, way), share * task.unit, atol=2e-3, rtol=0)
    assert gradient(0.5 * task.unit) == pytest.approx(0.5 * gradient(task.unit), rel=1e-5)


def test_figures_and_strips(clip: ClipData, tmp_path: Path) -> None:
    figures = measure_units(LiteNet(SMALL).eval(), STATS, [clip], tmp_path)
    assert list(figures) == list(WAYS)
    raw = figures.pop("raw")
    assert (raw.error, raw.gradient) == (0, 1), "backwards, every mouth comes again"
    assert all(f.error > 0 and 0 < f.gradient < 1 for f in figures.values())
    assert (tmp_path / f"{clip.key}.png").exists()
    with pytest.raises(ConfigError, match="no clip has 40 frames"):
        measure_units(LiteNet(SMALL).eval(), STATS, [replace(clip, crops=clip.crops[:9])])


def test_the_command_names_its_checkpoint(
    clip: ClipData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "run.pt"
    state = {"ema": LiteNet(SMALL).state_dict(), "net_config": SMALL.to_dict(), "step": 7}
    save_checkpoint({**state, "family": "lite", "code_stats": torch.from_numpy(STATS)}, path)
    monkeypatch.setattr(
        "lipwire.training.evaluation.units.load_clips", lambda folder, split: [clip]
    )
    monkeypatch.setattr(sys, "argv", ["units", "shards", str(path)])
    main()
    assert f"{tmp_path.name}/run 7" in capsys.readouterr().out
