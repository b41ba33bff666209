"""What the lite voice learns: what a teacher hears, and the mouth that belongs to a sound.

First the teacher's features at every moment of all speech there is, then the mouths of the films,
while it goes on saying what the teacher does; at last shut lips (`lipwire.training.lite.lips`).
People open their mouths up to five times as far as others for the same sound, so targets are taken
in units of each speaker's own spread; what comes out is turned into a typical speaker's mouth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.errors import ConfigError
from lipwire.engine.face.articulation import OPENING
from lipwire.engine.face.articulation_scale import LEAST_FRAMES, moving, range_px
from lipwire.engine.nets.lite import LiteConfig, make_voice
from lipwire.engine.nets.voice import TAPS, PyramidVoice, columns_of
from lipwire.engine.types import F32, I16
from lipwire.training.config import TrainConfig, VoiceRecipe
from lipwire.training.data.dataset import Clips, mel_windows
from lipwire.training.lite.lessons import Lesson, Teacher, prepare_lessons, read_speech_folder
from lipwire.training.lite.lips import LipsObjective
from lipwire.training.lite.streams import Heard, StreamSource
from lipwire.training.loop import Trainer, train
from lipwire.training.losses import code_loss, cosine_of_codes
from lipwire.training.objective import LossOutput, Objective

OPENINGS = (0, 1)  # codes that are 0 for a closed mouth, whoever it is
CLOSED = 0.15  # spreads above the least opening of a speaker: a shut mouth
# Landmarks jitter: a speaker who hardly moves must not be blown up to one who does.
LEAST_SPREAD = 0.15
# What is said moves less than people do. Less: the mouth moves less and lies no nearer; more: wide
# ones go too far.
MAX_GAIN = 1.8
SIZES = {
    "mel_columns": columns_of(TAPS),
    "voice_width": 256,
    "voice_taps": TAPS,
    "voice_lips": True,
}


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


def spreads_of(clips: Clips) -> list[F32]:
    """The codes of every clip in its speaker's spreads, f32[T, 7] each."""
    speakers = speakers_of(clips)
    return [
        np.clip((c.codes - speakers[c.speaker].least) / speakers[c.speaker].spread, -4, 5).astype(
            np.float32
        )
        for c in clips.clips
    ]


