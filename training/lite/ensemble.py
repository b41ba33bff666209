"""One voice that says what several say together.

Forty minutes of film let a voice learn its speakers by heart, and each seed errs in its own way.
What several say is nearer to the truth than what one says, most of all over the length of a frame.
The last voice learns just that, at every moment of the sound and not at the frames alone, and costs
in use what one voice costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lipwire.engine.audio.mel import MAX_ABS, window
from lipwire.engine.nets.lite import LiteConfig, Voice
from lipwire.engine.types import F32
from lipwire.training.config import TrainConfig, VoiceRecipe
from lipwire.training.data.dataset import Clips
from lipwire.training.lite.audio2mouth import Audio2MouthObjective, MelSource, held_out_of
from lipwire.training.loop import Trainer, train

# What is said one frame (3.2 columns) before and after counts half as much: people's mouths are no
# quicker, and a voice's errors are. The last voice sees both in its own window.
FRAME_COLUMNS = 3
SMOOTHING = (0.25, 0.5, 0.25)
# It may go on for longer than the others: there is little noise in what it is told.
LONGER = 2
CHUNK = 2048  # windows at a time: 16 MB


@torch.no_grad()
def ensemble_targets(voices: Sequence[Voice], mel: F32) -> F32:
    """What `voices` say on average at every column of `mel`, f32[80, M] -> f32[M, 7].

    Row m belongs to the window that begins half its length before column m.
    """
    columns = voices[0].columns
    starts = range(-(columns // 2), mel.shape[1] - columns // 2)
    said = []
    for first in range(0, len(starts), CHUNK):
        windows = np.stack([window(mel, s, columns) for s in starts[first : first + CHUNK]])
        heard = torch.from_numpy(windows / MAX_ABS)
        said.append(torch.stack([voice.eval().layers(heard) for voice in voices]).mean(0).numpy())
    codes = np.concatenate(said)
    padded = np.pad(codes, ((FRAME_COLUMNS, FRAME_COLUMNS), (0, 0)), mode="edge")
    shifted = (padded[n * FRAME_COLUMNS :][: len(codes)] for n in range(3))
    out = np.zeros_like(codes)
    for weight, part in zip(SMOOTHING, shifted, strict=True):
        out += weight * part
    return out


class EnsembleSource(MelSource):
    """Windows at any moment of all clips, each with what `voices` say together."""

    def __init__(
        self, clips: Clips, batch: int, recipe: VoiceRecipe, seed: int, voices: Sequence[Voice]
    ) -> None:
        super().__init__(clips, batch, voices[0].columns, recipe, seed)
        self._voices = voices
        # By clip, once it is drawn: minutes for a corpus, and none for a run that is over.
        self._said: dict[int, F32] = {}

    def moment(self, pick: int, rng: np.random.Generator) -> tuple[F32, F32]:
        """See `MelSource`."""
        mel = self.clips.clips[pick].mel
        if (said := self._said.get(pick)) is None:
            said = self._said[pick] = ensemble_targets(self._voices, np.asarray(mel))
        column = int(rng.integers(len(said)))
        return window(mel, column - self.columns // 2, self.columns), said[column]


def train_voice(
    shards: Path,
    folder: Path,
    config: TrainConfig,
    recipe: VoiceRecipe | None = None,
    net_config: LiteConfig | None = None,
) -> tuple[Trainer, dict[str, float]]:
    """Train the voice branch on `shards` in `folder`; returns its figures on held-out speakers.

    With `recipe.together` above 1 that many voices are trained first, in `folder`/voice-N, and the
    one in `folder` learns from them. Killed anywhere, it goes on.
    """
    recipe = recipe or VoiceRecipe()
    clips = Clips(shards, "train")
    held_out = held_out_of(clips, shards)
    source = None
    if recipe.together > 1:
        voices: list[Voice] = []
        for number in range(recipe.together):
            seeded = replace(config, seed=config.seed + number)
            one = Audio2MouthObjective(clips, seeded, recipe, net_config, held_out)
            trained = train(Trainer(folder / f"voice-{number}", seeded, one)).ema
            assert isinstance(trained, Voice)
            voices.append(trained)
        config = replace(config, seed=config.seed + len(voices), steps=config.steps * LONGER)
        source = EnsembleSource(clips, config.batch, recipe, config.seed, voices)
    objective = Audio2MouthObjective(clips, config, recipe, net_config, held_out, source)
    trainer = train(Trainer(folder, config, objective))
    return trainer, objective.report(trainer.ema, folder, trainer.step)
