"""What is kept of a run is enough to go on from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lipwire.engine.errors import CheckpointError
from lipwire.engine.nets.lite import LiteConfig, LiteNet
from lipwire.training.checkpoint import load_checkpoint, save_checkpoint
from lipwire.training.config import PRESETS, LiteRecipe
from lipwire.training.families import open_network
from lipwire.training.lean import lean, samples_seen
from lipwire.training.lite.denoiser import train_lite

SMALL = LiteConfig(widths=(8, 16, 24, 32), embed=32, voice_width=32, references=3, told=True)
RECIPE = LiteRecipe(gan_start=0, shape_warmup=1, unit_starts=1 / 3)
CONFIG = replace(PRESETS["smoke"].train, steps=2, batch=6, learning_rate=1e-9, weight_decay=0.0)


def test_a_kept_run_is_gone_on_from(shards: Path, tmp_path: Path) -> None:
    voice, kept = tmp_path / "voice.pt", tmp_path / "kept.pt"
    save_checkpoint({"ema": LiteNet(SMALL).voice.state_dict()}, voice)
    first = train_lite(shards, tmp_path / "first", CONFIG, RECIPE, SMALL, voice=voice)
    save_checkpoint(lean(load_checkpoint(first.checkpoint_path)), kept)
    assert kept.stat().st_size < 0.3 * first.checkpoint_path.stat().st_size
    opened = open_network(kept)
    for a, b in zip(opened.net.parameters(), first.ema.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    config = replace(CONFIG, steps=1)
    again = train_lite(shards, tmp_path / "again", config, RECIPE, SMALL, voice=voice, init=kept)
    state = load_checkpoint(again.checkpoint_path)
    assert samples_seen(state) == 3 * 6
    assert torch.equal(state["code_stats"], load_checkpoint(first.checkpoint_path)["code_stats"])
    for name, value in load_checkpoint(first.checkpoint_path)["critic"].items():
        torch.testing.assert_close(state["critic"][name], value, rtol=0.1, atol=5e-3)


def test_what_is_no_run_is_refused() -> None:
    with pytest.raises(CheckpointError, match="has no ema, family"):
        lean({"weights": {}})
