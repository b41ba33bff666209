"""The lite painter: its data, its losses, and which network each of them trains."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipwire.engine.errors import CheckpointError
from lipwire.engine.nets.lite import LiteConfig, LiteNet
from lipwire.training.checkpoint import load_checkpoint, save_checkpoint
from lipwire.training.config import PRESETS, LiteRecipe
from lipwire.training.data.batch import Slot
from lipwire.training.data.dataset import Clips
from lipwire.training.lite.critics import MouthCritics, gradient_penalty, mouth_gan_loss, with_code
from lipwire.training.lite.dataset import draw, pick_references
from lipwire.training.lite.denoiser import (
    DenoiserObjective,
    GeneratedBatch,
    generate,
    shape_losses,
    train_lite,
)
from lipwire.training.loop import Trainer
from lipwire.training.nets.mouth import MouthCritic, ShapeCritic

SMALL = LiteConfig(widths=(8, 16, 24, 32), embed=32, voice_width=32)
CONFIG = replace(PRESETS["smoke"].train, steps=6, checkpoint_every=3, sample_every=6)
RECIPE = LiteRecipe(gan_start=0, shape_warmup=1)


def objective(shards: Path) -> DenoiserObjective:
    torch.manual_seed(0)
    return DenoiserObjective(Clips(shards, "train"), CONFIG, RECIPE, LiteNet(SMALL))


def moved(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether any gradient has arrived."""
    return any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in parameters)


