"""The ablation of the paper's tables 1 and 3: with each loss more, side by side."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from lipwire.engine.errors import ConfigError
from lipwire.training.config import ABLATION, LossWeights, Precision, preset_named, scaled_down
from lipwire.training.data.batch import FiveFrames, in_fives, sync_window
from lipwire.training.data.dataset import ClipData, StoredClips
from lipwire.training.evaluation.frechet import Features, Moments, MouthStatistics, added, frechet
from lipwire.training.families import Family, Given
from lipwire.training.loop import train
from lipwire.training.nets.perceptual import Perceptual, load_perceptual
from lipwire.training.nets.syncnet import FRAMES, SyncExpert
from lipwire.training.paper.diff2lip import ClipObjective
from lipwire.training.paper.suite import Judges, make_trainer
from lipwire.training.paper.trajectory import fixed_noise, repaint, to_image


@dataclass(frozen=True, slots=True)
class Figures:
    """How well a network repaints clips of speakers that it has not seen, with their own voice."""

    psnr_db: float
    """hidden half"""
    ssim: float
    """hidden half"""
    perceptual: float
    """mean distance from the real frame, whole frames; see `measure`"""
    measure: str
    sync: float | None
    """probability that the expert gives picture and own voice; None without an expert"""
    sync_lift: float | None
    """the same minus its probability with another clip's voice: what the voice itself moves"""
    opening_r: float
    """median over clips, r of the mouth's opening with the real one's, by landmarks"""
    movement: float
    """mean change from frame to frame in the hidden half, of the real one's"""
    frechet_effnet: float | None
    """Frechet distance of all painted mouths from all real ones; None where ImageNet's weights are
    not installed"""

    def to_dict(self) -> dict[str, Any]:
        """For JSON, rounded."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}


def _painted(
    family: Family, net: Any, clips: FiveFrames, clip: ClipData, voice: ClipData, steps: int
) -> tuple[Tensor, Tensor]:
    """(painted, real) frames f32[T, 3, S, S]; reference: half a clip away; T a multiple of 5."""
    count = min(len(clip), len(voice)) // FRAMES * FRAMES
    half = clips.size // 2
    noise = fixed_noise(clips.size)
    painted, real = [], []
    for first in range(0, count, FRAMES):
        sample = clips.at(clip, first, (first + len(clip) // 2) % len(clip))
        heard = clips.at(voice, first, 0)
        references, noises = (x.expand(FRAMES, -1, -1, -1) for x in (sample.references, noise))
        given = Given(sample.frames[:, :, :half], references, heard.mels, noises)
        painted.append(repaint(family, net, given, steps))
        real.append(sample.frames)
    return torch.cat(painted), torch.cat(real)


@torch.no_grad()
def measure_network(
    family: Family,
    net: Any,
    held_out: Sequence[ClipData],
    *,
    steps: int,
    measure: Perceptual,
    expert: SyncExpert | None = None,
    features: Features | None = None,
) -> Figures:
    """Figures of the averaged network on every clip given.

    Args:
        family: how it is called.
        net: on the CPU.
        held_out: clips of other speakers, at least two.
        steps: DDIM steps.
        measure: perceptual distance.
        expert: for the sync figures.
        features: for the Frechet distance.
    """
    from lipwire.engine.face.articulation import raw_codes
    from lipwire.engine.face.tracker import MeshTracker

    net.eval()
    clips = FiveFrames(held_out, family.size(net), mirror=False, columns=family.columns(net))
    half = clips.size // 2
    rows: list[tuple[float, float, float, float]] = []
    agreed, foreign, r = [], [], []
    looks: list[tuple[Moments, Moments]] = []
    tracker = MeshTracker(still=True)
    try:
        chosen = [clips.clips[index] for index in clips.long]
        for number, clip in enumerate(chosen):
            other = chosen[number - 1]
            painted, real = _painted(family, net, clips, clip, clip, steps)
            a, b = painted[:, :, half:], real[:, :, half:]
            change = [(x[1:] - x[:-1]).abs().mean() for x in (a, b)]
            ratio = float(peak_signal_noise_ratio(a, b, data_range=(-1.0, 1.0)))
            moves = float(change[0] / change[1].clamp_min(1e-6))
            rows.append((ratio, _ssim(a, b), float(measure(painted, real).mean()), moves))
            if expert is not None:
                agreed += _agreement(expert, a, clip)
                wrong, _ = _painted(family, net, clips, clip, other, steps)
                foreign += _agreement(expert, wrong[:, :, half:], clip)
            shown = [to_image(frame) for frame in painted]
            if features is not None:
                true = [to_image(frame) for frame in real]
                looks.append((Moments.of(features(shown)), Moments.of(features(true))))
            opening = np.full(len(painted), np.nan)
            for index, picture in enumerate(shown):
                if (face := tracker.track(picture)) is not None:
                    # In crop pixels of the prepared size, as the clip's own codes.
                    scale = clip.crops.shape[1] / clips.size
                    opening[index] = scale * raw_codes(face.landmarks[None])[0, 0]
            known = np.isfinite(opening)
            if known.sum() > 5:
                with np.errstate(invalid="ignore"):
                    pair = np.corrcoef(opening[known], clip.codes[: len(opening), 0][known])
                r.append(float(np.nan_to_num(pair[0, 1])))
    finally:
        tracker.close()
    psnr, ssim, distance, movement = (float(v) for v in np.mean(rows, axis=0))
    own = float(np.mean(agreed)) if agreed else None
    return Figures(
        psnr,
        ssim,
        distance,
        measure.name,
        own,
        None if own is None else own - float(np.mean(foreign)),
        float(np.median(r)) if r else math.nan,
        movement,
        frechet(*(added(side) for side in zip(*looks, strict=True))) if looks else None,
    )


def _ssim(found: Tensor, wanted: Tensor) -> float:
    value = structural_similarity_index_measure(found, wanted, data_range=(-1.0, 1.0))
    assert isinstance(value, Tensor)
    return float(value)


def _agreement(expert: SyncExpert, halves: Tensor, clip: ClipData) -> list[float]:
    """What the expert says of every five frames f32[T, 3, S/2, S] with the clip's own sound."""
    mels = [sync_window(clip, first) for first in range(0, len(halves), FRAMES)]
    said: list[float] = expert(in_fives(halves), torch.from_numpy(np.stack(mels))).tolist()
    return said


