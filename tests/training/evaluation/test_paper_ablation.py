from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import TINY_LITE

import lipwire.training.evaluation.paper_ablation
from lipwire.engine.errors import CheckpointError, ConfigError
from lipwire.training.config import ABLATION, LossWeights, Preset, TrainConfig, preset_named
from lipwire.training.evaluation.frechet import GaborStatistics
from lipwire.training.evaluation.paper_ablation import ablate, measure_network
from lipwire.training.families import LiteFamily
from lipwire.training.loop import train
from lipwire.training.nets.perceptual import GaborFeatures
from lipwire.training.nets.syncnet import SmallSyncNet
from lipwire.training.paper.diff2lip import ClipObjective
from lipwire.training.paper.suite import Judges, make_trainer

TINY = TrainConfig(
    steps=2, batch=2, warmup=1, learning_rate=1e-3, checkpoint_every=2, sample_every=2
)


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nobody's, but it has an opinion."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("expert") / "checkpoint.pt"
    torch.save({"net_config": {"kind": "small"}, "ema": SmallSyncNet().state_dict()}, path)
    return path


def test_a_run_with_all_five_losses(shards: Path, expert: Path, tmp_path: Path) -> None:
    preset = Preset("lite", TINY, LossWeights(), TINY_LITE)
    trainer = train(make_trainer(preset, shards, tmp_path, Judges(expert)))
    line = json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[0])
    assert {"simple", "l2", "sync", "gabor", "gan", "critic"} <= set(line)
    begun = make_trainer(
        preset, shards, tmp_path / "next", Judges(expert), init=trainer.checkpoint_path
    )
    figures = json.loads((tmp_path / "stats.jsonl").read_text().splitlines()[-1])
    levels = [figures[f"val_simple_{t}"] for t in (0, 250, 500, 750)]
    assert figures["step"] == 2 and min(levels) > 0
    assert figures["val_gabor"] > 0 and 0 < figures["val_sync"] < 1 and "val_lift" in figures
    objective = trainer.objective
    assert isinstance(objective, ClipObjective)
    again = objective.validate(trainer.ema)
    assert {**again, "step": 2} == pytest.approx(figures), "on the same samples every time"
    for a, b in zip(begun.net.parameters(), trainer.ema.parameters(), strict=True):
        assert torch.equal(a, b), "a new run may begin with the weights of another"
    with pytest.raises(ConfigError, match="gan_form"):
        hinge = replace(preset, objective=LossWeights(gan_form="hinge"))
        make_trainer(hinge, shards, tmp_path, Judges(expert))


def test_without_an_expert_it_says_how_to_get_one(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lipwire train syncnet.*--expert"):
        make_trainer(preset_named("paper"), shards, tmp_path, Judges())
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        make_trainer(preset_named("paper"), shards, tmp_path, Judges(tmp_path / "none.pt"))


def test_ablation_trains_four_and_puts_them_side_by_side(
    shards: Path, expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lipwire.training.evaluation.paper_ablation,
        "scaled_down",
        lambda preset: replace(preset, train=TINY, net=TINY_LITE),
    )
    found = ablate(shards, tmp_path, Judges(expert), steps=1, batch=1, sampling_steps=2, clips=2)
    assert list(found) == list(ABLATION)
    assert json.loads((tmp_path / "ablation.json").read_text()) == json.loads(json.dumps(found))
    for name, weights in ABLATION.items():
        logged = json.loads((tmp_path / name / "stats.jsonl").read_text().splitlines()[0])
        assert ("sync" in logged, "gabor" in logged, "gan" in logged) == (
            weights.sync > 0,
            weights.perceptual > 0,
            weights.gan > 0,
        )
        assert found[name]["measure"] == "gabor" and 0 < found[name]["sync"] < 1


class Copying(LiteFamily):
    """Knows the answer: gives back the real frames, whatever it is told."""

    def size(self, net: object) -> int:
        return 128

    def columns(self, net: object) -> int:
        return 16


def test_figures_of_a_perfect_and_of_a_flat_painter(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lipwire.training.data.dataset import load_clips

    held_out = load_clips(shards, "val") + load_clips(shards, "train")[:1]
    net = torch.nn.Linear(1, 1)

    def perfect(family: object, net: object, clips: object, clip: object, *_: object) -> object:
        crops = np.asarray(clip.crops[:30]).transpose(0, 3, 1, 2) / 127.5 - 1  # type: ignore[attr-defined]
        real = torch.from_numpy(crops.astype(np.float32))
        return real, real

    monkeypatch.setattr(lipwire.training.evaluation.paper_ablation, "_painted", perfect)
    figures = measure_network(
        Copying(), net, held_out, steps=1, measure=GaborFeatures(), features=GaborStatistics()
    )
    assert figures.ssim == pytest.approx(1) and figures.perceptual == 0 and figures.sync is None
    assert figures.movement == pytest.approx(1) and figures.opening_r > 0.9
    assert figures.frechet_effnet == pytest.approx(0, abs=1e-6)

    def flat(*args: object) -> object:
        _, real = perfect(*args)  # type: ignore[misc, arg-type]
        still = real.clone()
        still[:, :, 64:] = real[:1, :, 64:]
        return still, real

    monkeypatch.setattr(lipwire.training.evaluation.paper_ablation, "_painted", flat)
    still = measure_network(
        Copying(), net, held_out, steps=1, measure=GaborFeatures(), expert=SmallSyncNet().eval()
    )
    assert still.movement == 0 and still.psnr_db < 60 and still.perceptual > 0
    assert abs(still.opening_r) < 0.6 and still.sync is not None
    assert still.sync_lift == pytest.approx(0), "painted alike whatever the voice"
    assert set(still.to_dict()) == {
        "psnr_db",
        "ssim",
        "perceptual",
        "measure",
        "sync",
        "sync_lift",
        "opening_r",
        "movement",
        "frechet_effnet",
    }
