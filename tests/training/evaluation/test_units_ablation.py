from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lipwire.training.evaluation.units_ablation
from lipwire.engine.nets.lite import LiteConfig, LiteNet
from lipwire.training.checkpoint import save_checkpoint
from lipwire.training.config import preset_named
from lipwire.training.evaluation.units import Figure
from lipwire.training.evaluation.units_ablation import SETTINGS, WAYS, ablate_units

SMALL = LiteConfig(widths=(8, 16, 24, 32), embed=32, voice_width=32, references=3, told=True)


def test_each_setting_goes_without_its_losses_and_all_begin_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = tmp_path / "earlier.pt"
    net = LiteNet(SMALL)
    save_checkpoint(
        {
            "family": "lite",
            "ema": net.state_dict(),
            "code_stats": torch.ones(2, 7),
            "net_config": net.config.to_dict(),
        },
        earlier,
    )
    ran = {}

    class Run:
        checkpoint_path = earlier

    def train_lite(shards: Path, folder: Path, config: object, recipe: object, **more: Path) -> Run:
        ran[folder.name] = config, recipe, more
        return Run()

    module = lipwire.training.evaluation.units_ablation
    monkeypatch.setattr(module, "train_lite", train_lite)
    monkeypatch.setattr(module, "load_clips", lambda shards, split: [range(60), range(9)])
    measured = []

    def measure_units(net: LiteNet, stats: object, clips: list[range]) -> dict[str, Figure]:
        measured.append(clips)
        return dict.fromkeys((*WAYS, "raw"), Figure(0.01, 0.9, 1.2))

    monkeypatch.setattr(module, "measure_units", measure_units)
    found = ablate_units(
        tmp_path, tmp_path / "run", voice=Path("v.pt"), init=earlier, steps=40, batch=4
    )
    assert list(found) == ["before", *SETTINGS]
    assert found["all"]["cold"] == {"error": 0.01, "gradient": 0.9, "distance": 1.2}
    assert json.loads((tmp_path / "run" / "ablation.json").read_text()) == found
    assert measured == [[range(60)]] * 6, "short clips are left out"
    recipe = replace(preset_named("lite-units").objective, gan_start=0, shape_warmup=20)
    config = ran["all"][0]
    assert all(
        c == config and more == {"voice": Path("v.pt"), "init": earlier}
        for c, _, more in ran.values()
    )
    assert {name: r for name, (_, r, _) in ran.items()} == {
        "all": recipe,
        "no-perceptual": replace(recipe, perceptual=0.0),
        "no-patch-critic": replace(recipe, gan=0.0),
        "no-shape-critic": replace(recipe, shape=0.0, features=0.0),
        "pixels-alone": replace(recipe, perceptual=0.0, gan=0.0, shape=0.0, features=0.0),
    }
