"""The lite network: Diff2Lip's idea on a budget that two CPU cores can pay, live.

Three parts, so that nothing is computed twice:
    voice    mel -> articulation code, a handful of numbers that say how the mouth is held
    encoder  visible half + reference + code -> feature maps; once a frame
    denoiser x_t + feature maps + t -> v, on the hidden half only; once a step
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipwire.engine.nets.voice import PyramidVoice, columns_of

CODE_NAMES = ("opening", "opening_side", "width", "jaw", "upper_lip", "lower_lip", "corners")
PLACE_CHANNELS = 12
# How far a pixel may be fetched from, in half crops: 16 px of 128. A jaw drops by 12 at most.
MAX_FLOW = 0.25
GATE_START = 2.0  # nearly all of the references at first; higher: the gate is slow to learn


@dataclass(frozen=True, slots=True)
class LiteConfig:
    """Sizes of the lite network; the defaults are what ships."""

    size: int = 128
    widths: tuple[int, int, int, int] = (24, 48, 96, 160)
    """channels at 1/2, 1/4, 1/8 and 1/16 of the crop's resolution"""
    embed: int = 128
    references: int = 2
    """pictures of the same person, the most closed mouth first"""
    mel_columns: int = 24
    """mel columns heard for one picture; all but the first 16 of the paper are more past"""
    voice_width: int = 160
    codes: int = len(CODE_NAMES)
    reach_px: float = 0.0
    """a typical speaker's range of opening, see `lipwire.engine.face.articulation_scale`; 0: the
    network takes no reach"""
    told: bool = False
    """whether the encoder is told the code that each reference shows"""
    voice_taps: tuple[int, ...] = ()
    """of a `PyramidVoice`; none: the voice is a `Voice`, which hears fewer columns"""
    voice_lips: bool = False
    """whether a `PyramidVoice` tells shut lips apart"""

    def to_dict(self) -> dict[str, Any]:
        """As stored in checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LiteConfig:
        """The inverse of `to_dict`."""
        lists: dict[str, Any] = {
            name: tuple(values[name]) for name in ("widths", "voice_taps") if name in values
        }
        return cls(**values | lists)


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps (or halves) the size."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


class FilmBlock(nn.Module):
    """Residual block whose normalised features are scaled and shifted by an embedding."""

    def __init__(self, width: int, embed: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = conv(width, width)
        self.film = nn.Linear(embed, 2 * width)
        self.norm2 = nn.GroupNorm(8, width)
        self.conv2 = conv(width, width)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embed: Tensor) -> Tensor:
        """f32[B, C, h, w], f32[B, E] -> f32[B, C, h, w]."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(embed)[:, :, None, None].chunk(2, dim=1)
        return x + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))


class Voice(nn.Module):
    """What the mouth does, heard from 300 ms of log-mel; trained against landmarks."""

    expression = 1.4
    """see `CodeStats`: by regression to the mean what it says moves less than people do. Less:
    mouths move little, 0.76 of people's at 1.25; more: mumblers shout"""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        width, self.columns = config.voice_width, config.mel_columns

        def heard(inputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
            conv = nn.Conv1d(inputs, width, 3, stride=stride, padding=1)
            return conv, nn.GroupNorm(8, width), nn.SiLU()

        size = config.mel_columns // 2 * width
        self.layers = nn.Sequential(
            *heard(80),
            *heard(width, stride=2),
            *heard(width),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(size, width), nn.SiLU(), nn.Dropout(0.2)),
            nn.Linear(width, config.codes),
        )
        # The layers tell the mouth in units of its own speaker's spread: people differ five-fold
        # in how far they open theirs. These turn it into a typical speaker's, and make up for the
        # regression to the mean, which speaks with a smaller mouth than people do.
        self.register_buffer("gain", torch.ones(config.codes))
        self.register_buffer("offset", torch.zeros(config.codes))
        self.gain: Tensor
        self.offset: Tensor

    def forward(self, mel: Tensor, reach: Tensor | None = None) -> Tensor:
        """The code that belongs to a sound, zero mean and unit spread over all people's speech.

        Args:
            mel: f32[B, 80, C] in ±4.
            reach: f32[B, codes], how far this person's mouth goes; None: as a typical speaker's.

        Returns:
            f32[B, codes].
        """
        gain = self.gain if reach is None else self.gain * reach
        return self.layers(mel / 4) * gain + self.offset


def make_voice(config: LiteConfig) -> Voice | PyramidVoice:
    """The voice of a lite network.

    Raises:
        ValueError: its taps do not reach as many columns as it is to hear.
    """
    if not config.voice_taps:
        return Voice(config)
    if (reached := columns_of(config.voice_taps)) != config.mel_columns:
        raise ValueError(f"taps reach {reached} mel columns, not {config.mel_columns}")
    return PyramidVoice(config.voice_width, config.voice_taps, config.codes, config.voice_lips)


