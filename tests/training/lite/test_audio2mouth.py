"""The voice branch: lessons, streams, targets in the speaker's own units, the whole run."""

from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lipwire.engine.audio.mel import MAX_ABS, SILENCE, log_mel, window_start
from lipwire.engine.errors import ConfigError
from lipwire.engine.media.sound import as_float
from lipwire.engine.nets.lite import LiteConfig
from lipwire.engine.types import F32
from lipwire.training.checkpoint import load_checkpoint
from lipwire.training.config import VOICE, VoiceRecipe
from lipwire.training.data.batch import Slot
from lipwire.training.data.dataset import Clips
from lipwire.training.lite.audio2mouth import (
    MAX_GAIN,
    correlations,
    speakers_of,
    spreads_of,
    train_voice,
)
from lipwire.training.lite.lessons import Lesson, prepare_lessons, read_speech_folder
from lipwire.training.lite.streams import StreamSource, time_of, voiceless

SMALL = LiteConfig(mel_columns=16, voice_width=32, voice_taps=(3, 3), voice_lips=True)
CONFIG = replace(
    VOICE, steps=40, batch=8, sample_every=40, learning_rate=3e-3, warmup=5, precision="no"
)
RECIPE = VoiceRecipe(heard_steps=20, lips_steps=40, moments=20, silence=0.1)


