"""The paper's objective (eq. 9), for either network: five frames, one t, up to five losses."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from lipwire.engine.model.ddim import add_noise
from lipwire.training.config import LossWeights, TrainConfig
from lipwire.training.data.batch import FiveFrames, NoisedBatch, NoisedClips, Slot, in_fives
from lipwire.training.families import SCHEDULE, Family, Given, alpha_bars, estimates, sampled
from lipwire.training.losses import (
    GanForm,
    critic_loss,
    generator_loss,
    l2_loss,
    perceptual_loss,
    r1_penalty,
    simple_loss,
    sync_loss,
)
from lipwire.training.nets.patchgan import SequencePatchGan
from lipwire.training.nets.perceptual import Perceptual
from lipwire.training.nets.syncnet import FRAMES, SyncExpert
from lipwire.training.objective import LossOutput, Objective
from lipwire.training.paper.trajectory import figure_sheet, repaint

VALIDATION_CLIPS = 12
VALIDATION_STEPS = 8


class Critic(nn.Module):
    """The discriminator and its own loss; trained on clips that the denoiser's step showed."""

    def __init__(self, net: SequencePatchGan, form: GanForm, r1: float) -> None:
        super().__init__()
        self.net, self.form, self.r1 = net, form, r1

    def forward(self, fake: Tensor, real: Tensor) -> LossOutput:
        """Price f32[B, 5, 3, S, S] estimates and real frames."""
        real = real.detach().requires_grad_(self.r1 > 0)
        judged = self.net(real)
        loss = critic_loss(judged, self.net(fake), self.form)
        parts = {"critic": loss}
        if self.r1 > 0:
            parts["r1"] = r1_penalty(judged, real)
            loss = loss + self.r1 * parts["r1"]
        return LossOutput(loss, parts)


def given_of(batch: NoisedBatch) -> Given:
    """What the network is told of every frame, five times B of them."""
    clip = batch.clip
    half = clip.frames.shape[3] // 2
    return Given(
        clip.frames[:, :, :, :half].flatten(0, 1),
        clip.references.repeat_interleave(FRAMES, 0),
        clip.mels.flatten(0, 1),
        batch.fill.repeat_interleave(FRAMES, 0),
    )


