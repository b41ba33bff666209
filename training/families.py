"""The two networks, seen alike: a condition computed once, then estimates of the hidden half.

Whoever trains, distils or draws goes through a `Family` and need not know which network it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lipwire.engine.audio.mel import WINDOW_COLUMNS
from lipwire.engine.errors import CheckpointError, ConfigError
from lipwire.engine.model.ddim import NoiseSchedule, Prediction, Spacing, predict_x0
from lipwire.engine.nets.diff2lip import Diff2LipConfig, Diff2LipUNet, network_input
from lipwire.engine.nets.lite import LiteConfig, LiteNet
from lipwire.training.checkpoint import fit_weights, load_checkpoint, weights_of
from lipwire.training.config import FamilyName
from lipwire.training.losses import split_v

SCHEDULE = NoiseSchedule.linear()


def visited_timesteps(grid: int) -> npt.NDArray[np.int64]:
    """Noise levels to train on, each as often as 1, 2, 4 .. `grid` sampling steps visit it.

    Sampling starts at pure noise whatever its step count, so that level matters most.
    """
    if grid == 0:
        return np.arange(len(SCHEDULE))
    counts = [2**i for i in range(grid.bit_length()) if 2**i <= grid]
    return np.concatenate([SCHEDULE.timesteps(n, spacing="trailing") for n in counts])


class Given(NamedTuple):
    """All that a network may know of a frame."""

    visible: Tensor  # f32[N, 3, S/2, S] in ±1
    references: Tensor
    """f32[N, 3, S, S] in ±1; a network that takes several is given it several times"""
    mels: Tensor  # f32[N, 80, C] in ±4
    fill: Tensor  # f32[N, 3, S/2, S], noise for the hidden half of the paper's conditioning image


class Family(Protocol):
    """How one kind of network is called."""

    @property
    def name(self) -> FamilyName:
        """Under which checkpoints and presets know it."""

    @property
    def prediction(self) -> Prediction:
        """What the network estimates."""

    @property
    def spacing(self) -> Spacing:
        """Which levels its sampler visits."""

    @property
    def levels(self) -> npt.NDArray[np.int64]:
        """Noise levels to train on, each as likely as it is often in here."""

    def build(self, config: dict[str, Any]) -> nn.Module:
        """A fresh network; an empty `config` is the published or shipped size."""

    def config(self, net: Any) -> dict[str, Any]:
        """The inverse of `build`."""

    def size(self, net: Any) -> int:
        """Side of the crop, px."""

    def columns(self, net: Any) -> int:
        """Columns of log-mel that it hears."""

    def condition(self, net: Any, given: Given) -> Any:
        """What depends on neither x_t nor t."""

    def denoise(self, net: Any, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        """f32[N, 3, S/2, S], i64[N] -> the estimate, f32[N, 3, S/2, S]."""


class _Float32(nn.Sequential):
    """Layers that mixed precision leaves alone.

    At high noise x0 magnifies the estimate's error up to 157 times: the eight bits of a bfloat16
    estimate would leave an x0 that is noise, and with it every loss but L_simple.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = nn.Sequential.forward(self, x.float())  # type: ignore[no-untyped-call]
            return out


