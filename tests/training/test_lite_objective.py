from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.errors import ConfigError
from engine.nets.lite import LiteConfig
from training.config import PRESETS, LiteRecipe
from training.data import Clips
from training.lite_objective import LiteObjective, compute_losses, train_lite
from training.loop import Trainer

SMALL = LiteConfig(widths=(8, 16, 24, 32), embed=32, voice_width=32)
CONFIG = replace(PRESETS["smoke"].train, steps=6, checkpoint_every=3, sample_every=6)
RECIPE = LiteRecipe(voices=16)


def trainer(shards: Path, folder: Path) -> Trainer:
    objective = LiteObjective(Clips(shards, "train"), CONFIG, RECIPE, SMALL)
    return Trainer(folder, CONFIG, objective)


def test_a_killed_run_goes_on_with_the_same_curve(shards: Path, tmp_path: Path) -> None:
    whole = trainer(shards, tmp_path / "whole")
    curve = [whole.run_step() for _ in range(4)]
    killed = trainer(shards, tmp_path / "killed")
    for _ in range(2):
        killed.run_step()
    killed.save()
    killed.run_step()  # lost with the kill
    resumed = trainer(shards, tmp_path / "killed")
    assert resumed.step == 2
    assert [resumed.run_step() for _ in range(2)] == curve[2:]
    for a, b in zip(whole.ema.parameters(), resumed.ema.parameters(), strict=True):
        assert torch.equal(a, b)


def test_train_learns_and_leaves_its_records(shards: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40, sample_every=40, checkpoint_every=20, learning_rate=3e-3)
    run = train_lite(shards, tmp_path, config, RECIPE, SMALL)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 41))
    first, last = (np.mean([x["total"] for x in part]) for part in (lines[:8], lines[-8:]))
    assert last < first
    sheet = cv2.imread(str(tmp_path / "samples-000040.png"))
    assert sheet.shape == (6 * 128, 10 * 128, 3) and sheet.std() > 10
    assert list((tmp_path / "tensorboard").iterdir())
    assert run.checkpoint_path.exists() and not list(tmp_path.glob("*.partial"))
    gain = run.ema.voice.gain
    assert float(gain.min()) >= 1 and float(gain.max()) > 1, "an unsure voice is turned up"


def test_the_painter_does_not_train_the_voice(shards: Path) -> None:
    clips = Clips(shards, "train")
    net = LiteObjective(clips, CONFIG, RECIPE, SMALL).net
    batch = clips.batch(2, 4, np.random.default_rng(0), False)
    silent = replace(RECIPE, code_weight=0.0)
    compute_losses(net, batch, silent, torch.Generator().manual_seed(0)).total.backward()
    grads = [p.grad for p in net.voice.parameters()]
    assert all(g is None or float(g.abs().max()) == 0 for g in grads)
    assert any(p.grad is not None for p in net.denoiser.parameters())


def test_a_recipe_without_voices_is_refused() -> None:
    with pytest.raises(ConfigError, match="voices"):
        LiteRecipe(voices=0)
