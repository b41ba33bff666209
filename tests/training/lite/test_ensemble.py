"""A voice that learns from several: what they say together, and the whole run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lipwire.engine.audio.mel import MAX_ABS, WINDOW_COLUMNS, window, window_start
from lipwire.engine.errors import ConfigError
from lipwire.engine.nets.lite import LiteConfig, Voice
from lipwire.training.config import VOICE, VoiceRecipe
from lipwire.training.data.batch import Slot
from lipwire.training.data.dataset import Clips
from lipwire.training.lite.audio2mouth import MAX_GAIN, correlations, speakers_of
from lipwire.training.lite.ensemble import (
    FRAME_COLUMNS,
    EnsembleSource,
    ensemble_targets,
    train_voice,
)

SMALL = LiteConfig(voice_width=32)
CONFIG = replace(VOICE, steps=60, batch=32, sample_every=60, learning_rate=3e-3, warmup=5)


def voices(count: int) -> list[Voice]:
    torch.manual_seed(0)
    return [Voice(SMALL).eval() for _ in range(count)]


def test_together_is_the_mean_at_every_column_smoothed_over_a_frame() -> None:
    mel = np.random.default_rng(0).uniform(-4, 4, (80, 90)).astype(np.float32)
    both = voices(2)
    said = ensemble_targets(both, mel)
    assert said.shape == (90, 7)

    def alone(column: int) -> torch.Tensor:
        heard = torch.from_numpy(window(mel, column - 12, 24)[None] / MAX_ABS)
        with torch.no_grad():
            return sum(voice.layers(heard)[0] for voice in both) / 2

    wanted = 0.25 * alone(40 - FRAME_COLUMNS) + 0.5 * alone(40) + 0.25 * alone(40 + FRAME_COLUMNS)
    np.testing.assert_allclose(said[40], wanted, atol=1e-6)


def test_the_moment_of_a_frame_is_the_window_that_a_voice_is_given_for_it(shards: Path) -> None:
    """Otherwise the last voice would learn to speak early or late."""
    clips = Clips(shards, "train")
    source = EnsembleSource(clips, 8, VoiceRecipe(), 0, voices(1))
    mel = np.asarray(clips.clips[0].mel)
    frame = 5
    start = window_start(frame) - (24 - WINDOW_COLUMNS)
    heard = torch.from_numpy(window(mel, start, 24)[None] / MAX_ABS)
    own = ensemble_targets(voices(1), mel)
    with torch.no_grad():
        near = voices(1)[0].layers(heard)[0].numpy()
    column = start + 12
    others = own[[column - FRAME_COLUMNS, column + FRAME_COLUMNS]]
    assert np.abs(own[column] - near).max() <= np.abs(others - near).max() + 1e-5
    a, b = (source.draw(3, Slot()) for _ in range(2))
    assert torch.equal(a.mels, b.mels) and a.mels.shape == (8, 80, 24) and a.codes.shape == (8, 7)


def test_several_voices_teach_one(shards: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=20, sample_every=20)
    trainer, figures = train_voice(shards, tmp_path, config, VoiceRecipe(together=2), SMALL)
    assert trainer.step == 40 and set(figures) == {"opening_r", "mean_r"}
    made = [tmp_path / name / "checkpoint.pt" for name in (".", "voice-0", "voice-1")]
    assert all(path.exists() for path in made)
    again, same = train_voice(shards, tmp_path, config, VoiceRecipe(together=2), SMALL)
    assert same == figures and again.step == 40
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    curve = [line["total"] for line in lines if "total" in line]
    assert np.mean(curve[-5:]) < np.mean(curve[:5])


def test_train_learns_and_turns_the_voice_up(shards: Path, tmp_path: Path) -> None:
    trainer, figures = train_voice(shards, tmp_path, CONFIG, VoiceRecipe(together=1), SMALL)
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    curve = [line["total"] for line in lines if "total" in line]
    first, last = np.mean(curve[:10]), np.mean(curve[-10:])
    assert last < first
    assert set(figures) == {"opening_r", "mean_r"}
    voice, clips = trainer.ema, Clips(shards, "train")
    typical = np.median([s.spread for s in speakers_of(clips).values()], axis=0)
    raised = voice.gain.numpy() * clips.code_stats[1] / typical
    assert (raised > 1 - 1e-4).all() and (raised < MAX_GAIN + 1e-4).all()
    assert correlations(voice, clips).shape == (7,)


def test_a_choir_of_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match="together"):
        VoiceRecipe(together=0)
