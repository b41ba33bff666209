"""The paper's network (Mukhopadhyay et al., Diff2Lip, WACV 2024), so its checkpoints load.

A UNet predicts the noise in the lower half of a face crop. It sees the noisy half, the
visible half and a reference frame as nine channels; the audio reaches it as one vector added
to the time embedding, which depends on neither the image nor the step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipwire.engine.errors import ConfigError
from lipwire.engine.nets.blocks import (
    NORM_GROUPS,
    GroupNorm,
    ResBlock,
    SelfAttention,
    Stage,
    time_mlp,
    timestep_embedding,
    zero_init,
)

MEL_BANDS = 80
MEL_COLUMNS = 16  # 200 ms at 80 columns a second

IMAGE_CHANNELS = 3
INPUT_CHANNELS = 3 * IMAGE_CHANNELS  # x_t, conditioning image, reference image
OUTPUT_CHANNELS = 2 * IMAGE_CHANNELS  # noise estimate, learned variance

# The audio encoder has one size, whatever the size of the UNet.
AUDIO_CHANNELS = 32
AUDIO_CHANNEL_MULT = (1, 2, 3, 4)
AUDIO_RES_BLOCKS = 2
AUDIO_STEM_CHANNELS = 64
# (bands, columns) pooled after each level but the last: 64x16 -> 32x16 -> 16x16 -> 8x8.
AUDIO_POOLING = ((2, 1), (2, 1), (2, 2))


@dataclass(frozen=True)
class Diff2LipConfig:
    """Widths of the UNet, under the names the published checkpoints' settings use.

    Attributes:
        image_size: Side of the square crop, px.
        model_channels: Base width; the time embedding is four times as wide.
        num_res_blocks: Residual blocks at each level going down (one more going up).
        attention_resolutions: Downsampling factors (not pixel sizes) with self-attention.
        channel_mult: Width of each level as a multiple of the base width.
        num_head_channels: Channels of one attention head.
    """

    image_size: int
    model_channels: int
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    channel_mult: tuple[int, ...]
    num_head_channels: int

    def __post_init__(self) -> None:
        # JSON has no tuples; a frozen config must not keep the caller's list.
        object.__setattr__(self, "attention_resolutions", tuple(self.attention_resolutions))
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ConfigError(f"channel_mult must be positive numbers, got {self.channel_mult}")
        if self.model_channels < 1 or self.model_channels % NORM_GROUPS:
            raise ConfigError(
                f"model_channels must be a multiple of {NORM_GROUPS}, got {self.model_channels}"
            )
        if self.num_res_blocks < 1:
            raise ConfigError(f"num_res_blocks must be at least 1, got {self.num_res_blocks}")
        deepest = 2 ** (len(self.channel_mult) - 1)
        if self.image_size < 1 or self.image_size % deepest:
            raise ConfigError(
                f"image_size must be a multiple of {deepest}, which {len(self.channel_mult)} "
                f"levels halve it down by, got {self.image_size}"
            )
        factors = {2**level for level in range(len(self.channel_mult))}
        if unknown := set(self.attention_resolutions) - factors:
            raise ConfigError(
                f"attention_resolutions has {sorted(unknown)}, but the levels downsample by "
                f"{sorted(factors)}"
            )
        # The middle block attends at the deepest level whatever the resolutions say.
        attended = {*self.attention_resolutions, deepest}
        for width in (
            self.channel_mult[f.bit_length() - 1] * self.model_channels for f in attended
        ):
            if self.num_head_channels < 1 or width % self.num_head_channels:
                raise ConfigError(
                    f"num_head_channels must divide {width}, the width of a level with "
                    f"attention, got {self.num_head_channels}"
                )

    @classmethod
    def official(cls) -> Diff2LipConfig:
        """The published 128 px model: 101.7 M parameters, 157 GFLOP a forward pass."""
        return cls(
            image_size=128,
            model_channels=128,
            num_res_blocks=2,
            attention_resolutions=(4, 8, 16),
            channel_mult=(1, 1, 2, 3, 4),
            num_head_channels=64,
        )

    @property
    def emb_dim(self) -> int:
        """Width of the time embedding and of the audio style added to it."""
        return 4 * self.model_channels


class AudioEncoder(nn.Module):
    """Log-mel window to a feature map, by the UNet's own residual blocks."""

    out_channels = AUDIO_CHANNELS * AUDIO_CHANNEL_MULT[-1]

    def __init__(self) -> None:
        super().__init__()
        width = AUDIO_CHANNELS
        self.time_embed = time_mlp(width, width)
        self.input_block = nn.Sequential(
            nn.Conv1d(MEL_BANDS, AUDIO_STEM_CHANNELS, 3, padding=1),
            GroupNorm(AUDIO_STEM_CHANNELS),
            nn.SiLU(),
        )
        self.encoder_blocks = nn.ModuleList([Stage([nn.Conv2d(1, width, 3, padding=1)])])
        channels = width
        for level, mult in enumerate(AUDIO_CHANNEL_MULT):
            for _ in range(AUDIO_RES_BLOCKS):
                self.encoder_blocks.append(Stage([ResBlock(channels, mult * width, width)]))
                channels = mult * width
            if level < len(AUDIO_POOLING):
                pool = nn.AvgPool2d(AUDIO_POOLING[level])
                self.encoder_blocks.append(Stage([ResBlock(channels, channels, width, pool)]))
        self.middle_block = Stage([ResBlock(channels, channels, width)])

    def forward(self, mel: Tensor) -> Tensor:
        """Encode ``mel`` f32[B,80,16] in ±4 to f32[B,128,8,8]."""
        # Its blocks expect an embedding, but audio has no diffusion step: always t = 0.
        emb = self.time_embed(timestep_embedding(mel.new_zeros(1), AUDIO_CHANNELS).to(mel.dtype))
        h = self.input_block(mel)[:, None]  # f32[B,1,64,16]: channels become rows
        for stage in self.encoder_blocks:
            h = stage(h, emb)
        out: Tensor = self.middle_block(h, emb)
        return out


