from __future__ import annotations

import json
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import clip

import lipwire.training.paper.sync_expert
from lipwire.engine.errors import ConfigError
from lipwire.training.config import TrainConfig
from lipwire.training.data.batch import Slot
from lipwire.training.loop import Trainer
from lipwire.training.nets.syncnet import make_expert
from lipwire.training.paper.sync_expert import (
    EXPERT_PRESETS,
    MAX_SHIFT,
    MIN_SHIFT,
    ExpertObjective,
    Pairs,
    load_expert,
    out_of_step,
    train_expert,
)

CONFIG = replace(
    EXPERT_PRESETS["small"], steps=4, batch=4, warmup=1, checkpoint_every=2, sample_every=4
)


def test_negatives_are_near_but_not_next_to_the_window() -> None:
    rng = np.random.default_rng(0)
    for length, first in ((300, 150), (300, 0), (11, 3)):
        shifts = {abs(s - first) for s in out_of_step(length, first, rng, 500)}
        assert min(shifts) == MIN_SHIFT and max(shifts) <= MAX_SHIFT
        starts = out_of_step(length, first, rng, 500)
        assert min(starts) >= 0 and max(starts) <= length - 5


def test_the_first_sound_is_the_pictures_own() -> None:
    """The bar's height is the sound's level, so they can be told apart by hand."""
    pairs = Pairs([clip(0), clip(1)], 16, 3, 0, augment=False)
    batch = pairs.draw(0, Slot())
    assert batch.halves.shape == (16, 5, 3, 64, 128) and batch.mels.shape == (16, 4, 80, 16)
    dark = (batch.halves < -0.5).float().mean((2, 3, 4))
    level = batch.mels.mean(2)[:, :, ::3][:, :, :5]
    error = ((dark[:, None] / dark.amax() - (level + 4) / 8) ** 2).mean(2)
    assert float((error.argmin(1) == 0).float().mean()) > 0.8


def test_a_pair_is_a_function_of_its_number_and_augments_its_sounds_alike() -> None:
    pairs = Pairs([clip(0)], 4, 2, 0)
    whole, part = pairs.draw(3, Slot()), pairs.draw(3, Slot(1, 2))
    assert torch.equal(whole.mels[2:], part.mels) and torch.equal(whole.halves[2:], part.halves)
    plain = Pairs([clip(0)], 4, 2, 0, augment=False).draw(3, Slot())
    # Bands differ by constants: what loudness has done to a sound shows in its lowest value.
    gain = (whole.mels - plain.mels).flatten(2).median(2).values
    torch.testing.assert_close(gain, gain[:, :1].expand_as(gain), rtol=0.2, atol=0.2)


def test_short_clips_are_left_out() -> None:
    with pytest.raises(ConfigError, match="11 frames"):
        Pairs([clip(0, frames=10)], 4, 1, 0)


def test_a_coin_has_a_loss_of_log_two_whatever_the_negatives() -> None:
    class Coin(torch.nn.Module):
        kind = "small"

        def embed_faces(self, halves: torch.Tensor) -> torch.Tensor:
            return halves.new_zeros(len(halves), 1)

        def embed_audio(self, mel: torch.Tensor) -> torch.Tensor:
            return mel.new_zeros(len(mel), 1)

        def judge(self, audio: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
            return 0.5 + 0 * (audio * faces).sum(-1)

    objective = ExpertObjective(Coin(), CONFIG, [clip(0)], [clip(1)])  # type: ignore[arg-type]
    priced = objective(objective.source.draw(0, Slot()))
    assert float(priced.total) == pytest.approx(log(2))
    assert float(priced.parts["accuracy"]) == 0.5


def test_a_small_expert_learns_and_is_measured_on_others(tmp_path: Path) -> None:
    """On bars that open with the sound; on one it has not seen."""
    torch.manual_seed(0)
    config = TrainConfig(steps=60, batch=16, learning_rate=2e-3, warmup=5, ema=0.9)
    net = make_expert("small")
    objective = ExpertObjective(net, config, [clip(i) for i in range(6)], [clip(9), clip(10)])
    before = objective.report(net.eval(), tmp_path, 0)
    trainer = Trainer(tmp_path, config, objective)
    for _ in range(60):
        trainer.run_step()
    after = objective.report(trainer.ema, tmp_path, 60)
    assert before["val_accuracy"] < 0.65 < 0.75 < after["val_accuracy"]
    assert after["val_loss"] < 0.6 < before["val_loss"]
    trainer.save()
    expert = load_expert(trainer.checkpoint_path)
    batch = objective.validation.draw(0, Slot(0, 8))
    assert float(expert(batch.halves, batch.mels[:, 0]).mean()) > float(
        expert(batch.halves, batch.mels[:, 1]).mean()
    )


@pytest.mark.parametrize("kind", ["small", "wav2lip"])
def test_train_expert_reports_and_goes_on(
    kind: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lipwire.training.paper.sync_expert, "VALIDATION_PAIRS", 50)
    config = replace(CONFIG, steps=2, batch=2, sample_every=2)
    trainer, figures = train_expert(shards, tmp_path, kind, config)  # type: ignore[arg-type]
    assert set(figures) == {"val_loss", "val_accuracy"} and trainer.step == 2
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert "val_accuracy" in lines[-1]
    resumed, again = train_expert(shards, tmp_path, kind, config)  # type: ignore[arg-type]
    assert resumed.step == 2 and again == figures
    if kind == "small":
        with pytest.raises(ConfigError, match="negatives|kind"):
            state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
            state["config"]["negatives"] = 9
            torch.save(state, tmp_path / "checkpoint.pt")
            train_expert(shards, tmp_path, "small", config)
