from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import clip, five_frames

from lipwire.engine.errors import ConfigError
from lipwire.training.data.batch import FiveFrames, NoisedClips, Slot, in_fives, stack, sync_window
from lipwire.training.data.dataset import ClipData, StoredClips, load_clips


def numbered(length: int) -> ClipData:
    """Every frame and every column shows its number."""
    crops = np.repeat(np.arange(length, dtype=np.uint8), 32 * 32 * 3).reshape(length, 32, 32, 3)
    mel = np.tile(np.arange(length * 4, dtype=np.float32), (80, 1))
    return replace(clip(0, frames=length), crops=crops, mel=mel)


def test_five_consecutive_frames_and_their_sound() -> None:
    one = numbered(60)
    sample = FiveFrames([one], 32).at(one, 10, 40)
    shown = (sample.frames[:, 0, 0, 0] + 1) * 127.5
    assert shown.round().tolist() == [10, 11, 12, 13, 14]
    assert round(float((sample.references[0, 0, 0] + 1) * 127.5)) == 40
    # Window of frame k: 16 columns from int(80 (k - 1) / 25).
    assert sample.mels[:, 0, 0].tolist() == [28, 32, 35, 38, 41]
    assert sample.mels.shape == (5, 80, 16)
    assert sample.sync_mels[0].tolist() == list(range(32, 48)), "200 ms from frame 10 on"
    assert sync_window(one, 10)[0, 0] == 32


def test_mirroring_takes_frames_and_reference_alike() -> None:
    frames = five_frames()
    one = frames.clips[0]
    plain, mirrored = frames.at(one, 3, 20), frames.at(one, 3, 20, mirrored=True)
    torch.testing.assert_close(plain.frames.flip(-1), mirrored.frames)
    torch.testing.assert_close(plain.references.flip(-1), mirrored.references)
    assert torch.equal(plain.mels, mirrored.mels)


def test_the_reference_is_none_of_the_five() -> None:
    for length in (6, 8, 60):
        frames = FiveFrames([numbered(length)], 32, mirror=False)
        for seed in range(30):
            sample = frames.sample(np.random.default_rng(seed))
            assert not any(torch.equal(sample.references, frame) for frame in sample.frames)


def test_the_paper_draws_any_other_frame_and_mirrors_none() -> None:
    frames = FiveFrames([numbered(12)], 32, plain=True)
    frames.at = lambda clip, first, reference, mirrored=False: (first, reference, mirrored)  # type: ignore[assignment, method-assign, misc, return-value]
    drawn = [frames.sample(np.random.default_rng(seed)) for seed in range(2000)]
    counts = np.zeros((8, 12), int)
    for first, reference, mirrored in drawn:  # type: ignore[misc]
        assert not mirrored
        counts[first, reference] += 1  # type: ignore[index]
    for first, row in enumerate(counts):
        inside = slice(first, first + 5)
        assert row[inside].sum() == 0 and np.delete(row, inside).min() > 15, "each of the seven"


def test_clips_without_a_sixth_frame_are_left_out() -> None:
    short = clip(3, frames=5)
    assert FiveFrames([short, clip(0)], 32).long.tolist() == [1]
    with pytest.raises(ConfigError, match="no clip has 6 frames"):
        FiveFrames([short], 32)


def test_stored_clips_are_the_loaded_ones(shards: Path) -> None:
    stored, loaded = StoredClips(shards, "train"), load_clips(shards, "train")
    assert len(stored) == len(loaded) and stored.lengths.tolist() == [len(c) for c in loaded]
    assert stored[-1].key == loaded[-1].key and len(stored[:2]) == 2
    ours, theirs = (FiveFrames(c, 32).sample(np.random.default_rng(3)) for c in (stored, loaded))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(ConfigError, match="run `lipwire prepare` first"):
        StoredClips(shards / "none", "train")


def test_slots_deal_out_every_sample_once() -> None:
    dealt = [n for index in range(4) for n in Slot(index, 4).numbers(8)]
    assert dealt == list(range(8))


def test_a_sample_depends_on_its_number_not_on_who_draws_it() -> None:
    source = NoisedClips(five_frames(), batch=4, seed=0)
    whole = source.draw(7, Slot())
    halves = [source.draw(7, Slot(index, 2)) for index in range(2)]
    assert torch.equal(whole.noise, torch.cat([h.noise for h in halves]))
    assert torch.equal(whole.clip.frames, torch.cat([h.clip.frames for h in halves]))
    assert torch.equal(whole.t, torch.cat([h.t for h in halves]))
    assert not torch.equal(whole.noise, source.draw(8, Slot()).noise)
    assert not torch.equal(whole.noise, NoisedClips(five_frames(), 4, 1).draw(7, Slot()).noise)


def test_levels_are_uniform_and_noise_is_apart_from_the_fill() -> None:
    source = NoisedClips(five_frames(), batch=64, seed=0)
    batch = source.draw(0, Slot())
    assert batch.t.shape == (64,) and 0 <= int(batch.t.min()) and int(batch.t.max()) < 1000
    assert abs(float(batch.t.float().mean()) - 500) < 120 and len(batch.t.unique()) > 50
    assert batch.noise.shape == batch.fill.shape == (64, 3, 16, 32)
    together = torch.stack([batch.noise.flatten(), batch.fill.flatten()])
    assert abs(float(together.corrcoef()[0, 1])) < 0.02, "or the answer could be read off"
    few = NoisedClips(five_frames(), 16, 0, levels=(499, 999)).draw(0, Slot())
    assert set(few.t.tolist()) == {499, 999}


def test_fives() -> None:
    frames = torch.arange(20.0).view(10, 2)
    assert in_fives(frames).shape == (2, 5, 2)
    assert in_fives(frames)[1, 0].tolist() == [10, 11]
    samples = [five_frames().sample(np.random.default_rng(i)) for i in range(3)]
    assert stack(samples).mels.shape == (3, 5, 80, 16)