@dataclass(frozen=True, slots=True)
class PaperFamily:
    """`Diff2LipUNet`: epsilon; velocity once distilled."""

    prediction: Prediction = "epsilon"
    spacing: Spacing = "leading"
    name: FamilyName = "paper"

    @property
    def levels(self) -> npt.NDArray[np.int64]:
        """All, uniformly (paper, 3.2)."""
        return visited_timesteps(0)

    def build(self, config: dict[str, Any]) -> Diff2LipUNet:
        net = Diff2LipUNet(Diff2LipConfig(**config) if config else Diff2LipConfig.official())
        net.out = _Float32(*net.out)
        return net

    def config(self, net: Diff2LipUNet) -> dict[str, Any]:
        return asdict(net.config)

    def size(self, net: Diff2LipUNet) -> int:
        return net.config.image_size

    def columns(self, net: Diff2LipUNet) -> int:
        return WINDOW_COLUMNS

    def condition(self, net: Diff2LipUNet, given: Given) -> tuple[Tensor, Tensor, Tensor]:
        """The conditioning image, the reference and the audio's vector."""
        image = torch.cat([given.visible, given.fill], dim=2)
        return image, given.references, net.audio_style(given.mels)

    def denoise(
        self, net: Diff2LipUNet, x_t: Tensor, t: Tensor, condition: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """The first three channels; the learned variance is not used by DDIM."""
        image, reference, style = condition
        whole = torch.cat([x_t, x_t], dim=2)  # its visible half is overwritten
        out: Tensor = net(network_input(whole, image, reference), t, style)
        return out[:, :3, out.shape[2] // 2 :]


@dataclass(frozen=True, slots=True)
class LiteFamily:
    """`LiteNet`: velocity on the hidden half; the voice branch learns through the pictures."""

    prediction: Prediction = "v"
    spacing: Spacing = "trailing"
    name: FamilyName = "lite"

    @property
    def levels(self) -> npt.NDArray[np.int64]:
        """Those that it samples at.

        It estimates x0, whose error eps magnifies where there is little noise: below them L_simple
        would ask for nothing but the first decimals of a picture that x_t already shows.
        """
        return visited_timesteps(8)

    def build(self, config: dict[str, Any]) -> LiteNet:
        return LiteNet(LiteConfig.from_dict(config) if config else None)

    def config(self, net: LiteNet) -> dict[str, Any]:
        return net.config.to_dict()

    def size(self, net: LiteNet) -> int:
        return net.config.size

    def columns(self, net: LiteNet) -> int:
        return net.config.mel_columns

    def condition(self, net: LiteNet, given: Given) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The reference and the encoder's maps.

        Raises:
            ConfigError: the network wants to be told what the reference shows, which `given` lacks.
        """
        if net.config.told:
            raise ConfigError("this lite network is told what its references show; not known here")
        references = given.references.repeat(1, net.config.references, 1, 1)
        return references, net.encoder(given.visible, references, net.voice(given.mels))

    def denoise(
        self, net: LiteNet, x_t: Tensor, t: Tensor, condition: tuple[Tensor, tuple[Tensor, ...]]
    ) -> Tensor:
        references, context = condition
        sigma = (1 - alpha_bars(t)).sqrt().flatten()
        out: Tensor = net.denoiser(x_t, t.float(), sigma, references, *context)
        return out


def sampled(family: Family, net: Any) -> dict[str, Any]:
    """What a checkpoint says of its network: how it is built and sampled."""
    return {
        "family": family.name,
        "prediction": family.prediction,
        "spacing": family.spacing,
        "net_config": family.config(net),
    }


def family_named(name: FamilyName) -> Family:
    """The family of a preset or a checkpoint."""
    return PaperFamily() if name == "paper" else LiteFamily()


def alpha_bars(t: Tensor) -> Tensor:
    """The level of each sample, f32[N, 1, 1, 1] on the device of t, i64[N]."""
    levels = torch.tensor(SCHEDULE.alphas_cumprod, dtype=torch.float32, device=t.device)
    return levels[t].view(-1, 1, 1, 1)


def estimates(out: Tensor, x_t: Tensor, t: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """(eps, x0) that an estimate implies (paper eq. 2), in float32; all f32[N, 3, S/2, S]."""
    out, alpha_bar = out.float(), alpha_bars(t)
    if prediction == "v":
        return split_v(out, x_t, alpha_bar)
    return out, predict_x0(x_t, out, alpha_bar, prediction)


@dataclass(frozen=True, slots=True)
class Opened:
    """A network from a checkpoint."""

    family: Family
    net: Any
    state: dict[str, Any]


def open_network(path: Path) -> Opened:
    """The averaged network of a run, or a published checkpoint of the paper's network.

    Raises:
        CheckpointError: unreadable, of neither network, or a tensor does not fit.
    """
    state = load_checkpoint(path)
    weights = weights_of(state)
    config = state.get("net_config", {})
    published = "input_blocks.0.0.weight" in weights
    name = state.get("family", "paper" if published else "lite")
    if name not in ("paper", "lite") or (name == "lite" and not config):
        raise CheckpointError(f"{path}: neither a run's checkpoint nor the paper's network")
    family = family_named(name)
    if isinstance(family, PaperFamily):
        names = ("prediction", "spacing")
        family = replace(family, **{name: state[name] for name in names if name in state})
    net = family.build(dict(config))
    fit_weights(net, weights, path)
    return Opened(family, net.eval(), state)
