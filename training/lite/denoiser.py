"""The lite painter's objective: the paper's pixel losses, a shape critic and a patch critic.

The painter is driven by the *measured* code of its target, so that it learns to obey within
minutes; what the voice says is learned apart (training/lite/audio2mouth.py), on its own number of
steps.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipwire.engine.nets.lite import LiteConfig, LiteNet, rescale_codes, voice_settings
from lipwire.engine.units.moved import unit_slot
from lipwire.training.checkpoint import fit_weights, load_checkpoint, weights_of
from lipwire.training.config import LiteRecipe, TrainConfig
from lipwire.training.data.dataset import Clips
from lipwire.training.families import SCHEDULE, LiteFamily, alpha_bars, estimates, visited_timesteps
from lipwire.training.lean import samples_seen
from lipwire.training.lite.audio2mouth import held_out_of
from lipwire.training.lite.critics import MouthCritics, with_code
from lipwire.training.lite.dataset import MouthBatch, Start
from lipwire.training.lite.growth import take_painter
from lipwire.training.lite.samples import sample_sheet
from lipwire.training.lite.source import MouthDraw, MouthSource
from lipwire.training.loop import Trainer, train
from lipwire.training.losses import code_loss, l2_loss, simple_loss
from lipwire.training.nets.imagenet import MouthFeatures
from lipwire.training.nets.mouth import ShapeCritic
from lipwire.training.objective import LossOutput, Objective

FAMILY = LiteFamily()
FIRST, SECOND = len(SCHEDULE) - 1, (len(SCHEDULE) - 1) // 2  # levels that two steps visit
UNIT_LEVELS = (249, 499)  # where what begins at a unit enters: the last of four steps, or of two


class GeneratedBatch(NamedTuple):
    """What the painter made of a batch."""

    x0: Tensor  # f32[B, 3, S/2, S], its estimate of the hidden half
    codes: Tensor  # f32[B, codes], the shape that it was asked for
    true: Tensor  # bool[B], whether that is the shape of its target
    losses: dict[str, Tensor]


def _estimate(
    net: LiteNet, x_t: Tensor, t: Tensor, references: Tensor, context: tuple[Tensor, ...]
) -> Tensor:
    """x0 as estimated at levels `t`, int64[B]."""
    v = FAMILY.denoise(net, x_t, t, (references, context))
    return estimates(v, x_t, t, FAMILY.prediction)[1]


def generate(
    net: LiteNet, batch: MouthBatch, recipe: LiteRecipe, random: torch.Generator
) -> GeneratedBatch:
    """Estimates and pixel losses of one batch, from what `batch.starts` says that x_t is made of.

    Pure noise, where every sampling without a unit starts; the network's own first estimate with
    noise put back, which is what the second of two steps is given; a unit with noise; and the true
    picture with noise, as the paper trains. Without the second kind the network learns to trust the
    mouth that shines through x_t more than the code, and further steps only damp the movement.

    Those astray are asked for the mouth of another frame. They have no target and no pixel loss.
    """
    crops, references = torch.from_numpy(batch.crops), torch.from_numpy(batch.references)
    size, half = len(crops), crops.shape[2] // 2
    hidden, visible = crops[:, :, half:], crops[:, :, :half]
    starts, true = torch.from_numpy(batch.starts), ~torch.from_numpy(batch.astray)
    codes = torch.where(
        true[:, None], torch.from_numpy(batch.codes), torch.from_numpy(batch.mismatched)
    )
    codes = codes + recipe.code_noise * torch.randn(codes.shape, generator=random)
    context = net.encoder(visible, references, codes, torch.from_numpy(batch.shown))
    noise = torch.randn(hidden.shape, generator=random)

    levels = torch.from_numpy(visited_timesteps(recipe.timestep_grid))
    t = levels[torch.randint(len(levels), (size,), generator=random)]
    own, unit = starts == Start.OWN, starts == Start.UNIT
    t[starts == Start.NOISE], t[own] = FIRST, SECOND
    start = hidden.clone()
    if bool(own.any()):
        with torch.no_grad():
            first = torch.full((int(own.sum()),), FIRST)
            guess = _estimate(
                net, noise[own], first, references[own], tuple(c[own] for c in context)
            )
        start[own] = guess.clamp(-1, 1)
    if bool(unit.any()):
        slot = 3 * unit_slot(net.config.references)
        start[unit] = references[unit, slot : slot + 3, half:]
        entered = torch.tensor(UNIT_LEVELS)
        t[unit] = entered[torch.randint(len(entered), (int(unit.sum()),), generator=random)]
    ab = alpha_bars(t)
    x_t = ab.sqrt() * start + (1 - ab).sqrt() * noise
    x0 = _estimate(net, x_t, t, references, context)
    # The noise that x_t holds if the true picture, or the estimate, is what it was made of.
    true_eps, eps = ((x_t - ab.sqrt() * x) / (1 - ab).sqrt() for x in (hidden, x0))
    where = torch.from_numpy(batch.weights)[true]
    simple = simple_loss(eps[true], true_eps[true], where)
    return GeneratedBatch(
        x0, codes, true, {"simple": simple, "l2": l2_loss(x0[true], hidden[true], where)}
    )


def shape_losses(critic: ShapeCritic, painted: GeneratedBatch, hidden: Tensor) -> dict[str, Tensor]:
    """How far the painted shape is from the code, and its features from the true mouth's."""
    found, maps = critic(painted.x0)
    with torch.no_grad():
        _, wanted = critic(hidden)
    pairs = zip(maps[:3], wanted[:3], strict=True)
    features = torch.stack([F.l1_loss(a[painted.true], b[painted.true]) for a, b in pairs])
    return {"shape": code_loss(found, painted.codes), "features": features.mean()}


