"""What the lite voice learns last: whether lips are shut.

A mean of what a mouth may do hardly ever shuts, so p, b and m are told apart from it: by the chance
that the opening is a shut mouth's, learned from what the finished voice hears. All else stays.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from lipwire.engine.nets.lite import LiteConfig
from lipwire.engine.nets.voice import OPENING, PyramidVoice
from lipwire.engine.types import F32
from lipwire.training.config import VoiceRecipe
from lipwire.training.data.batch import Source
from lipwire.training.data.dataset import Clips
from lipwire.training.lite.streams import Heard
from lipwire.training.objective import LossOutput, Objective

SHUT = 0.25  # lips are, below so much of an opening in the person's own spreads, from the least on


class LipsObjective(Objective):
    """The odds of shut lips, of a voice whose other weights are frozen.

    Args:
        net: the finished voice, one that tells shut lips.
        source: of streams.
        codes: f32[T, 7] of each clip, in the speaker's spreads.
        least: a typical speaker's least opening, crop pixels.
        recipe: of the sounds.
        sizes: of the lite network.
        clips: whose `code_stats` the voice speaks in.
    """

    cpu_only = True
    net: PyramidVoice

    def __init__(
        self,
        net: PyramidVoice,
        source: Source,
        codes: list[F32],
        least: float,
        recipe: VoiceRecipe,
        sizes: LiteConfig,
        clips: Clips,
    ) -> None:
        super().__init__(net, source)
        self.recipe, self.sizes, self.clips = recipe, sizes, clips
        assert net.lips is not None
        net.requires_grad_(False)
        net.lips.requires_grad_(True)
        every = np.concatenate(codes)
        away = every - every.mean(0)
        opening = away[:, OPENING]
        net.lips.follow.copy_(torch.from_numpy(opening @ away / (opening @ opening)))
        mean, std = clips.code_stats[:, OPENING]
        net.lips.shut.copy_(((least - mean) / std - net.offset[OPENING]) / net.gain[OPENING])

    def forward(self, heard: Heard) -> LossOutput:
        """See `Objective`; plain log loss, so that what is told is a chance."""
        odds = self.net.along(heard.mels).shut
        assert odds is not None
        shut = (heard.codes[..., OPENING] < SHUT).float()[heard.seen]
        loss = F.binary_cross_entropy_with_logits(odds.float()[heard.seen], shut)
        return LossOutput(loss, {"total": loss, "shut": shut.mean()})

    def settings(self) -> dict[str, Any]:
        """See `Objective`."""
        return {**asdict(self.recipe), "lips": True}

    def state(self) -> dict[str, Any]:
        """See `Objective`."""
        return {
            "family": "voice",
            "net_config": self.sizes.to_dict(),
            "code_stats": torch.from_numpy(self.clips.code_stats),
        }
