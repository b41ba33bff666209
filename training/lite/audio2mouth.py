"""What the lite model's voice branch learns: the mouth that belongs to a sound.

People open their mouths up to five times as far as others for the same sound, so targets are taken
in units of each speaker's own spread; what comes out is turned into a typical speaker's mouth.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lipwire.engine.audio.mel import (
    MAX_ABS,
    N_MELS,
    PAPER_FPS,
    WINDOW_COLUMNS,
    window,
    window_start,
)
from lipwire.engine.errors import ConfigError
from lipwire.engine.face.articulation import OPENING
from lipwire.engine.face.articulation_scale import LEAST_FRAMES, moving, range_px
from lipwire.engine.nets.lite import LiteConfig, Voice
from lipwire.engine.types import F32
from lipwire.training.config import TrainConfig, VoiceRecipe
from lipwire.training.data.augment_audio import louder_or_noisier
from lipwire.training.data.batch import Slot
from lipwire.training.data.dataset import Clips, mel_windows
from lipwire.training.losses import code_loss, cosine_of_codes
from lipwire.training.objective import LossOutput, Objective

OPENINGS = (0, 1)  # codes that are 0 for a closed mouth, whoever it is
CLOSED = 0.15  # spreads above the least opening of a speaker: a shut mouth
# Landmarks jitter: a speaker who hardly moves must not be blown up to one who does.
LEAST_SPREAD = 0.15
# Understanding is partial, so larger gestures are also wronger ones. From 1.6 to 1.9 lips lie as
# near to the truth. Less: the mouth moves less and lies no nearer; more: wide ones go too far.
MAX_GAIN = 1.8


class Spreads(NamedTuple):
    """How a speaker's codes lie."""

    least: F32
    """f32[7], the closed mouth's; 0 for codes that are taken from the clip's median"""
    spread: F32
    """f32[7]"""


def speakers_of(clips: Clips) -> dict[str, Spreads]:
    """Of every speaker, in crop pixels."""
    codes: dict[str, list[F32]] = defaultdict(list)
    for clip in clips.clips:
        codes[clip.speaker].append(clip.codes)
    everybody = np.concatenate([c for own in codes.values() for c in own]).std(0)
    found = {}
    for speaker, own in codes.items():
        all_codes = np.concatenate(own)
        least = np.zeros(all_codes.shape[1], np.float32)
        least[list(OPENINGS)] = np.percentile(all_codes[:, OPENINGS], 5, axis=0)
        found[speaker] = Spreads(least, all_codes.std(0) + LEAST_SPREAD * everybody)
    return found


def typical_range_px(clips: Clips) -> float:
    """The median over speakers of how far the opening ranges while the mouth moves, crop pixels.

    0, and so no reach, where nobody moves for a second.
    """
    openings: dict[str, list[float]] = defaultdict(list)
    for clip in clips.clips:
        openings[clip.speaker] += moving(clip.codes[:, OPENING], PAPER_FPS)
    ranges = [range_px(own) for own in openings.values() if len(own) >= LEAST_FRAMES]
    return round(float(np.median(ranges)), 3) if ranges else 0.0


class MelBatch(NamedTuple):
    """Sounds and the mouths that belong to them."""

    mels: Tensor
    """f32[B, 80, C]"""
    codes: Tensor
    """f32[B, 7] in the speaker's spreads"""