class Diff2LipUNet(nn.Module):
    """The noise predictor: ``audio_style`` once a frame, then ``forward`` once a step."""

    def __init__(self, config: Diff2LipConfig) -> None:
        super().__init__()
        self.config = config
        base, emb_dim = config.model_channels, config.emb_dim
        self.time_embed = time_mlp(base, emb_dim)

        def level_layers(in_channels: int, out_channels: int, factor: int) -> list[nn.Module]:
            layers: list[nn.Module] = [ResBlock(in_channels, out_channels, emb_dim)]
            if factor in config.attention_resolutions:
                layers.append(SelfAttention(out_channels, config.num_head_channels))
            return layers

        first = channels = config.channel_mult[0] * base
        self.input_blocks = nn.ModuleList(
            [Stage([nn.Conv2d(INPUT_CHANNELS, channels, 3, padding=1)])]
        )
        skips = [channels]  # channels of every stage's output, for the way up
        deepest = len(config.channel_mult) - 1
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(Stage(level_layers(channels, mult * base, 2**level)))
                channels = mult * base
                skips.append(channels)
            if level < deepest:
                down = ResBlock(channels, channels, emb_dim, nn.AvgPool2d(2))
                self.input_blocks.append(Stage([down]))
                skips.append(channels)

        self.middle_block = Stage(
            [
                ResBlock(channels, channels, emb_dim),
                SelfAttention(channels, config.num_head_channels),
                ResBlock(channels, channels, emb_dim),
            ]
        )

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            # One block more than on the way down: the downsampling stage left a skip too.
            for index in range(config.num_res_blocks + 1):
                layers = level_layers(channels + skips.pop(), mult * base, 2**level)
                channels = mult * base
                if level and index == config.num_res_blocks:
                    layers.append(
                        ResBlock(channels, channels, emb_dim, nn.Upsample(scale_factor=2))
                    )
                self.output_blocks.append(Stage(layers))

        self.out = nn.Sequential(
            GroupNorm(channels),
            nn.SiLU(),
            zero_init(nn.Conv2d(first, OUTPUT_CHANNELS, 3, padding=1)),
        )
        self.audio_encoder = AudioEncoder()
        self.audio_encoder_to_style = nn.Sequential(
            GroupNorm(AudioEncoder.out_channels),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(AudioEncoder.out_channels, emb_dim, 1),
        )

    def audio_style(self, mel: Tensor) -> Tensor:
        """What the audio adds to the time embedding; the same at every step of a frame.

        Args:
            mel: f32[B,80,16], log-mel in ±4.

        Returns:
            f32[B,emb_dim].

        Raises:
            ConfigError: The window has another size. The pooling would accept any.
        """
        if tuple(mel.shape[1:]) != (MEL_BANDS, MEL_COLUMNS):
            raise ConfigError(
                f"the mel window must be [B,{MEL_BANDS},{MEL_COLUMNS}], got {list(mel.shape)}"
            )
        style: Tensor = self.audio_encoder_to_style(self.audio_encoder(mel)).flatten(1)
        return style

    def forward(self, x: Tensor, t: Tensor, style: Tensor) -> Tensor:
        """Estimate the noise in ``x``.

        Args:
            x: f32[B,9,S,S] from ``network_input``.
            t: [B], the diffusion step of each sample, 0..999.
            style: f32[B,emb_dim] from ``audio_style``.

        Returns:
            f32[B,6,S,S]: the noise estimate, then the three channels of the learned
            variance, which deterministic sampling ignores.
        """
        emb = self.time_embed(timestep_embedding(t, self.config.model_channels).to(x.dtype))
        emb = emb + style
        h, skips = x, []
        for stage in self.input_blocks:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        out: Tensor = self.out(h)
        return out


def replace_lower_half(image: Tensor, lower: Tensor) -> Tensor:
    """Rows 0..S/2-1 of ``image`` above rows S/2..S-1 of ``lower``, both f32[B,3,S,S].

    With ``lower`` the noise this makes the conditioning image, with the sample the result.
    """
    half = image.shape[2] // 2
    return torch.cat([image[:, :, :half], lower.expand_as(image)[:, :, half:]], dim=2)


def network_input(x_t: Tensor, condition: Tensor, reference: Tensor) -> Tensor:
    """The nine channels that ``Diff2LipUNet.forward`` takes.

    The visible half of ``x_t`` is overwritten here, at every step, so the sampler may leave
    anything in it.

    Args:
        x_t: f32[B,3,S,S], the sample at step t.
        condition: f32[B,3,S,S] in ±1, the visible half with noise in the hidden half.
        reference: f32[B,3,S,S] in ±1, another frame of the same person.

    Returns:
        f32[B,9,S,S].
    """
    return torch.cat([replace_lower_half(condition, x_t), condition, reference], dim=1)