class Audio2MouthObjective(Objective):
    """The voice branch alone.

    Args:
        clips: to learn from.
        lessons: of the clips, in their order.
        plain: of speech without film.
        config: of the run.
        recipe: of the sounds.
        sizes: of the lite network.
        held_out: for the figures and the gain; without it, `clips`.
        mouths: whether mouths shape all of it, or the heads alone while it learns from the teacher.
    """

    cpu_only = True
    net: PyramidVoice

    def __init__(
        self,
        clips: Clips,
        lessons: Sequence[Lesson],
        plain: Sequence[Lesson],
        config: TrainConfig,
        recipe: VoiceRecipe,
        sizes: LiteConfig,
        held_out: Clips | None = None,
        *,
        mouths: bool = True,
    ) -> None:
        torch.manual_seed(config.seed)
        sizes = replace(sizes, reach_px=typical_range_px(clips))
        net = make_voice(sizes)
        assert isinstance(net, PyramidVoice)
        codes = spreads_of(clips)
        every = np.concatenate(codes)
        shut = every[every[:, OPENING] < CLOSED]
        still = (shut if len(shut) else every).mean(0).astype(np.float32)
        source = StreamSource(
            lessons,
            codes,
            plain,
            still,
            recipe,
            batch=config.batch,
            columns=net.columns,
            seed=config.seed,
        )
        super().__init__(net, source)
        self.sizes, self.recipe, self.mouths = sizes, recipe, mouths
        self.clips, self.held_out = clips, held_out or clips
        self.codes = codes

    def forward(self, heard: Heard) -> LossOutput:
        """See `Objective`; in the speaker's spreads, as gain and offset are not set yet."""
        said = self.net.along(heard.mels, through=self.mouths)
        told = heard.told.float()
        gap = (said.taught.float() - heard.taught).abs().clamp(max=8).mean(2)
        codes = code_loss(said.codes.float()[heard.seen], heard.codes[heard.seen])
        parts = {
            "taught": (gap * told).sum() / told.sum().clamp_min(1),
            "codes": codes if heard.seen.any() else said.codes.sum() * 0,
        }
        total = parts["taught"] + parts["codes"]
        return LossOutput(total, {"total": total, **parts})

    def settings(self) -> dict[str, Any]:
        """See `Objective`."""
        return {**asdict(self.recipe), "mouths": self.mouths}

    def state(self) -> dict[str, Any]:
        """See `Objective`."""
        return {
            "family": "voice",
            "net_config": self.sizes.to_dict(),
            "code_stats": torch.from_numpy(self.clips.code_stats),
        }

    def report(self, ema: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Median over held-out clips of each code's correlation with the mouth."""
        assert isinstance(ema, PyramidVoice)
        found = correlations(ema, self.held_out)
        return {"opening_r": float(found[0]), "mean_r": float(found.mean())}

    def finish(self, ema: nn.Module) -> None:
        """Turn spreads into a typical speaker's mouth, moving about as far as people's."""
        assert isinstance(ema, PyramidVoice)
        speakers = speakers_of(self.clips).values()
        typical = np.median([s.spread for s in speakers], axis=0)
        least = np.median([s.least for s in speakers], axis=0)
        mean, std = self.clips.code_stats
        # From the usual mouth on, so that a shut one is not opened by it.
        raised, usual = regression_gain(ema, self.held_out)
        gain = typical * raised / std
        offset = (least + typical * usual * (1 - raised) - mean) / std
        ema.gain.copy_(torch.from_numpy(gain.astype(np.float32)))
        ema.offset.copy_(torch.from_numpy(offset.astype(np.float32)))


@torch.no_grad()
def _spoken(voice: PyramidVoice, clips: Clips) -> list[tuple[Tensor, Tensor]]:
    """(said in spreads, true in spreads) of every clip, f32[T, 7] each."""
    voice.eval()
    speakers = speakers_of(clips)
    columns = voice.columns
    pairs = []
    for clip in clips.clips:
        least, spread = speakers[clip.speaker]
        said = voice.spoken(torch.from_numpy(mel_windows(clip, columns)))
        pairs.append((said, torch.from_numpy((clip.codes - least) / spread).float()))
    return pairs


def correlations(voice: PyramidVoice, clips: Clips) -> F32:
    """Median over clips of the correlation of each code, f32[7]."""
    found = torch.stack([cosine_of_codes(said, true) for said, true in _spoken(voice, clips)])
    return found.nanmedian(0).values.numpy()


def regression_gain(voice: PyramidVoice, clips: Clips) -> tuple[F32, F32]:
    """How much more mouths move than is said, in 1..MAX_GAIN, and the usual mouth; f32[7] each."""
    pairs = _spoken(voice, clips)
    said, true = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
    gain = (true.std(0) / said.std(0).clamp_min(1e-6)).clamp(1.0, MAX_GAIN)
    return gain.numpy(), said.mean(0).numpy()


def held_out_of(clips: Clips, shards: Path) -> Clips | None:
    """Held-out clips of the same folder in the units of `clips`; None: it has none."""
    try:
        return Clips(shards, "val", clips.code_stats)
    except ConfigError:
        return None


def train_voice(
    shards: Path,
    folder: Path,
    config: TrainConfig,
    recipe: VoiceRecipe | None = None,
    sizes: LiteConfig | None = None,
    *,
    speech: Path | None = None,
    teacher: Teacher | None = None,
) -> tuple[Trainer, dict[str, float]]:
    """Train the voice branch in `folder`; returns its figures on held-out speakers.

    In `folder`/lessons is what the teacher says, in `folder`/heard the run that learns it, in
    `folder`/mouths the one that learns mouths, in `folder` the one that learns shut lips; in sizes
    without them that of mouths. Killed anywhere, it goes on.

    Args:
        shards: prepared clips, with their sound.
        folder: of the run.
        config: of the second run; the first has `recipe.heard_steps`, the last `lips_steps`.
        recipe: of all.
        sizes: of the lite network; None: those that ship.
        speech: folder of recordings without film, heard too.
        teacher: None: Whisper's encoder.

    Raises:
        ConfigError: shards without sound, a folder without speech, or no teacher is installed.
    """
    recipe, sizes = recipe or VoiceRecipe(), sizes or LiteConfig(**SIZES)  # type: ignore[arg-type]
    clips = Clips(shards, "train")
    if any(not len(clip.speech) for clip in clips.clips):
        raise ConfigError(f"{shards}: was prepared by a version that kept no sound; prepare again")
    sounds: list[I16] = [np.asarray(clip.speech) for clip in clips.clips]
    recorded = read_speech_folder(speech) if speech else []
    lessons = prepare_lessons(folder / "lessons", [*sounds, *recorded], teacher)
    own, plain = lessons[: len(sounds)], lessons[len(sounds) :]
    held_out = held_out_of(clips, shards)
    first = replace(config, steps=recipe.heard_steps, learning_rate=recipe.heard_rate)
    listening = replace(recipe, film=recipe.heard_film)
    objective = Audio2MouthObjective(
        clips, own, plain, first, listening, sizes, held_out, mouths=False
    )
    hearing = train(Trainer(folder / "heard", first, objective))
    config = replace(config, seed=config.seed + 1)
    objective = Audio2MouthObjective(clips, own, plain, config, recipe, sizes, held_out)
    objective.net.load_state_dict(hearing.ema.state_dict())
    objective.net.gain.fill_(1)
    objective.net.offset.zero_()
    mouths = folder / "mouths" if objective.sizes.voice_lips else folder
    trainer = train(Trainer(mouths, config, objective))
    if objective.sizes.voice_lips:
        last = replace(config, seed=config.seed + 1, steps=recipe.lips_steps)
        net = deepcopy(trainer.ema)
        assert isinstance(net, PyramidVoice)
        least = float(np.median([own.least[OPENING] for own in speakers_of(clips).values()]))
        lips = LipsObjective(
            net, objective.source, objective.codes, least, recipe, objective.sizes, clips
        )
        trainer = train(Trainer(folder, last, lips))
    return trainer, objective.report(trainer.ema, folder, trainer.step)