class MelSource:
    """Windows of all clips, now and then one without a voice in it."""

    def __init__(self, clips: Clips, batch: int, columns: int, recipe: VoiceRecipe, seed: int):
        self.clips, self.batch, self.columns, self.seed = clips, batch, columns, seed
        self.recipe, speakers = recipe, speakers_of(clips)
        self.targets = [
            np.clip((c.codes - speakers[c.speaker].least) / speakers[c.speaker].spread, -4, 5)
            for c in clips.clips
        ]
        every = np.concatenate(self.targets)
        shut = every[every[:, 0] < CLOSED]
        self.shut: F32 = (shut if len(shut) else every).mean(0).astype(np.float32)

    def draw(self, step: int, slot: Slot) -> MelBatch:
        """See `lipwire.training.data.batch.Source`."""
        part = () if slot.count == 1 else (slot.index,)
        rng = np.random.default_rng((self.seed, step, *part))
        mels, codes = [], []
        for pick in self.clips.pick(self.batch // slot.count, rng):
            if rng.random() < self.recipe.silence:
                mels.append(voiceless(self.columns, rng))
                codes.append(self.shut)
                continue
            mel, code = self.moment(pick, rng)
            mels.append(louder_or_noisier(mel, self.recipe.gain_db, rng))
            codes.append(code)
        return MelBatch(torch.from_numpy(np.stack(mels)),
                     torch.from_numpy(np.stack(codes).astype(np.float32)))  # fmt: skip

    def moment(self, pick: int, rng: np.random.Generator) -> tuple[F32, F32]:
        """Any moment of a clip: the window of mel, f32[80, C], and the mouth, f32[7]."""
        index = int(rng.integers(len(self.targets[pick])))
        start = window_start(index) - (self.columns - WINDOW_COLUMNS)
        mel = window(self.clips.clips[pick].mel, start, self.columns)
        return mel, np.asarray(self.targets[pick][index], np.float32)


def voiceless(columns: int, rng: np.random.Generator) -> F32:
    """A room in which nobody speaks: a floor of any level and colour, f32[80, C]."""
    level = rng.uniform(-MAX_ABS - 0.5, -1.5)
    colour = 0.1 * np.cumsum(rng.normal(0, 0.4, (N_MELS, 1)), axis=0)
    hiss = 0.25 * rng.standard_normal((N_MELS, columns))
    return np.clip(level + colour + hiss, -MAX_ABS, MAX_ABS).astype(np.float32)


class Audio2MouthObjective(Objective):
    """The voice branch alone.

    Args:
        clips: to learn from.
        config: of the run.
        recipe: of the sounds.
        net_config: sizes of the lite network.
        held_out: for the figures and the gain; without it, `clips`.
        source: of sounds and mouths; without it, `clips` as they were measured.
    """

    cpu_only = True
    net: Voice

    def __init__(
        self,
        clips: Clips,
        config: TrainConfig,
        recipe: VoiceRecipe,
        net_config: LiteConfig | None = None,
        held_out: Clips | None = None,
        source: MelSource | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        sizes = replace(net_config or LiteConfig(), reach_px=typical_range_px(clips))
        source = source or MelSource(clips, config.batch, sizes.mel_columns, recipe, config.seed)
        super().__init__(Voice(sizes), source)
        self.sizes, self.recipe = sizes, recipe
        self.clips, self.held_out = clips, held_out or clips

    def forward(self, heard: MelBatch) -> LossOutput:
        """See `Objective`; in the speaker's spreads, as gain and offset are not set yet."""
        loss = code_loss(self.net.layers(heard.mels / MAX_ABS), heard.codes)
        return LossOutput(loss, {"total": loss})

    def settings(self) -> dict[str, Any]:
        """See `Objective`."""
        return asdict(self.recipe)

    def state(self) -> dict[str, Any]:
        """See `Objective`."""
        return {
            "family": "voice",
            "net_config": self.sizes.to_dict(),
            "code_stats": torch.from_numpy(self.clips.code_stats),
        }

    def report(self, ema: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Median over held-out clips of each code's correlation with the mouth."""
        assert isinstance(ema, Voice)
        found = correlations(ema, self.held_out)
        return {"opening_r": float(found[0]), "mean_r": float(found.mean())}

    def finish(self, ema: nn.Module) -> None:
        """Turn spreads into a typical speaker's mouth, moving about as far as people's."""
        assert isinstance(ema, Voice)
        speakers = speakers_of(self.clips).values()
        typical = np.median([s.spread for s in speakers], axis=0)
        least = np.median([s.least for s in speakers], axis=0)
        mean, std = self.clips.code_stats
        gain = typical * regression_gain(ema, self.held_out) / std
        ema.gain.copy_(torch.from_numpy(gain.astype(np.float32)))
        ema.offset.copy_(torch.from_numpy(((least - mean) / std).astype(np.float32)))


@torch.no_grad()
def _spoken(voice: Voice, clips: Clips) -> list[tuple[Tensor, Tensor]]:
    """(said in spreads, true in spreads) of every clip, f32[T, 7] each."""
    voice.eval()
    speakers = speakers_of(clips)
    columns = voice.columns
    pairs = []
    for clip in clips.clips:
        least, spread = speakers[clip.speaker]
        said = voice.layers(torch.from_numpy(mel_windows(clip, columns)) / MAX_ABS)
        pairs.append((said, torch.from_numpy((clip.codes - least) / spread).float()))
    return pairs


def correlations(voice: Voice, clips: Clips) -> F32:
    """Median over clips of the correlation of each code, f32[7]."""
    found = torch.stack([cosine_of_codes(said, true) for said, true in _spoken(voice, clips)])
    return found.nanmedian(0).values.numpy()


def regression_gain(voice: Voice, clips: Clips) -> F32:
    """How much more mouths move than the voice branch says, per code, f32[7] in 1..MAX_GAIN."""
    pairs = _spoken(voice, clips)
    said, true = (torch.cat([pair[i] for pair in pairs]).std(0) for i in (0, 1))
    return (true / said.clamp_min(1e-6)).clamp(1.0, MAX_GAIN).numpy()


def held_out_of(clips: Clips, shards: Path) -> Clips | None:
    """Held-out clips of the same folder in the units of `clips`; None: it has none."""
    try:
        return Clips(shards, "val", clips.code_stats)
    except ConfigError:
        return None
