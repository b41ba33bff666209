from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lipwire.training.data.dataset import load_clips, other_frame, with_degraded_sound


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