class Ear:
    """A teacher of eight features a layer; counts what it hears."""

    def __init__(self) -> None:
        self.heard = 0

    def listen(self, samples: F32) -> F32:
        self.heard += 1
        mel = log_mel(samples)[:, ::2]
        rows = mel.T[np.minimum(np.arange(len(samples) // 320) * 4 // 5, mel.shape[1] - 1)]
        return np.concatenate([rows[:, 8:16], rows[:, 40:48] ** 2], 1)


def test_speakers_are_measured_each_by_itself(shards: Path) -> None:
    clips = Clips(shards, "train")
    found = speakers_of(clips)
    assert set(found) == {clip.speaker for clip in clips.clips}
    name = clips.clips[0].speaker
    own = np.concatenate([c.codes for c in clips.clips if c.speaker == name])
    assert found[name].least[0] == pytest.approx(np.percentile(own[:, 0], 5))
    assert (found[name].least[2:] == 0).all(), "those are taken from the clip's median already"
    assert (found[name].spread > own.std(0)).all()


def source(mels: list[F32], frames: int = 60, **changes: float) -> StreamSource:
    """Of clips whose codes and features count their frames and fiftieths of a second."""
    lessons = [
        Lesson((m.astype(np.float16),), np.repeat(np.arange(2.0 * frames)[:, None], 128, 1))
        for m in mels
    ]
    codes = [np.repeat(np.arange(frames, dtype=np.float32)[:, None], 7, 1)] * len(mels)
    recipe = replace(VoiceRecipe(moments=30), **changes)
    return StreamSource(
        lessons, codes, [], np.full(7, -1, np.float32), recipe, batch=16, columns=24, seed=0
    )


def test_a_moment_is_the_picture_whose_window_ends_there() -> None:
    """Otherwise the voice would learn to speak early or late."""
    for frame in range(1, 40):
        last = window_start(frame) + 15
        assert abs(time_of(np.array([last], float))[0] - frame / 25) <= 0.5 / 80 + 1e-9
    # A loud column, of which it is known what picture it belongs to.
    mel = np.full((80, 200), SILENCE, np.float32)
    mel[:, 100] = 1
    drawn = source([mel], silence=0.0, gain_db=0.0)
    rows = [row for step in range(6) for row in zip(*drawn.draw(step, Slot()), strict=True)]
    wanted = time_of(np.array([100.0]))[0] * 25
    found = 0
    for sound, codes, seen, taught, told in rows:
        for moment in torch.nonzero(seen & told).flatten().tolist():
            assert float(taught[moment, 0]) == pytest.approx(2 * float(codes[moment, 0]), abs=1e-2)
            if float(sound[40, 23 + 2 * moment]) > -1:
                assert float(codes[moment, 0]) == pytest.approx(wanted, abs=1e-3)
                found += 1
    assert found >= 5


def test_draws_follow_from_seed_and_step_and_the_silent_are_shut() -> None:
    rng = np.random.default_rng(0)
    mels = [rng.uniform(-4, 4, (80, n)).astype(np.float32) for n in (60, 300)]
    drawn = source(mels)
    a, b, c = (drawn.draw(step, Slot()) for step in (3, 3, 4))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a.mels, c.mels)
    assert a.mels.shape == (16, 80, 24 + 2 * 29) and a.codes.shape == (16, 30, 7)
    assert float(a.mels.abs().max()) <= MAX_ABS
    silent = source(mels, silence=0.99).draw(0, Slot())
    shut = (silent.codes == -1).all(2).all(1)
    assert float(shut.float().mean()) > 0.9
    assert not silent.told[shut].any() and silent.seen[shut].all()
    for _ in range(20):
        floor = voiceless(24, rng)
        assert floor.shape == (80, 24) and np.abs(floor).max() <= MAX_ABS


def test_the_teacher_hears_each_sound_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sounds = [rng.integers(-9000, 9000, 16_000 + 320 * n).astype(np.int16) for n in range(6)]
    ear = Ear()
    first = prepare_lessons(tmp_path, sounds[:4], ear)
    heard = ear.heard
    again = prepare_lessons(tmp_path, sounds[:4], ear)
    assert ear.heard == heard, "all were there"
    more = prepare_lessons(tmp_path, sounds, ear)
    assert ear.heard == heard + 2
    for one, two, three in zip(first, again, more, strict=False):
        assert len(one.mels) == 4 and one.mels[0].shape[0] == 80
        np.testing.assert_array_equal(one.taught, two.taught)
        np.testing.assert_array_equal(one.mels[2], three.mels[2])
    np.testing.assert_allclose(first[0].mels[0], log_mel(as_float(sounds[0])), atol=4e-3)


def speech_folder(folder: Path, seconds: float = 1.5) -> Path:
    (folder / "en").mkdir(parents=True)
    times = np.arange(int(seconds * 16_000)) / 16_000
    sound = (8000 * np.sin(2 * np.pi * 200 * times) * (1 + np.sin(9 * times))).astype(np.int16)
    with wave.open(str(folder / "en" / "a.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16_000)
        file.writeframes(sound.tobytes())
    (folder / "en" / "broken.mp3").write_bytes(b"no sound")
    (folder / "notes.txt").write_text("not speech")
    return folder


def test_long_recordings_are_cut_and_a_folder_without_speech_is_named(tmp_path: Path) -> None:
    pieces = read_speech_folder(speech_folder(tmp_path / "speech", 25.0))
    assert [round(len(piece) / 16_000) for piece in pieces] == [12, 12, 1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no speech"):
        read_speech_folder(tmp_path / "empty")


def test_train_learns_goes_on_after_a_kill_and_turns_the_voice_up(
    shards: Path, tmp_path: Path
) -> None:
    speech, ear = speech_folder(tmp_path / "speech"), Ear()

    def run(steps: int) -> tuple[F32, dict[str, float], int]:
        trainer, figures = train_voice(
            shards,
            tmp_path / "run",
            replace(CONFIG, steps=steps),
            RECIPE,
            SMALL,
            speech=speech,
            teacher=ear,
        )
        return trainer.ema.gain.numpy().copy(), figures, trainer.step

    gain, figures, step = run(40)
    heard = ear.heard
    again, same, _ = run(40)
    assert step == 40 and same == figures and (again == gain).all() and ear.heard == heard
    assert set(figures) == {"opening_r", "mean_r"}
    for folder in (tmp_path / "run" / "heard", tmp_path / "run" / "mouths", tmp_path / "run"):
        lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
        curve = [line["total"] for line in lines if "total" in line]
        assert np.mean(curve[-5:]) < np.mean(curve[:5])
    mouths, ended = (
        load_checkpoint(folder / "checkpoint.pt")["ema"]
        for folder in (tmp_path / "run" / "mouths", tmp_path / "run")
    )
    for name, value in mouths.items():
        assert torch.equal(value, ended[name]) != name.startswith("lips."), name
    assert float(ended["lips.follow"][0]) == pytest.approx(1), "the opening follows itself"
    clips = Clips(shards, "train")
    typical = np.median([s.spread for s in speakers_of(clips).values()], axis=0)
    raised = gain * clips.code_stats[1] / typical
    assert (raised > 1 - 1e-4).all() and (raised < MAX_GAIN + 1e-4).all()
    assert len(spreads_of(clips)) == len(clips.clips)


def test_a_recipe_of_silence_alone_is_refused() -> None:
    for wrong in ({"silence": 1.0}, {"film": -0.1}, {"moments": 0}, {"lips_steps": 0}):
        with pytest.raises(ConfigError):
            VoiceRecipe(**wrong)


def test_figures_are_a_number_for_each_code(shards: Path, tmp_path: Path) -> None:
    from lipwire.engine.nets.lite import make_voice

    torch.manual_seed(0)
    voice = make_voice(SMALL)
    assert correlations(voice, Clips(shards, "train")).shape == (7,)