class DenoiserObjective(Objective):
    """Encoder and denoiser of a lite network; its voice stays as it is."""

    cpu_only = True
    net: LiteNet

    def __init__(
        self,
        clips: Clips,
        config: TrainConfig,
        recipe: LiteRecipe,
        net: LiteNet,
        held_out: Clips | None = None,
    ) -> None:
        sizes = net.config
        source = MouthSource(clips, config.batch, sizes.references, config.seed, recipe)
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(net, source, MouthCritics(sizes.codes, sizes.size, recipe.r1))
        self.before = 0  # samples that the net saw in runs that this one goes on from
        self.measure = MouthFeatures.pretrained() if recipe.perceptual else None
        self.net.voice.requires_grad_(False)
        self.recipe, self.clips, self.held_out = recipe, clips, held_out or clips

    @property
    def critics(self) -> MouthCritics:
        assert isinstance(self.critic, MouthCritics)
        return self.critic

    def forward(self, drawn: MouthDraw) -> LossOutput:
        critics, w = self.critics, self.recipe
        hidden = torch.from_numpy(drawn.batch.crops)[:, :, self.net.config.size // 2 :]
        random = torch.Generator().manual_seed(drawn.seed)
        painted = generate(self.net, drawn.batch, w, random)
        critics.requires_grad_(False)
        parts = painted.losses | shape_losses(critics.shape.eval(), painted, hidden)
        parts["gan"] = -critics.patches(painted.x0, painted.codes).mean()
        critics.requires_grad_(True).train()
        if self.measure is not None:
            found, wanted = painted.x0[painted.true], hidden[painted.true]
            parts["perceptual"] = self.measure(found, wanted).mean()
        # Critics that know nothing yet have nothing to say.
        heard = min(1.0, drawn.step / w.shape_warmup)
        judged = min(1.0, max(0.0, (drawn.step - w.gan_start) / w.shape_warmup))
        total = (
            parts["simple"]
            + w.l2 * parts["l2"]
            + heard * (w.shape * parts["shape"] + w.features * parts["features"])
            + judged * w.gan * parts["gan"]
        )
        if self.measure is not None:
            total = total + w.perceptual * parts["perceptual"]
        codes = torch.from_numpy(drawn.batch.codes)
        fake = with_code(painted.x0.detach(), painted.codes)
        return LossOutput(total, {"total": total, **parts}, fake, with_code(hidden, codes))

    def settings(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def state(self) -> dict[str, Any]:
        return {
            "family": "lite",
            "net_config": self.net.config.to_dict(),
            "code_stats": torch.from_numpy(self.clips.code_stats),
            "before": self.before,
        }

    def report(self, ema: nn.Module, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(ema, LiteNet)
        sample_sheet(ema, self.held_out, folder / f"samples-{step:06d}.png")
        return {}


def net_for(recipe: LiteRecipe) -> LiteConfig:
    """Units are three references, and the network is told what they show."""
    return LiteConfig(references=3, told=True) if recipe.unit_starts else LiteConfig()


def train_lite(
    shards: Path,
    folder: Path,
    config: TrainConfig,
    recipe: LiteRecipe | None = None,
    net_config: LiteConfig | None = None,
    *,
    voice: Path,
    init: Path | None = None,
) -> Trainer:
    """Train the lite painter on `shards` in `folder`; see `lipwire.training.loop.train`.

    Args:
        shards: prepared clips, framed as the lite model's are.
        folder: of the run.
        config: of the run.
        recipe: of the losses.
        net_config: sizes of the network; None: as the recipe wants them.
        voice: checkpoint of `lipwire train voice`.
        init: checkpoint of an earlier painter, which a new run begins with: what it does not have
            is added without effect. Its critics come along where it holds them.

    Raises:
        CheckpointError: the voice or the earlier painter cannot be read or is of other sizes.
    """
    earlier = load_checkpoint(init) if init else None
    # Codes go on meaning what the earlier painter and the voice were told that they mean.
    clips = Clips(shards, "train", np.asarray(earlier["code_stats"]) if earlier else None)
    held_out = held_out_of(clips, shards)
    torch.manual_seed(config.seed)
    heard = load_checkpoint(voice)
    recipe = recipe or LiteRecipe()
    told = {"reach_px": 0.0, **voice_settings(heard.get("net_config", {}))}
    net = LiteNet(replace(net_config or net_for(recipe), **told))
    said = weights_of(heard)
    if "code_stats" in heard:
        said = rescale_codes(said, heard["code_stats"], torch.from_numpy(clips.code_stats))
    fit_weights(net.voice, said, voice)
    if earlier:
        take_painter(net, earlier, init)
    objective = DenoiserObjective(clips, config, recipe, net, held_out)
    if earlier:
        objective.before = samples_seen(earlier)
        if "critic" in earlier:
            fit_weights(objective.critics, earlier["critic"], init)
    return train(Trainer(folder, config, objective))
