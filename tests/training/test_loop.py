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
from training.config import PRESETS, TrainConfig
from training.data import Clips
from training.loop import Trainer, compute_losses, learning_rate, train, visited_timesteps

SMALL = LiteConfig(widths=(8, 16, 24, 32), embed=32, voice_width=32)
CONFIG = replace(PRESETS["smoke"], steps=6, checkpoint_every=3, sample_every=6)


def test_a_killed_run_goes_on_with_the_same_curve(shards: Path, tmp_path: Path) -> None:
    clips = Clips(shards, "train")
    whole = Trainer(tmp_path / "whole", CONFIG, clips, SMALL)
    curve = [whole.run_step() for _ in range(6)]
    killed = Trainer(tmp_path / "killed", CONFIG, clips, SMALL)
    for _ in range(3):
        killed.run_step()
    killed.save()
    killed.run_step()  # lost with the kill
    resumed = Trainer(tmp_path / "killed", CONFIG, clips, SMALL)
    assert resumed.step == 3
    assert [resumed.run_step() for _ in range(3)] == curve[3:]
    for a, b in zip(whole.ema.parameters(), resumed.ema.parameters(), strict=True):
        assert torch.equal(a, b)


def test_resuming_with_other_settings_is_refused(shards: Path, tmp_path: Path) -> None:
    clips = Clips(shards, "train")
    Trainer(tmp_path, CONFIG, clips, SMALL).save()
    with pytest.raises(ConfigError, match="learning_rate"):
        Trainer(tmp_path, replace(CONFIG, learning_rate=0.1), clips, SMALL)
    with pytest.raises(ConfigError, match="network"):
        Trainer(tmp_path, CONFIG, clips, LiteConfig())
    Trainer(tmp_path, replace(CONFIG, steps=100), clips, SMALL)  # a longer run is fine


def test_train_learns_and_leaves_its_records(shards: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40, sample_every=40, checkpoint_every=20, learning_rate=3e-3)
    trainer = train(shards, tmp_path, config, SMALL)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 41))
    first, last = (np.mean([x["total"] for x in part]) for part in (lines[:8], lines[-8:]))
    assert last < first
    sheet = cv2.imread(str(tmp_path / "samples-000040.png"))
    assert sheet.shape == (6 * 128, 10 * 128, 3) and sheet.std() > 10
    assert list((tmp_path / "tensorboard").iterdir())
    assert trainer.checkpoint_path.exists() and not list(tmp_path.glob("*.partial"))
    gain = trainer.ema.voice.gain
    assert float(gain.min()) >= 1 and float(gain.max()) > 1, "an unsure voice is turned up"
    # Killed after its last checkpoint: what it logged since is logged again, not twice.
    with (tmp_path / "stats.jsonl").open("a") as file:
        file.write(json.dumps({"step": 41}) + "\n" + '{"step": 4')
    train(shards, tmp_path, replace(config, steps=42), SMALL)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 43))


def test_the_painter_does_not_train_the_voice(shards: Path, tmp_path: Path) -> None:
    clips = Clips(shards, "train")
    trainer = Trainer(tmp_path, CONFIG, clips, SMALL)
    batch = clips.batch(2, 4, np.random.default_rng(0), False)
    silent = replace(CONFIG, code_weight=0.0)
    compute_losses(trainer.net, batch, silent, 0).total.backward()
    grads = [p.grad for p in trainer.net.voice.parameters()]
    assert all(g is None or float(g.abs().max()) == 0 for g in grads)
    assert any(p.grad is not None for p in trainer.net.denoiser.parameters())


def test_levels_are_those_that_sampling_visits() -> None:
    levels = visited_timesteps(8)
    values, counts = np.unique(levels, return_counts=True)
    assert values.tolist() == [124, 249, 374, 499, 624, 749, 874, 999]
    assert counts[-1] == 4, "every step count begins at pure noise"
    assert len(visited_timesteps(0)) == 1000


def test_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(steps=1000, warmup=100, learning_rate=1e-3)
    rates = [learning_rate(config, s) for s in range(1000)]
    assert rates[0] == pytest.approx(1e-5) and max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(5e-5, rel=0.1)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"learning_rate": 2.0}, {"ema": 1.0}])
def test_bad_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        replace(TrainConfig(), **bad)