def ablate(
    shards: Path,
    folder: Path,
    judges: Judges,
    *,
    family: str = "lite",
    steps: int,
    batch: int | None = None,
    sampling_steps: int = 8,
    clips: int = 8,
    seed: int = 0,
    precision: Precision = "no",
    init: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Train the four settings of the paper's tables 1 and 3 at small size and measure them alike.

    Each lies in `folder`/NAME and goes on where it was. Same seed, so the same batches in the same
    order: what differs is the losses.

    Returns:
        Figures by setting.
    """
    import json

    expert = judges.open_expert(LossWeights())
    measure = load_perceptual(judges.perceptual)
    features = None
    with contextlib.suppress(ConfigError):  # it says which packages carry the weights
        features = MouthStatistics()
    held_out = StoredClips(shards, "val")
    order = np.random.default_rng(seed).permutation(len(held_out))[:clips]
    found: dict[str, dict[str, Any]] = {}
    for name in ABLATION:
        preset = scaled_down(preset_named(f"{family}-ablation-{name}"))
        size: dict[str, Any] = {
            "steps": steps,
            "batch": batch or preset.train.batch,
            "sample_every": steps,
        }
        config = replace(preset.train, seed=seed, precision=precision, **size)
        preset = replace(preset, train=config)
        trainer = train(make_trainer(preset, shards, folder / name, judges, init))
        objective = trainer.objective
        assert isinstance(objective, ClipObjective)
        shown = [held_out[i] for i in order]
        how: dict[str, Any] = {"measure": measure, "expert": expert, "features": features}
        figures = measure_network(
            objective.family, trainer.ema.cpu(), shown, steps=sampling_steps, **how
        )
        found[name] = figures.to_dict()
        (folder / "ablation.json").write_text(json.dumps(found, indent=1))
    return found
