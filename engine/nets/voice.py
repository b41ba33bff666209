"""The voice that a speech model taught: 1.2 s of log-mel -> the articulation code.

A pyramid of convolutions over time. Over a whole recording, as it is trained, each level's taps lie
twice as far apart as those of the level below (dilation: van den Oord et al., WaveNet, 2016), and
every second column has an answer. For one window, as it is used, only what the answer at the last
column is made of is computed, which is the same with strides of two.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipwire.engine.audio.mel import MAX_ABS, N_MELS

STEM = 4  # columns that the first layer takes, every second one
TAPS = (3, 3, 3, 5)  # of each level; they reach 96 columns
TAUGHT = 128  # components of the speech model's features: 64 of each of two layers
HEAD = 256
LIPS = 64
OPENING = 0  # in a code, as in lipwire.engine.face.articulation
# The chance of shut lips from which on they are drawn together, that of any frame of speech, and
# from which on they are shut. Lower: lips shut where people's are apart; higher: p, b and m are
# missed.
DRAWN, SHUT = 0.2, 0.4


def columns_of(taps: tuple[int, ...]) -> int:
    """Columns that one answer is made of."""
    return STEM + 2 * sum((count - 1) << level for level, count in enumerate(taps))


def at_each(layer: nn.Linear, x: Tensor) -> Tensor:
    """A layer at every time, f32[B, T, W] -> f32[B, T, V]: as rows, whose weights graphs keep."""
    out: Tensor = layer(x.flatten(0, 1))
    return out.view(*x.shape[:2], -1)


class Level(nn.Module):
    """A residual block: a convolution over time, then two layers at each time alone."""

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.taps = taps
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_time = nn.Linear(taps * width, width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, apart: int, stride: int) -> Tensor:
        """f32[B, T, W] -> f32[B, T', W].

        Args:
            x: of the level below.
            apart: of the taps, in times of `x`.
            stride: every so many times have an answer, the last one among them.
        """
        reach = (self.taps - 1) * apart
        count = (x.shape[1] - reach - 1) // stride + 1
        first = x.shape[1] - reach - 1 - (count - 1) * stride

        def at(tap: int, of: Tensor) -> Tensor:
            begin = first + tap * apart
            return of[:, begin : begin + (count - 1) * stride + 1 : stride]

        seen = self.norm1(x)
        heard = torch.cat([at(tap, seen) for tap in range(self.taps)], dim=2)
        x = at(self.taps - 1, x) + at_each(self.over_time, heard)
        return x + at_each(self.outer, F.silu(at_each(self.inner, self.norm2(x))))


class Lips(nn.Module):
    """How likely lips are shut, and a mouth that shuts them: a mean of mouths hardly ever does.

    Args:
        width: of what it is told by.
        codes: numbers in a code.
    """

    def __init__(self, width: int, codes: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.hidden, self.out = nn.Linear(width, LIPS), nn.Linear(LIPS, 1)
        # The opening that is shut once it is turned into a typical speaker's, and how the codes go
        # with it; none do until it is trained.
        self.register_buffer("shut", torch.zeros(()))
        self.register_buffer("follow", torch.zeros(codes))
        self.shut: Tensor
        self.follow: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """f32[..., W] -> f32[...], log odds."""
        out: Tensor = self.out(self.drop(F.silu(self.hidden(self.drop(x)))))
        return out[..., 0]

    def drawn(self, x: Tensor, mouth: Tensor) -> Tensor:
        """The mouth with its lips as shut as is likely, f32[B, W], f32[B, codes] in spreads."""
        share = ((self(x).sigmoid() - DRAWN) / (SHUT - DRAWN)).clamp(0, 1)
        change = share * (self.shut - mouth[:, OPENING]).clamp(max=0)
        return mouth + change[:, None] * self.follow


class Said(NamedTuple):
    """What is learned of a sound, at every time; all f32[B, T, ...]."""

    taught: Tensor
    """[.., 128], what the speech model makes of it"""
    codes: Tensor
    """[.., codes], the mouth, in the speaker's spreads"""
    shut: Tensor | None
    """[..], log odds of shut lips, of a voice that tells them"""


class PyramidVoice(nn.Module):
    """What the mouth does, heard from a window of log-mel.

    Args:
        width: of its layers.
        taps: of each level.
        codes: numbers in a code.
        lips: whether it tells shut lips apart.
    """

    expression = 1.2
    """see `CodeStats`: own mouths that follow it move 0.90 of people's, and 0.77 with 1"""

    def __init__(self, width: int, taps: tuple[int, ...], codes: int, lips: bool = False) -> None:
        super().__init__()
        self.columns = columns_of(taps)
        self.stem = nn.Linear(STEM * N_MELS, width)
        self.levels = nn.ModuleList(Level(width, count) for count in taps)
        self.norm = nn.LayerNorm(width)
        self.taught = nn.Linear(width, TAUGHT)
        self.drop = nn.Dropout(0.2)
        self.hidden = nn.Linear(width, HEAD)
        self.codes = nn.Linear(HEAD, codes)
        self.lips = Lips(width, codes) if lips else None
        self.register_buffer("gain", torch.ones(codes))
        self.register_buffer("offset", torch.zeros(codes))
        self.gain: Tensor
        self.offset: Tensor

    def _trunk(self, mel: Tensor, *, dense: bool) -> Tensor:
        """f32[B, 80, M] -> f32[B, T, W]."""
        frames = (mel.transpose(1, 2) / MAX_ABS).unfold(1, STEM, 2)
        x = at_each(self.stem, frames.flatten(2))
        last = len(self.levels) - 1
        for number, level in enumerate(self.levels):
            x = level(x, 1 << number, 1) if dense else level(x, 1, 1 if number == last else 2)
        return self.norm(x)

    def _mouth(self, x: Tensor) -> Tensor:
        out: Tensor = self.codes(self.drop(F.silu(self.hidden(self.drop(x)))))
        return out

    def along(self, mel: Tensor, *, through: bool = True) -> Said:
        """What is said at every second column of a recording, from the end of the first window on.

        Args:
            mel: f32[B, 80, M] in ±4.
            through: let gradients of the mouth into what hears; else they reach its heads alone.
                Those of shut lips never do.
        """
        x = self._trunk(mel, dense=True)
        shut = None if self.lips is None else self.lips(x.detach())
        return Said(self.taught(x), self._mouth(x if through else x.detach()), shut)

    def spoken(self, mel: Tensor) -> Tensor:
        """The mouth for each window in the speaker's spreads, f32[B, 80, C] -> f32[B, codes]."""
        x = self._trunk(mel, dense=False)[:, -1]
        mouth = self._mouth(x)
        return mouth if self.lips is None else self.lips.drawn(x, mouth)

    def forward(self, mel: Tensor, reach: Tensor | None = None) -> Tensor:
        """As `lipwire.engine.nets.lite.Voice`."""
        gain = self.gain if reach is None else self.gain * reach
        return self.spoken(mel) * gain + self.offset
