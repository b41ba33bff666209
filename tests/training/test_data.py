from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from training.data import (
    Clips,
    augment_mel,
    augment_pair,
    load_clips,
    other_frame,
    with_degraded_sound,
)


def test_a_batch_is_a_function_of_its_seed(shards: Path) -> None:
    clips = Clips(shards, "train")
    a, b, c = (clips.batch(3, 5, np.random.default_rng(s), True) for s in (1, 1, 2))
    assert np.array_equal(a.crops, b.crops) and np.array_equal(a.voice_mels, b.voice_mels)
    assert not np.array_equal(a.crops, c.crops)


def test_shapes_and_ranges(shards: Path) -> None:
    batch = Clips(shards, "train").batch(3, 5, np.random.default_rng(0), True)
    assert batch.crops.shape == batch.references.shape == (3, 3, 128, 128)
    assert batch.mels.shape == (3, 80, 16) and batch.voice_mels.shape == (8, 80, 16)
    assert batch.codes.shape == (3, 7) and batch.voice_codes.shape == (8, 7)
    assert batch.weights.shape == (3, 1, 64, 128)
    assert np.abs(batch.weights.mean((1, 2, 3)) - 1).max() < 0.2
    assert np.abs(batch.crops).max() <= 1 and np.abs(batch.voice_mels).max() <= 4


def test_the_reference_is_another_frame() -> None:
    rng = np.random.default_rng(0)
    codes = np.zeros((40, 7), np.float32)
    for index in (0, 20, 39):
        drawn = {other_frame(codes, index, rng) for _ in range(200)}
        assert min(abs(d - index) for d in drawn) >= 4


def test_the_reference_prefers_another_mouth() -> None:
    rng = np.random.default_rng(0)
    codes = np.zeros((40, 7), np.float32)
    codes[20:, 0] = 5
    drawn = [other_frame(codes, 2, rng) for _ in range(100)]
    assert np.mean([codes[d, 0] == 5 for d in drawn]) > 0.85


def test_augmentation_stays_in_range_and_treats_the_pair_alike() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(100, 140, (128, 128, 3), np.uint8)
    for _ in range(20):
        mel = augment_mel(rng.uniform(-4, 4, (80, 16)).astype(np.float32), rng)
        assert np.abs(mel).max() <= 4 and mel.dtype == np.float32
        crop, reference, weight = augment_pair(image, image, np.ones((128, 128), np.float32), rng)
        middle = np.s_[32:96, 32:96]
        assert abs(float(crop[middle].mean()) - float(reference[middle].mean())) < 4
        assert weight.shape == (128, 128)


def test_degraded_sound_stays_in_its_place(shards: Path) -> None:
    clip = load_clips(shards, "train")[0]
    changed = 0
    for seed in range(12):
        heard, again = (
            with_degraded_sound(clip, 12, 5, np.random.default_rng(seed)) for _ in range(2)
        )
        assert np.array_equal(heard.mel, again.mel) and heard.crops is clip.crops
        assert heard.mel.shape == clip.mel.shape and np.abs(heard.mel).max() <= 4
        changed += not np.allclose(heard.mel, clip.mel)
        # The clip's rise and fall is still where it was: loudness of frames, seen through the rest.
        a, b = (mel.mean(0) - mel.mean() for mel in (clip.mel, heard.mel))
        lags = [float((np.roll(b, -lag) * a).sum()) for lag in range(-8, 9)]
        assert abs(int(np.argmax(lags)) - 8) <= 1
    assert changed == 12
    assert with_degraded_sound(replace(clip, speech=clip.speech[:0]), 12, 5,
                               np.random.default_rng(0)).mel is clip.mel  # fmt: skip


def test_only_the_sound_around_the_frames_changes(shards: Path) -> None:
    clip = load_clips(shards, "train")[0]
    long = replace(clip, mel=np.tile(clip.mel, 5), speech=np.tile(clip.speech[: 30 * 640], 5))
    heard = with_degraded_sound(long, 75, 5, np.random.default_rng(0))
    same = (heard.mel == long.mel).all(0)
    assert same[: 50 * 80 // 25].all() and same[(75 + 55) * 80 // 25 + 4 :].all()
    assert not same[75 * 80 // 25 : 80 * 80 // 25].any()
