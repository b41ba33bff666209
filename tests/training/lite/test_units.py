"""Units as references: which they are, what a batch begins with, and exact resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lipwire.engine.nets.lite import LiteConfig, LiteNet
from lipwire.training.config import PRESETS, LiteRecipe
from lipwire.training.data.dataset import Clips
from lipwire.training.lite.dataset import Start, astray, shares
from lipwire.training.lite.denoiser import DenoiserObjective, generate
from lipwire.training.lite.units import (
    Looks,
    choose,
    draw_units,
    moved_crop,
    pick_units,
    unit_costs,
)
from lipwire.training.loop import Trainer

SMALL = LiteConfig(widths=(8, 16, 24, 32), embed=32, voice_width=32, references=3, told=True)
CONFIG = replace(PRESETS["smoke"].train, steps=6, batch=8)
RECIPE = replace(PRESETS["lite-units"].objective, gan_start=0, shape_warmup=1, perceptual=0.0)


@pytest.fixture(scope="module")
def clips(shards: Path) -> Clips:
    return Clips(shards, "train")


def test_units_are_the_same_again_and_never_within_four_tenths_of_a_second(clips: Clips) -> None:
    clip = clips.clips[0]
    rngs = [np.random.default_rng(3) for _ in range(2)]
    for index in range(len(clip)):
        one, two = (
            pick_units(clips, Looks(), clip, index, clip.codes[index], 3, rng) for rng in rngs
        )
        assert one == two and one is not None
        assert all(abs(frame - index) >= 10 for frame in one)
        closed, unit, wide = (float(clip.codes[frame, 0]) for frame in one)
        assert closed <= unit <= wide


def test_the_nearest_by_hand() -> None:
    codes = np.zeros((4, 7), np.float32)
    codes[:, 0] = [-1, 0, 2, 2.5]
    codes[3, 2] = 1.0
    looks = np.eye(4, dtype=np.float32)[[0, 0, 0, 1]]
    asked, look = np.zeros(7, np.float32), looks[0]
    asked[0] = 2.5
    costs = unit_costs(asked, look, codes, looks)
    np.testing.assert_allclose(costs, [2 * 3.5**2, 2 * 2.5**2, 2 * 0.5**2, 1 + 30])
    assert choose(asked, look, codes, looks, 3) == [0, 2, 3]
    assert choose(asked, look, codes, looks, 2) == [0, 2]
    assert choose(asked, look, codes, looks, 1) == [2]


def test_a_moved_unit_shows_the_asked_mouth_and_nothing_of_the_frame_s_hidden_half(
    clips: Clips,
) -> None:
    clip = clips.clips[0]
    order = np.argsort(clip.codes[:, 0])
    index, unit = int(order[0]), int(order[-1])
    asked = clip.codes[unit].copy()
    asked[0] -= 1.0
    crop, now = moved_crop(clip, index, unit, asked)
    between = sorted((asked[0], clip.codes[unit][0]))
    assert between[0] < now[0] < between[1]
    assert np.array_equal(crop[:64], clip.crops[index][:64])
    covered = np.array(clip.crops[index])
    covered[64:] = 0
    pair = replace(
        clip,
        crops=np.stack([covered, clip.crops[unit]]),
        landmarks=clip.landmarks[[index, unit]],
        codes=clip.codes[[index, unit]],
    )
    again, _ = moved_crop(pair, 0, 1, asked)
    assert np.array_equal(again[64:], crop[64:])
    still, _ = moved_crop(clip, unit, unit, clip.codes[unit])  # its own frame, its own code
    inside = still[66:120, 24:104].astype(int) - clip.crops[unit][66:120, 24:104]
    assert np.abs(inside).mean() < 1.0


def test_a_clip_too_short_for_a_bank_begins_with_noise(clips: Clips) -> None:
    clip = clips.clips[0]
    short = replace(clip, crops=clip.crops[:9], landmarks=clip.landmarks[:9], codes=clip.codes[:9])
    rng = np.random.default_rng(0)
    assert pick_units(clips, Looks(), short, 4, short.codes[4], 3, rng) is None
    few = Clips.__new__(Clips)
    few.clips, few.code_stats, few._weights = [short], clips.code_stats, np.ones(1)
    batch = draw_units(few, Looks(), shares(4, 0, 0, 0.5), 0.0, 3, rng)
    assert batch.starts.tolist() == [Start.NOISE] * 4
    assert batch.references.shape == (4, 9, 128, 128)


def test_shares_and_strays() -> None:
    starts = shares(16, 1 / 8, 1 / 8, 5 / 8)
    assert np.bincount(starts).tolist() == [2, 2, 2, 10]
    stray = astray(starts, 0.25)
    assert stray.sum() == 5 and not stray[starts == Start.TRUE].any()
    assert np.bincount(shares(18)).tolist() == [6, 6, 6]


def test_a_batch_is_a_function_of_its_seed(clips: Clips) -> None:
    starts = shares(8, 1 / 8, 1 / 8, 5 / 8)
    a, b = (draw_units(clips, Looks(), starts, 0.2, 3, np.random.default_rng(1)) for _ in "ab")
    for name in (
        "crops",
        "references",
        "codes",
        "mismatched",
        "weights",
        "shown",
        "starts",
        "astray",
    ):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert a.references.shape == (8, 9, 128, 128) and a.shown.shape == (8, 3, 7)


def test_x_t_begins_at_the_unit(clips: Clips) -> None:
    """An untrained network shows its references: with all of them the unit, so does x0."""
    starts = shares(4, 0, 0, 1)
    batch = draw_units(clips, Looks(), starts, 0.0, 3, np.random.default_rng(2), augmented=False)
    unit = batch.references[:, 3:6].copy()
    batch.references[:, :3], batch.references[:, 6:] = unit, unit
    net, seen = LiteNet(SMALL), {}

    def note(module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        seen["x_t"], seen["sigma"] = inputs[0], inputs[2]

    with net.denoiser.register_forward_pre_hook(note):
        generate(net, batch, RECIPE, torch.Generator().manual_seed(0))
    sigma = seen["sigma"][:, None, None, None]
    signal = (1 - sigma**2).sqrt()
    noise = (seen["x_t"] - signal * torch.from_numpy(unit[:, :, 64:])) / sigma
    assert abs(float(noise.std()) - 1) < 0.02 and abs(float(noise.mean())) < 0.02
    assert {round(float(s), 2) for s in sigma.flatten()} <= {0.69, 0.96}


def test_a_killed_run_with_units_goes_on_with_the_same_curve(shards: Path, tmp_path: Path) -> None:
    def objective() -> DenoiserObjective:
        torch.manual_seed(0)
        return DenoiserObjective(Clips(shards, "train"), CONFIG, RECIPE, LiteNet(SMALL))

    whole = Trainer(tmp_path / "whole", CONFIG, objective())
    curve = [whole.run_step() for _ in range(3)]
    killed = Trainer(tmp_path / "killed", CONFIG, objective())
    killed.run_step()
    killed.save()
    killed.run_step()  # lost with the kill
    resumed = Trainer(tmp_path / "killed", CONFIG, objective())
    assert [resumed.run_step() for _ in range(2)] == curve[1:]
    for a, b in zip(whole.ema.parameters(), resumed.ema.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "wrong", [{"unit_starts": 0.5}, {"noise_starts": -0.1}, {"perceptual": -1}]
)
def test_a_recipe_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(Exception, match="must"):
        LiteRecipe(**wrong)  # type: ignore[arg-type]