def test_a_batch_is_a_function_of_its_seed(shards: Path) -> None:
    clips = Clips(shards, "train")
    a, b, c = (draw(clips, 3, 2, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(a.crops, b.crops) and np.array_equal(a.references, b.references)
    assert not np.array_equal(a.crops, c.crops)
    assert a.crops.shape == (3, 3, 128, 128) and a.references.shape == (3, 6, 128, 128)
    assert a.codes.shape == (3, 7) and a.weights.shape == (3, 1, 64, 128)
    assert np.abs(a.weights.mean((1, 2, 3)) - 1).max() < 0.4  # less where something covers it
    assert np.abs(a.crops).max() <= 1


def test_references_are_ordered_and_never_the_target(shards: Path) -> None:
    clip = Clips(shards, "train").clips[0]
    rng = np.random.default_rng(0)
    for _ in range(100):
        index = int(rng.integers(len(clip)))
        closed, wide = pick_references(clip, index, 2, rng)
        assert abs(closed - index) >= min(4, len(clip) // 3) <= abs(wide - index)
        assert clip.codes[closed, 0] <= clip.codes[wide, 0]


def test_a_killed_run_goes_on_with_the_same_curve(shards: Path, tmp_path: Path) -> None:
    whole = Trainer(tmp_path / "whole", CONFIG, objective(shards))
    curve = [whole.run_step() for _ in range(4)]
    killed = Trainer(tmp_path / "killed", CONFIG, objective(shards))
    for _ in range(2):
        killed.run_step()
    killed.save()
    killed.run_step()  # lost with the kill
    resumed = Trainer(tmp_path / "killed", CONFIG, objective(shards))
    assert resumed.step == 2
    assert [resumed.run_step() for _ in range(2)] == curve[2:]
    for a, b in zip(whole.ema.parameters(), resumed.ema.parameters(), strict=True):
        assert torch.equal(a, b)


def test_train_learns_and_leaves_its_records(shards: Path, tmp_path: Path) -> None:
    voice = tmp_path / "voice.pt"
    save_checkpoint({"ema": LiteNet(SMALL).voice.state_dict()}, voice)
    config = replace(CONFIG, steps=30, sample_every=30, checkpoint_every=15, learning_rate=3e-3)
    recipe = replace(RECIPE, gan_start=1000)
    run = train_lite(shards, tmp_path / "run", config, recipe, SMALL, voice=voice)
    lines = [json.loads(line) for line in (tmp_path / "run/stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    first, last = (np.mean([x["l2"] for x in part]) for part in (lines[:8], lines[-8:]))
    assert last < first
    sheet = cv2.imread(str(tmp_path / "run" / "samples-000030.png"))
    assert sheet.shape == (6 * 128, 10 * 128, 3) and sheet.std() > 10
    assert run.checkpoint_path.exists() and not list(tmp_path.glob("run/*.partial"))


def test_an_earlier_painter_and_what_its_codes_mean_are_gone_on_from(
    shards: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    earlier, stats = LiteNet(SMALL), torch.arange(1.0, 15.0).view(2, 7)
    earlier.encoder.stem.bias.data += 3  # an untrained one would be like any other
    about = {"net_config": {"reach_px": 5.5}}
    save_checkpoint({"ema": earlier.state_dict(), "code_stats": stats}, tmp_path / "earlier.pt")
    voice, other = LiteNet(SMALL).voice, torch.arange(14.0, 0.0, -1.0).view(2, 7)
    save_checkpoint(
        {"ema": voice.state_dict(), "code_stats": other, **about}, tmp_path / "voice.pt"
    )
    config = replace(CONFIG, steps=1, learning_rate=1e-9, weight_decay=0.0)
    run = train_lite(
        shards,
        tmp_path / "run",
        config,
        RECIPE,
        SMALL,
        voice=tmp_path / "voice.pt",
        init=tmp_path / "earlier.pt",
    )
    found = load_checkpoint(run.checkpoint_path)
    for name, value in earlier.state_dict().items():
        if not name.startswith("voice."):
            torch.testing.assert_close(found["ema"][name], value, rtol=0, atol=1e-6)
    assert torch.equal(found["code_stats"], stats)
    assert found["net_config"]["reach_px"] == 5.5
    # The voice, which was told other units, says the same mouths in the painter's.
    mel = torch.randn(3, 80, SMALL.mel_columns)
    speaks = LiteNet(SMALL)
    speaks.load_state_dict(found["ema"])
    with torch.no_grad():
        wanted = voice.eval()(mel) * other[1] + other[0]
        raw = speaks.voice.eval()(mel) * stats[1] + stats[0]
    torch.testing.assert_close(raw, wanted, rtol=1e-4, atol=1e-4)


def test_a_voice_of_other_sizes_is_refused(shards: Path, tmp_path: Path) -> None:
    voice = tmp_path / "voice.pt"
    save_checkpoint({"ema": LiteNet(replace(SMALL, voice_width=64)).voice.state_dict()}, voice)
    with pytest.raises(CheckpointError, match=r"layers\.0\.weight"):
        train_lite(shards, tmp_path / "run", CONFIG, RECIPE, SMALL, voice=voice)


def test_the_painters_step_trains_neither_voice_nor_critics(shards: Path) -> None:
    painter = objective(shards)
    with torch.no_grad():  # an untrained head is zero and would let nothing through
        for parameter in painter.net.denoiser.parameters():
            parameter.add_(0.01)
    painter.train()
    priced = painter(painter.source.draw(3, whole_step()))
    priced.total.backward()
    assert moved(painter.net.denoiser.parameters()) and moved(painter.net.encoder.parameters())
    assert not moved(painter.net.voice.parameters())
    critics = painter.critic
    assert critics is not None and not moved(critics.parameters())
    assert all(p.requires_grad for p in critics.parameters())


def test_the_critics_step_does_not_train_the_painter(shards: Path) -> None:
    painter = objective(shards)
    priced = painter(painter.source.draw(3, whole_step()))
    assert priced.fake is not None and priced.real is not None and painter.critic is not None
    painter.critic(priced.fake, priced.real).total.backward()
    assert not moved(painter.net.parameters())
    assert moved(painter.critic.shape.parameters()) and moved(painter.critic.patches.parameters())


def whole_step() -> Slot:
    return Slot()


def test_pixel_losses_of_a_known_estimate(shards: Path) -> None:
    """An untrained network shows its references: L_2 is their weighted distance, by hand."""
    clips = Clips(shards, "train")
    batch = draw(clips, 2, 2, np.random.default_rng(0), augmented=False)
    net = LiteNet(SMALL)
    recipe = replace(RECIPE, code_noise=0.0)
    painted = generate(net, batch, recipe, torch.Generator().manual_seed(0))
    hidden = batch.crops[:, :, 64:]
    share = np.exp(2.0) / (1 + 2 * np.exp(2.0))  # of each reference, beside painting's 0
    shown = share * (batch.references[:, :3, 64:] + batch.references[:, 3:, 64:])
    wanted = float(((shown - hidden) ** 2 * batch.weights).mean())
    assert float(painted.losses["l2"].detach()) == pytest.approx(wanted, rel=1e-3)


class _Reads(ShapeCritic):
    """Reads the mean of the picture as every code, and has one feature map: the picture."""

    def forward(self, hidden: Tensor) -> tuple[Tensor, list[Tensor]]:
        return hidden.mean(dim=(1, 2, 3))[:, None].expand(-1, 7), [hidden] * 4


def test_shape_losses_by_hand() -> None:
    painted = GeneratedBatch(
        torch.full((1, 3, 64, 128), 0.5),
        torch.full((1, 7), 0.7),
        torch.ones(1, dtype=torch.bool),
        {},
    )
    losses = shape_losses(_Reads(7), painted, torch.full((1, 3, 64, 128), 0.1))
    assert float(losses["shape"]) == pytest.approx(0.5 * 0.2**2 / 0.5)  # Huber inside its bend
    assert float(losses["features"]) == pytest.approx(0.4)


def test_strays_obey_another_code_and_pay_for_no_pixel(shards: Path) -> None:
    batch = draw(Clips(shards, "train"), 6, 2, np.random.default_rng(0), False, mismatched=1 / 3)
    recipe = replace(RECIPE, code_noise=0.0)
    painted = generate(LiteNet(SMALL), batch, recipe, torch.Generator().manual_seed(0))
    astray = ~painted.true
    assert astray.tolist() == [True, False, True, False, False, False]
    assert torch.equal(painted.codes[astray], torch.from_numpy(batch.mismatched)[astray])
    assert torch.equal(painted.codes[painted.true], torch.from_numpy(batch.codes)[painted.true])
    batch.crops[[0, 2], :, 64:] = 1  # the hidden halves of the two: nothing of them is told
    again = generate(LiteNet(SMALL), batch, recipe, torch.Generator().manual_seed(0))
    assert torch.equal(painted.losses["l2"], again.losses["l2"])
    shown = torch.from_numpy(batch.crops)[:, :, 64:]
    features = [shape_losses(_Reads(7), p, shown)["features"] for p in (painted, again)]
    assert torch.equal(*features)


class _Mean(MouthCritic):
    """Finds a picture as real as it is bright."""

    def forward(self, hidden: Tensor, code: Tensor) -> Tensor:
        return hidden.mean(dim=(1, 2, 3), keepdim=True) + 0 * code.sum()


def test_the_hinge_by_hand() -> None:
    real, fake = torch.full((2, 3, 64, 128), 0.25), torch.full((2, 3, 64, 128), -0.5)
    loss = mouth_gan_loss(_Mean(7), fake, real, torch.zeros(2, 7))
    assert float(loss) == pytest.approx(0.75 + 0.75 * 0.5 + 0.25 * 1.25)
    # d mean / d pixel = 1 / n for each of n pixels, so the squared sum is 1 / n.
    penalty = gradient_penalty(_Mean(7), real, torch.zeros(2, 7))
    assert float(penalty) == pytest.approx(1 / (3 * 64 * 128))


def test_critics_find_the_codes_they_are_given() -> None:
    hidden, codes = torch.rand(2, 3, 64, 128), torch.randn(2, 7)
    packed = with_code(hidden, codes)
    assert torch.equal(packed[:, :3], hidden) and torch.equal(packed[:, 3:, 5, 9], codes)
    critics = MouthCritics(7, 128, r1=0.0).eval()
    assert set(critics(packed, packed).parts) == {"read", "critic"}
