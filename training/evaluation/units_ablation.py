"""What each optional loss of the `lite-units` recipe does: short runs without it, side by side."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lipwire.training.config import LiteRecipe, Precision, preset_named
from lipwire.training.data.dataset import load_clips
from lipwire.training.evaluation.units import MIN_FRAMES, measure_units
from lipwire.training.families import open_network
from lipwire.training.lite.denoiser import train_lite

# What each setting sets otherwise than the recipe; the shape critic gives two of the losses.
SETTINGS: dict[str, dict[str, float]] = {
    "all": {},
    "no perceptual": {"perceptual": 0.0},
    "no patch critic": {"gan": 0.0},
    "no shape critic": {"shape": 0.0, "features": 0.0},
    "pixels alone": {"perceptual": 0.0, "gan": 0.0, "shape": 0.0, "features": 0.0},
}
WAYS = ("cold", "at 249", "at 499")  # of `measure_units`, that use the network from its two starts
# Runs are short and begin with critics that have learnt: these are heard at once.
HEARD = {"gan_start": 0, "shape_warmup": 20}


def ablate_units(
    shards: Path,
    folder: Path,
    *,
    voice: Path,
    init: Path,
    steps: int,
    batch: int | None = None,
    clips: int = 8,
    seed: int = 0,
    precision: Precision = "no",
) -> dict[str, dict[str, Any]]:
    """Train the recipe with and without each of its optional losses, and measure all alike.

    Each lies in `folder`/NAME and goes on where it was. All begin with the same painter and see
    the same samples in the same order: what differs is the losses.

    Args:
        shards: prepared clips.
        folder: of the runs; `ablation.json` is written there.
        voice: checkpoint of `lipwire train voice`.
        init: painter with critics that all begin with; it is measured first.
        steps: of each.
        batch: samples a step; None is the preset's.
        clips: held-out clips measured, drawn by the seed.
        seed: of all.
        precision: of all.

    Returns:
        By setting and way of painting `error`, `gradient` and `distance`, see
        `lipwire.training.evaluation.units`.

    Raises:
        ConfigError: no held-out clip is long enough, or there is none.
    """
    preset = preset_named("lite-units")
    assert isinstance(preset.objective, LiteRecipe)
    config = replace(
        preset.train,
        steps=steps,
        seed=seed,
        batch=batch or preset.train.batch,
        precision=precision,
        warmup=min(preset.train.warmup, steps // 4),
        sample_every=steps,
    )
    long = [clip for clip in load_clips(shards, "val") if len(clip) >= MIN_FRAMES]
    chosen = [long[i] for i in np.random.default_rng(seed).permutation(len(long))[:clips]]
    found: dict[str, dict[str, Any]] = {}

    def measure(name: str, path: Path) -> None:
        opened = open_network(path)
        figures = measure_units(opened.net, opened.state["code_stats"].numpy(), chosen)
        found[name] = {way: asdict(figures[way]) for way in WAYS}
        (folder / "ablation.json").write_text(json.dumps(found, indent=1))

    folder.mkdir(parents=True, exist_ok=True)
    measure("before", init)
    for name, changes in SETTINGS.items():
        recipe = replace(preset.objective, **{**HEARD, **changes})  # type: ignore[arg-type]
        run = train_lite(
            shards, folder / name.replace(" ", "-"), config, recipe, voice=voice, init=init
        )
        measure(name, run.checkpoint_path)
    return found
