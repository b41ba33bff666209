"""Wav2Lip's generator (Prajwal et al., ACM MM 2020), so that the paper's baseline runs here too.

One pass, no diffusion: 96 px face with its lower half blanked, a reference and 16 mel columns in,
the whole face out. Attribute names are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipwire.engine.audio.mel import WINDOW_COLUMNS

SIZE = 96  # the strides bring 96 px down to 1; no other side fits the published weights


@dataclass(frozen=True, slots=True)
class Wav2LipConfig:
    """The network has one size; this only says so."""

    size: int = SIZE
    mel_columns: int = WINDOW_COLUMNS


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU; with `residual` its input is added before the ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int | tuple[int, int] = 1,
        padding: int = 1,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs)
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, C, h, w] -> f32[B, C', h', w']."""
        out = self.conv_block(x)
        return torch.relu(out + x if self.residual else out)


class UpBlock(nn.Module):
    """Transposed convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 3, stride, padding, output_padding=stride - 1),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """f32[B, C, h, w] -> f32[B, C', stride * h, stride * w], or 3x3 from 1x1."""
        return torch.relu(self.conv_block(x))


def _same(width: int, count: int) -> list[nn.Module]:
    return [ConvBlock(width, width, residual=True) for _ in range(count)]


class Wav2Lip(nn.Module):
    """The generator; six face channels are the blanked face and the reference, BGR in 0..1."""

    def __init__(self, config: Wav2LipConfig | None = None) -> None:
        super().__init__()
        self.config = config or Wav2LipConfig()

        def down(inputs: int, outputs: int, count: int) -> nn.Sequential:
            return nn.Sequential(ConvBlock(inputs, outputs, stride=2), *_same(outputs, count))

        halved = (
            (16, 32, 2),
            (32, 64, 3),
            (64, 128, 2),
            (128, 256, 2),
            (256, 512, 1),
        )  # 48 .. 3 px
        last = nn.Sequential(ConvBlock(512, 512, padding=0), ConvBlock(512, 512, 1, padding=0))
        first = nn.Sequential(ConvBlock(6, 16, kernel=7, padding=3))  # 96 px
        self.face_encoder_blocks = nn.ModuleList([first, *(down(*one) for one in halved), last])
        self.audio_encoder = nn.Sequential(  # 80 x 16 -> 1 x 1
            *(ConvBlock(1, 32), *_same(32, 2)),
            *(ConvBlock(32, 64, stride=(3, 1)), *_same(64, 2)),
            *(ConvBlock(64, 128, stride=3), *_same(128, 2)),
            *(ConvBlock(128, 256, stride=(3, 2)), *_same(256, 1)),
            *(ConvBlock(256, 512, padding=0), ConvBlock(512, 512, 1, padding=0)),
        )

        def up(inputs: int, outputs: int, count: int, padding: int = 1) -> nn.Sequential:
            stride = 2 if padding else 1  # the first goes from 1 px to 3
            return nn.Sequential(UpBlock(inputs, outputs, stride, padding), *_same(outputs, count))

        # Inputs are the block before and the encoder's map of the same size.
        doubled = ((1024, 512, 2), (768, 384, 2), (512, 256, 2), (320, 128, 2), (160, 64, 2))
        bottom = nn.Sequential(ConvBlock(512, 512, 1, padding=0)), up(1024, 512, 1, padding=0)
        self.face_decoder_blocks = nn.ModuleList([*bottom, *(up(*one) for one in doubled)])
        self.output_block = nn.Sequential(ConvBlock(80, 32), nn.Conv2d(32, 3, 1), nn.Sigmoid())

    def forward(self, mel: Tensor, face: Tensor) -> Tensor:
        """The face speaking.

        Args:
            mel: f32[B, 1, 80, 16] in ±4.
            face: f32[B, 6, 96, 96] in 0..1.

        Returns:
            f32[B, 3, 96, 96], BGR in 0..1.
        """
        maps = []
        for block in self.face_encoder_blocks:
            face = block(face)
            maps.append(face)
        h = self.audio_encoder(mel)
        for block in self.face_decoder_blocks:
            h = torch.cat([block(h), maps.pop()], dim=1)
        out: Tensor = self.output_block(h)
        return out
