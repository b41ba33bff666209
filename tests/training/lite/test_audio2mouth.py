"""The voice branch: targets in the speaker's own units, silence, and what it is turned into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lipwire.engine.audio.mel import MAX_ABS
from lipwire.engine.errors import ConfigError
from lipwire.engine.nets.lite import LiteConfig
from lipwire.training.config import VOICE, VoiceRecipe
from lipwire.training.data.augment_audio import louder_or_noisier
from lipwire.training.data.batch import Slot
from lipwire.training.data.dataset import Clips
from lipwire.training.lite.audio2mouth import (
    Audio2MouthObjective,
    MelSource,
    speakers_of,
    voiceless,
)
from lipwire.training.loop import Trainer

SMALL = LiteConfig(voice_width=32)
CONFIG = replace(VOICE, steps=60, batch=32, sample_every=60, learning_rate=3e-3, warmup=5)


def test_speakers_are_measured_each_by_itself(shards: Path) -> None:
    clips = Clips(shards, "train")
    found = speakers_of(clips)
    assert set(found) == {clip.speaker for clip in clips.clips}
    name = clips.clips[0].speaker
    own = np.concatenate([c.codes for c in clips.clips if c.speaker == name])
    assert found[name].least[0] == pytest.approx(np.percentile(own[:, 0], 5))
    assert (found[name].least[2:] == 0).all(), "those are taken from the clip's median already"
    assert (found[name].spread > own.std(0)).all()


def test_a_draw_is_a_function_of_seed_and_step(shards: Path) -> None:
    source = MelSource(Clips(shards, "train"), 16, 24, VoiceRecipe(), seed=0)
    a, b, c = (source.draw(step, Slot()) for step in (3, 3, 4))
    assert torch.equal(a.mels, b.mels) and not torch.equal(a.mels, c.mels)
    assert a.mels.shape == (16, 80, 24) and a.codes.shape == (16, 7)
    assert float(a.mels.abs().max()) <= MAX_ABS


def test_silence_asks_for_a_shut_mouth(shards: Path) -> None:
    source = MelSource(Clips(shards, "train"), 64, 24, VoiceRecipe(silence=0.99), seed=0)
    codes = source.draw(0, Slot()).codes
    shut = torch.from_numpy(source.shut)
    assert (codes == shut).all(1).float().mean() > 0.9
    assert float(shut[0]) < 0.15 or (np.concatenate(source.targets)[:, 0] >= 0.15).all()


def test_sounds_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        for mel in (voiceless(24, rng), louder_or_noisier(voiceless(24, rng), 6.0, rng)):
            assert mel.shape == (80, 24) and mel.dtype == np.float32
            assert np.abs(mel).max() <= MAX_ABS


def test_a_killed_run_goes_on_exactly(shards: Path, tmp_path: Path) -> None:
    def trainer(folder: Path) -> Trainer:
        clips = Clips(shards, "train")
        return Trainer(folder, CONFIG, Audio2MouthObjective(clips, CONFIG, VoiceRecipe(), SMALL))

    whole = trainer(tmp_path / "whole")
    curve = [whole.run_step() for _ in range(4)]
    killed = trainer(tmp_path / "killed")
    killed.run_step(), killed.run_step()
    killed.save()
    resumed = trainer(tmp_path / "killed")
    assert [resumed.run_step() for _ in range(2)] == curve[2:]


def test_a_recipe_of_silence_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="silence"):
        VoiceRecipe(silence=1.0)
