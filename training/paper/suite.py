"""Runs with the paper's losses: from a preset and files to a `Trainer`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lipwire.engine.errors import ConfigError
from lipwire.training.checkpoint import fit_weights, load_checkpoint, weights_of
from lipwire.training.config import LossWeights, Preset
from lipwire.training.data.batch import FiveFrames
from lipwire.training.data.dataset import StoredClips
from lipwire.training.families import family_named
from lipwire.training.loop import Trainer
from lipwire.training.nets.perceptual import load_perceptual
from lipwire.training.nets.syncnet import SyncExpert
from lipwire.training.paper.diff2lip import ClipObjective
from lipwire.training.paper.sync_expert import load_expert


@dataclass(frozen=True, slots=True)
class Judges:
    """Files that the losses need."""

    expert: Path | None = None
    """checkpoint of a sync expert"""
    perceptual: tuple[Path, ...] = ()
    """VGG-16, LPIPS's linear weights; none: the Gabor bank"""

    def open_expert(self, weights: LossWeights) -> SyncExpert | None:
        """The expert, where the losses want one.

        Raises:
            ConfigError: they do and no file was given.
        """
        if weights.sync == 0:
            return None
        if self.expert is None:
            raise ConfigError(
                "the sync loss needs an expert: train one with `lipwire train syncnet`, or take a "
                "published one, and give its checkpoint with --expert"
            )
        return load_expert(self.expert)


def make_trainer(
    preset: Preset, shards: Path, folder: Path, judges: Judges, init: Path | None = None
) -> Trainer:
    """A run with the paper's losses."""
    weights = preset.objective
    assert isinstance(weights, LossWeights)
    family = family_named(preset.family)
    expert = judges.open_expert(weights)  # what may be missing is looked for before the work
    measure = load_perceptual(judges.perceptual) if weights.perceptual > 0 else None
    torch.manual_seed(preset.train.seed)
    net = family.build(preset.net)
    if init is not None:
        fit_weights(net, weights_of(load_checkpoint(init)), init)
    size, columns = family.size(net), family.columns(net)
    plain = preset.family == "paper"
    clips = FiveFrames(StoredClips(shards, "train"), size, plain=plain, columns=columns)
    try:
        held_out = FiveFrames(StoredClips(shards, "val"), size, mirror=False, columns=columns)
    except ConfigError:
        held_out = clips
    objective = ClipObjective(family, net, clips, preset.train, weights, expert, measure, held_out)
    return Trainer(folder, preset.train, objective)