def voice_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's `net_config` says of its voice; empty where it says nothing."""
    names = ("mel_columns", "voice_width", "reach_px")
    told = {name: settings[name] for name in names if name in settings}
    if told:
        told["voice_taps"] = tuple(settings.get("voice_taps", ()))
        told["voice_lips"] = settings.get("voice_lips", False)
    return told


def rescale_codes(voice: Mapping[str, Tensor], told: Tensor, stats: Tensor) -> dict[str, Tensor]:
    """A voice's weights, its codes in other units.

    Args:
        voice: its state.
        told: f32[2, 7], the means and spreads that its codes are normalised by.
        stats: f32[2, 7], those that they shall be normalised by.
    """
    ratio = told[1] / stats[1]
    gain = voice["gain"] * ratio
    offset = voice["offset"] * ratio + (told[0] - stats[0]) / stats[1]
    return {**voice, "gain": gain.float(), "offset": offset.float()}


class Comparison(nn.Module):
    """What each reference shows and how that differs from what is asked.

    Its results are added to what the code alone says, and are 0 until they are trained: a network
    that never knew what its references show goes on as it was.
    """

    def __init__(self, config: LiteConfig, places: int) -> None:
        super().__init__()
        inputs = 2 * config.references * config.codes
        self.embed = nn.Sequential(
            nn.Linear(inputs, config.embed), nn.SiLU(), nn.Linear(config.embed, config.embed)
        )
        self.place = nn.Sequential(nn.Linear(inputs, 32), nn.SiLU(), nn.Linear(32, places))
        for layers in (self.embed, self.place):
            last = layers[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, code: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """f32[B, codes], f32[B, R, codes] -> f32[B, embed], f32[B, places]."""
        told = torch.cat([shown.flatten(1), (code[:, None] - shown).flatten(1)], dim=1)
        return self.embed(told), self.place(told)


class ConditionEncoder(nn.Module):
    """All that does not depend on t: feature maps of the hidden half at four scales."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        w = config.widths
        self.code = nn.Sequential(
            nn.Linear(config.codes, config.embed), nn.SiLU(), nn.Linear(config.embed, config.embed)
        )
        # A drawing of the mouth that the code asks for, learned: the crop is stabilised, so a mouth
        # has its place in it. Without it the code only tints whole feature maps, and the network
        # is slow to learn that a jaw moves down.
        self.place_shape = (PLACE_CHANNELS, config.size // 8, config.size // 4)
        self.place = nn.Sequential(
            nn.Linear(config.codes, 32), nn.SiLU(), nn.Linear(32, prod(self.place_shape))
        )
        self.placed = nn.Conv2d(PLACE_CHANNELS, w[1], 1)
        self.comparison = Comparison(config, prod(self.place_shape)) if config.told else None
        self.stem = conv(4 * (3 + 6 * config.references), w[0])
        self.blocks = nn.ModuleList(FilmBlock(width, config.embed) for width in w)
        self.downs = nn.ModuleList(conv(a, b, stride=2) for a, b in zip(w, w[1:], strict=False))

    def forward(
        self, visible: Tensor, references: Tensor, code: Tensor, shown: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Feature maps for the denoiser.

        Args:
            visible: f32[B, 3, S/2, S] in ±1, the half that the model may see.
            references: f32[B, 3 R, S, S] in ±1.
            code: f32[B, codes].
            shown: f32[B, R, codes], what each reference shows; for a network that is told.

        Returns:
            f32[B, embed], then one map a scale, finest first.
        """
        embed, place = self.code(code), self.place(code)
        if self.comparison is not None:
            assert shown is not None
            embed_more, place_more = self.comparison(code, shown)
            embed, place = embed + embed_more, place + place_more
        halves = [
            h for r in references.chunk(references.shape[1] // 3, dim=1) for h in r.chunk(2, dim=2)
        ]
        seen = torch.cat([visible, *halves], dim=1)
        h = self.stem(F.pixel_unshuffle(seen, 2))
        maps = []
        for index, block in enumerate(self.blocks):
            if index == 1:
                h = h + self.placed(place.view(-1, *self.place_shape))
            h = block(h, F.silu(embed))
            maps.append(h)
            if index < len(self.downs):
                h = self.downs[index](h)
        return (embed, *maps)


class Denoiser(nn.Module):
    """One step on the hidden half: x_t and the feature maps to v.

    What it estimates is the clean picture, put together of several: each reference's own pixels,
    moved by a smooth flow (skin, lips and teeth keep their detail while the jaw goes down), and
    painted ones (what no reference shows); a soft gate chooses. A network this small could not
    redraw a face; it can move one.
    """

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        w = config.widths
        self.time = nn.Sequential(
            nn.Linear(64, config.embed), nn.SiLU(), nn.Linear(config.embed, config.embed)
        )
        self.stem = conv(4 * 3, w[0])
        self.downs = nn.ModuleList(conv(a, b, stride=2) for a, b in zip(w, w[1:], strict=False))
        self.enter = FilmBlock(w[2], config.embed)
        self.middle = FilmBlock(w[3], config.embed)
        self.ups = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(w, w[1:], strict=False))
        self.leave = nn.ModuleList(FilmBlock(width, config.embed) for width in w[:3])
        self.references = config.references
        flow, paint = conv(w[1], 2 * self.references), conv(w[0], 4 * (3 + self.references))
        for head in (flow, paint):
            assert head.bias is not None
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        # Start from the references, unmoved: an untrained model repeats them and shows no mud.
        nn.init.constant_(paint.bias[12:], GATE_START)  # type: ignore[index]
        self.flow = nn.Sequential(nn.GroupNorm(8, w[1]), nn.SiLU(), flow)
        self.paint = nn.Sequential(nn.GroupNorm(8, w[0]), nn.SiLU(), paint)
        self.register_buffer("grid", lower_half_grid(config.size), persistent=False)
        self.grid: Tensor

    def forward(
        self, x_t: Tensor, t: Tensor, sigma: Tensor, references: Tensor, *context: Tensor
    ) -> Tensor:
        """The velocity v = sqrt(ab) * eps - sqrt(1 - ab) * x0 (Salimans & Ho, 2022).

        With x0 estimated, v = (sqrt(ab) * x_t - x0) / sqrt(1 - ab): the noise in x_t need not pass
        through the network to be taken away.

        Args:
            x_t: f32[B, 3, S/2, S].
            t: f32[B], 0..999.
            sigma: f32[B], sqrt(1 - alphas_cumprod[t]), not 0.
            references: f32[B, 3 R, S, S] in ±1.
            *context: what `ConditionEncoder` returned.

        Returns:
            f32[B, 3, S/2, S].
        """
        embed, maps = context[0], context[1:]
        embed = F.silu(embed + self.time(timestep_embedding(t, 64)))
        h = self.stem(F.pixel_unshuffle(x_t, 2)) + maps[0]
        skips = [h]
        for index, down in enumerate(self.downs):
            h = down(F.silu(h)) + maps[index + 1]
            if index == 1:
                h = self.enter(h, embed)
            skips.append(h)
        h = self.middle(skips.pop(), embed)
        flow = h
        for index in (2, 1, 0):
            h = F.interpolate(self.ups[index](h), scale_factor=2.0, mode="nearest") + skips[index]
            h = self.leave[index](h, embed)
            if index == 1:
                flow = torch.tanh(self.flow(h)) * MAX_FLOW
        flow = F.interpolate(flow, scale_factor=4.0, mode="bilinear", align_corners=False)
        mixed = F.pixel_shuffle(self.paint(h), 2)
        gates = torch.softmax(F.pad(mixed[:, 3:], (0, 0, 0, 0, 1, 0)), dim=1)  # painting first
        x0 = gates[:, :1] * mixed[:, :3]
        for index, (reference, motion) in enumerate(
            zip(
                references.chunk(self.references, dim=1),
                flow.chunk(self.references, dim=1),
                strict=True,
            ),
            start=1,
        ):
            place = self.grid + motion.permute(0, 2, 3, 1)
            moved = F.grid_sample(reference, place, padding_mode="border", align_corners=False)
            x0 = x0 + gates[:, index : index + 1] * moved
        noise_level = sigma[:, None, None, None]
        return ((1 - noise_level**2).clamp(min=0).sqrt() * x_t - x0) / noise_level


def lower_half_grid(size: int) -> Tensor:
    """Where each hidden pixel lies in the whole crop, f32[1, S/2, S, 2] in grid_sample's ±1."""
    centres = (2 * torch.arange(size) + 1) / size - 1
    y, x = torch.meshgrid(centres[size // 2 :], centres, indexing="ij")
    return torch.stack([x, y], dim=-1)[None]


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """cos then sin of t * 10000^(-i / half): f32[B] -> f32[B, width]."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=t.device) * (-log(10000.0) / half))
    angles = t[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class LiteNet(nn.Module):
    """The three parts together, as trained and checkpointed."""

    def __init__(self, config: LiteConfig | None = None) -> None:
        super().__init__()
        self.config = config or LiteConfig()
        self.voice = make_voice(self.config)
        self.encoder = ConditionEncoder(self.config)
        self.denoiser = Denoiser(self.config)

    def encode(
        self,
        crop: Tensor,
        references: Tensor,
        mel: Tensor,
        reach: Tensor | None = None,
        shown: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Everything computed once a frame; `crop`'s lower half is not looked at."""
        visible = crop[:, :, : crop.shape[2] // 2]
        return self.encoder(visible, references, self.voice(mel, reach), shown)
