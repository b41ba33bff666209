"""Training a sync expert: five mouths and 200 ms of sound, in step or out of it.

Those out of step come from the same clip, at most two seconds away: with sounds of other clips
an expert learns who is speaking, and where (Wav2Lip's authors say the same).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.errors import CheckpointError
from lipwire.engine.face.alignment import CROP_SIZE
from lipwire.training.checkpoint import fit_weights, load_checkpoint, weights_of
from lipwire.training.config import TrainConfig
from lipwire.training.data.augment_audio import louder_or_noisier
from lipwire.training.data.batch import FiveFrames, Slot, sync_window
from lipwire.training.data.dataset import ClipData, StoredClips
from lipwire.training.loop import Trainer, train
from lipwire.training.losses import agreement_loss
from lipwire.training.nets.syncnet import FRAMES, ExpertKind, SyncExpert, make_expert
from lipwire.training.objective import LossOutput, Objective

# Nearer than 120 ms people do not notice either; farther than 2 s it is hardly the same sentence.
MIN_SHIFT, MAX_SHIFT = 3, 2 * PAPER_FPS
# Loudness of a sample's sounds. Less: it learns whose microphone it was. More: quiet words drown.
GAIN_DB = 6.0
VALIDATION_PAIRS = 400
USEFUL_LOSS = 0.25  # of the published kind on unseen speakers, by its authors' experience

EXPERT_PRESETS: dict[ExpertKind, TrainConfig] = {
    "small": TrainConfig(
        steps=4_000,
        batch=64,
        learning_rate=1e-3,
        warmup=100,
        ema=0.995,
        weight_decay=0.02,
        checkpoint_every=250,
        sample_every=250,
    ),
    # Wav2Lip's: Adam, 1e-4, batch 64. It stays near 0.69 for a long time first.
    "wav2lip": TrainConfig(
        steps=200_000,
        batch=64,
        learning_rate=1e-4,
        schedule="constant",
        warmup=0,
        ema=0.999,
        weight_decay=0.0,
        workers=4,
        checkpoint_every=1_000,
        sample_every=1_000,
    ),
}
NEGATIVES: dict[ExpertKind, int] = {"small": 4, "wav2lip": 1}


class PairBatch(NamedTuple):
    """Mouths with sounds, the first of which is their own."""

    halves: Tensor  # f32[B, 5, 3, S/2, S] RGB in ±1
    mels: Tensor  # f32[B, 1 + K, 80, 16]


def out_of_step(length: int, first: int, rng: np.random.Generator, count: int) -> list[int]:
    """First frames of `count` windows that are out of step with the one at `first`."""
    starts = np.arange(length - FRAMES + 1)
    away = np.abs(starts - first)
    fitting = starts[(away >= MIN_SHIFT) & (away <= MAX_SHIFT)]
    return [int(i) for i in rng.choice(fitting, count)]


class Pairs:
    """The source of an expert's batches."""

    def __init__(
        self,
        clips: Sequence[ClipData],
        batch: int,
        negatives: int,
        seed: int,
        *,
        augment: bool = True,
    ) -> None:
        # A window in the middle needs MIN_SHIFT frames on one side.
        self.clips = FiveFrames(clips, CROP_SIZE, at_least=FRAMES + 2 * MIN_SHIFT)
        self.batch, self.negatives, self.seed, self.augment = batch, negatives, seed, augment

    def draw(self, step: int, slot: Slot) -> PairBatch:
        pairs = [
            self.pair(np.random.default_rng((self.seed, step, number)))
            for number in slot.numbers(self.batch)
        ]
        return PairBatch(*(torch.stack(parts) for parts in zip(*pairs, strict=True)))

    def pair(self, rng: np.random.Generator) -> PairBatch:
        """One sample, without the B."""
        clip = self.clips.pick(rng)
        first = int(rng.integers(len(clip) - FRAMES + 1))
        hidden = clip.crops[first : first + FRAMES, clip.crops.shape[1] // 2 :]
        windows = [first, *out_of_step(len(clip), first, rng, self.negatives)]
        mels = [sync_window(clip, start) for start in windows]
        halves = np.asarray(hidden, np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
        if self.augment:
            if rng.random() < 0.5:
                halves = halves[..., ::-1]
            halves = np.clip(halves * rng.uniform(0.8, 1.2) + rng.uniform(-0.15, 0.15), -1, 1)
            # All sounds of a sample alike, or loudness would tell which one was augmented how.
            state = rng.bit_generator.state
            for index, mel in enumerate(mels):
                rng.bit_generator.state = state
                mels[index] = louder_or_noisier(mel, GAIN_DB, rng)
        return PairBatch(
            torch.from_numpy(np.ascontiguousarray(halves, np.float32)),
            torch.from_numpy(np.stack(mels)),
        )


class ExpertObjective(Objective):
    """Binary cross-entropy, half for sounds in step and half for those out of it.

    So a coin's loss is 0.69 and its accuracy 0.5, whatever the number of negatives.
    """

    net: SyncExpert

    def __init__(
        self,
        net: SyncExpert,
        config: TrainConfig,
        clips: Sequence[ClipData],
        held_out: Sequence[ClipData],
    ) -> None:
        source = Pairs(clips, config.batch, NEGATIVES[net.kind], config.seed)
        super().__init__(net, source)
        self.validation = Pairs(held_out, VALIDATION_PAIRS, 1, seed=0, augment=False)

    def forward(self, batch: PairBatch) -> LossOutput:
        said = self._judge(self.net, batch)
        loss = _halves(said)
        return LossOutput(loss, {"total": loss, "accuracy": _accuracy(said)})

    @staticmethod
    def _judge(net: SyncExpert, batch: PairBatch) -> Tensor:
        """What it says of every mouth and sound, f32[B, 1 + K]."""
        faces = net.embed_faces(batch.halves)
        audio = net.embed_audio(batch.mels.flatten(0, 1)).view(*batch.mels.shape[:2], -1)
        return net.judge(audio, faces[:, None])

    @torch.no_grad()
    def report(self, ema: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Loss and accuracy on unseen speakers, on the same pairs every time."""
        assert isinstance(ema, type(self.net))
        device = next(ema.parameters()).device
        said = []
        for index in range(VALIDATION_PAIRS // 50):
            batch = self.validation.draw(0, Slot(index, VALIDATION_PAIRS // 50))
            pairs = PairBatch(*(part.to(device) for part in batch))
            said.append(self._judge(ema, pairs))
        every = torch.cat(said)
        return {"val_loss": float(_halves(every)), "val_accuracy": float(_accuracy(every))}

    def settings(self) -> dict[str, Any]:
        return {"kind": self.net.kind, "negatives": NEGATIVES[self.net.kind]}

    def state(self) -> dict[str, Any]:
        return {"family": f"expert-{self.net.kind}", "net_config": {"kind": self.net.kind}}


def _halves(said: Tensor) -> Tensor:
    right = agreement_loss(said[:, :1], together=True)
    return (right + agreement_loss(said[:, 1:], together=False)) / 2


def _accuracy(said: Tensor) -> Tensor:
    right = (said[:, :1] > 0.5).float().mean() + (said[:, 1:] <= 0.5).float().mean()
    return right / 2


def train_expert(
    shards: Path, folder: Path, kind: ExpertKind, config: TrainConfig | None = None
) -> tuple[Trainer, dict[str, float]]:
    """Train an expert on prepared shards; returns the run and its figures on unseen speakers."""
    chosen = config or EXPERT_PRESETS[kind]
    torch.manual_seed(chosen.seed)
    objective = ExpertObjective(
        make_expert(kind), chosen, StoredClips(shards, "train"), StoredClips(shards, "val")
    )
    trainer = train(Trainer(folder, chosen, objective))
    return trainer, objective.report(trainer.ema, folder, trainer.step)


def load_expert(path: Path) -> SyncExpert:
    """An expert to train with, frozen: of a run of ours, or a published colour SyncNet.

    Raises:
        CheckpointError: it cannot be read, or its tensors are of neither.
    """
    state = load_checkpoint(path)
    kind: ExpertKind = state.get("net_config", {}).get("kind", "wav2lip")
    if kind not in NEGATIVES:
        raise CheckpointError(f"{path}: an expert of unknown kind {kind!r}")
    net = make_expert(kind)
    fit_weights(net, weights_of(state), path)
    return net.requires_grad_(False).eval()