def noised(batch: NoisedBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(hidden, noise, t, x_t) of every frame, f32[5B, 3, S/2, S] and i64[5B] (paper eq. 2)."""
    frames = batch.clip.frames
    hidden = frames[:, :, :, frames.shape[3] // 2 :].flatten(0, 1)
    noise = batch.noise.repeat_interleave(FRAMES, 0)
    t = batch.t.repeat_interleave(FRAMES, 0)
    return hidden, noise, t, add_noise(hidden, noise, alpha_bars(t))


class ClipObjective(Objective):
    """L = L_simple + l2 L_2 + sync L_sync + perceptual L_lpips + gan L_GAN (paper eq. 9).

    Losses whose weight is 0 are not computed. The judges (expert, perceptual measure, critic) see
    the estimate clipped to ±1, as sampling clips it: they know pictures only, and at t near T an
    untrained epsilon network's estimate lies a hundred times outside. L_2 sees it as it is, and so
    draws it inside.
    """

    def __init__(
        self,
        family: Family,
        net: nn.Module,
        clips: FiveFrames,
        config: TrainConfig,
        weights: LossWeights,
        expert: SyncExpert | None = None,
        perceptual: Perceptual | None = None,
        held_out: FiveFrames | None = None,
    ) -> None:
        critic = None
        if weights.gan > 0:
            # Isola's patch is 70 of 256 px; a picture of 64 px would be one patch.
            layers = 3 if clips.size > 64 else 2
            critic = Critic(SequencePatchGan(layers=layers), weights.gan_form, weights.r1)
        super().__init__(net, NoisedClips(clips, config.batch, config.seed, family.levels), critic)
        assert weights.sync == 0 or expert is not None
        assert weights.perceptual == 0 or perceptual is not None
        self.family, self.weights, self.clips = family, weights, clips
        self.held_out = held_out or clips
        self.expert = None if expert is None else expert.requires_grad_(False).eval()
        self.perceptual = perceptual

    def forward(self, batch: NoisedBatch) -> LossOutput:
        hidden, noise, t, x_t = noised(batch)
        given = given_of(batch)
        condition = self.family.condition(self.net, given)
        out = self.family.denoise(self.net, x_t, t, condition)
        eps, x0 = estimates(out, x_t, t, self.family.prediction)
        parts = {"simple": simple_loss(eps, noise)}
        total = parts["simple"]
        w = self.weights
        if w.l2 > 0:
            parts["l2"] = l2_loss(x0, hidden)
            total = total + w.l2 * parts["l2"]
        shown = x0.clamp(-1, 1)
        whole = torch.cat([given.visible, shown], dim=2)
        frames = batch.clip.frames
        clips = in_fives(whole)
        if w.sync > 0 and self.expert is not None:
            parts["sync"] = sync_loss(self.expert, in_fives(shown), batch.clip.sync_mels)
            total = total + w.sync * parts["sync"]
        if w.perceptual > 0 and self.perceptual is not None:
            name = self.perceptual.name
            parts[name] = perceptual_loss(self.perceptual, whole, frames.flatten(0, 1))
            total = total + w.perceptual * parts[name]
        if self.critic is None:
            return LossOutput(total, {"total": total, **parts})
        assert isinstance(self.critic, Critic)
        parts["gan"] = generator_loss(self.critic.net, clips, w.gan_form)
        total = total + w.gan * parts["gan"]
        return LossOutput(total, {"total": total, **parts}, clips.detach(), frames)

    def settings(self) -> dict[str, Any]:
        measure = self.perceptual.name if self.perceptual and self.weights.perceptual else None
        return {**asdict(self.weights), "perceptual_measure": measure}

    def state(self) -> dict[str, Any]:
        return sampled(self.family, self.net)

    def report(self, ema: nn.Module, folder: Path, step: int) -> dict[str, float]:
        figure_sheet(self.family, ema, self.held_out, folder / f"samples-{step:06d}.png")
        return self.validate(ema)

    @torch.no_grad()
    def validate(self, ema: nn.Module) -> dict[str, float]:
        """Figures of the averaged network on held-out clips, on the same samples every time.

        Returns:
            `val_simple_T`: L_simple for t from T on, a quarter of the levels each. Of pictures
            sampled in `VALIDATION_STEPS` steps: the perceptual distance from the true ones, how
            sure the expert is that they and their own sound belong together (`val_sync`), and how
            much less sure with another clip's sound driving the mouth (`val_lift`: 0 for a network
            that does not listen).
        """
        device = next(ema.parameters()).device
        found: dict[str, list[Tensor]] = {}

        def note(name: str, value: Tensor) -> None:
            found.setdefault(name, []).append(value.float().cpu())

        quarter = len(SCHEDULE.alphas_cumprod) // 4
        source = NoisedClips(self.held_out, VALIDATION_CLIPS, 0)
        before: NoisedBatch | None = None
        for number in range(VALIDATION_CLIPS):
            batch = send_to_device(source.draw(0, Slot(number, VALIDATION_CLIPS)), device)
            given = given_of(batch)
            condition = self.family.condition(ema, given)
            # The sample's level within each quarter in turn: few samples then say what many would.
            for first in range(0, 4 * quarter, quarter):
                hidden, noise, t, x_t = noised(batch._replace(t=batch.t % quarter + first))
                out = self.family.denoise(ema, x_t, t, condition)
                eps, _ = estimates(out, x_t, t, self.family.prediction)
                note(f"val_simple_{first}", simple_loss(eps, noise))
            frames = batch.clip.frames.flatten(0, 1)
            painted = repaint(self.family, ema, given, VALIDATION_STEPS)
            if self.perceptual is not None:
                note(f"val_{self.perceptual.name}", self.perceptual(painted, frames).mean())
            if self.expert is None:
                continue
            half = frames.shape[2] // 2
            own = self.expert(in_fives(painted[:, :, half:]), batch.clip.sync_mels)
            note("val_sync", own.mean())
            if before is not None:
                heard = given._replace(mels=before.clip.mels.flatten(0, 1))
                wrong = repaint(self.family, ema, heard, VALIDATION_STEPS)[:, :, half:]
                note("val_lift", (own - self.expert(in_fives(wrong), batch.clip.sync_mels)).mean())
            before = batch
        return {name: float(torch.stack(values).mean()) for name, values in found.items()}
