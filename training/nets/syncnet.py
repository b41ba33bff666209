"""Sync experts: do these five mouths and this fifth of a second of sound belong together?

Both read the hidden halves of five consecutive frames and 16 mel columns and answer with a
probability. `ColourSyncNet` is the expert the paper trains with (Wav2Lip's, K R Prajwal et al.,
2020, sec. 3.1), under its published names, so that its checkpoints load. `SmallSyncNet` learns
from an hour of film instead of thirty.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FRAMES = 5  # what an expert sees at once: 200 ms, as long as it hears
ExpertKind = Literal["small", "wav2lip"]


def stack_halves(halves: Tensor, size: tuple[int, int]) -> Tensor:
    """Five hidden halves as one image with fifteen channels, as the published expert wants them.

    Args:
        halves: f32[B, 5, 3, h, w] RGB in ±1.
        size: (height, width) to resize to.

    Returns:
        f32[B, 15, H, W] in 0..1: frame after frame, blue before red (it was trained on OpenCV's).
    """
    stacked = halves.flip(2).flatten(1, 2) / 2 + 0.5
    if stacked.shape[2:] == size:
        return stacked
    return F.interpolate(stacked, size, mode="bilinear", antialias=True, align_corners=False)


def _unit(vectors: Tensor) -> Tensor:
    """At length 1, in float32: in half precision cosines near 1 are all alike."""
    return F.normalize(vectors.float())


class _Conv(nn.Module):
    """Convolution, batch norm, ReLU; with a skip where the shape stays."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int | tuple[int, int] = 1,
        padding: int = 0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.conv_block = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_block(x)
        return F.relu(h + x if self.residual else h)


def _stage(inputs: int, outputs: int, stride: int | tuple[int, int], blocks: int) -> list[_Conv]:
    """One change of size and width, then residual blocks."""
    first = _Conv(inputs, outputs, 3, stride, 1)
    return [first, *(_Conv(outputs, outputs, 3, 1, 1, residual=True) for _ in range(blocks))]


class ColourSyncNet(nn.Module):
    """The published expert: cosine of two rectified 512-vectors, 16.4 M parameters."""

    kind: ExpertKind = "wav2lip"
    size = (48, 96)  # px, height and width of a lower half

    def __init__(self) -> None:
        super().__init__()
        self.face_encoder = nn.Sequential(
            _Conv(3 * FRAMES, 32, 7, 1, 3),
            _Conv(32, 64, 5, (1, 2), 1),
            *_stage(64, 64, 1, 1)[1:],
            *_stage(64, 64, 1, 1)[1:],
            *_stage(64, 128, 2, 3),
            *_stage(128, 256, 2, 2),
            *_stage(256, 512, 2, 2),
            _Conv(512, 512, 3, 2, 1),
            _Conv(512, 512, 3),
            _Conv(512, 512, 1),
        )
        self.audio_encoder = nn.Sequential(
            *_stage(1, 32, 1, 2),
            *_stage(32, 64, (3, 1), 2),
            *_stage(64, 128, 3, 2),
            *_stage(128, 256, (3, 2), 2),
            _Conv(256, 512, 3),
            _Conv(512, 512, 1),
        )

    def embed_audio(self, mel: Tensor) -> Tensor:
        """f32[B, 80, 16] in ±4 -> f32[B, 512] of length 1; no entry is negative."""
        return _unit(self.audio_encoder(mel[:, None]).flatten(1))

    def embed_faces(self, halves: Tensor) -> Tensor:
        """f32[B, 5, 3, h, w] RGB in ±1 -> f32[B, 512] of length 1; no entry is negative."""
        return _unit(self.face_encoder(stack_halves(halves, self.size)).flatten(1))

    def judge(self, audio: Tensor, faces: Tensor) -> Tensor:
        """Probability that they belong together: their cosine; f32[..., 512] twice -> f32[...]."""
        return (audio * faces).sum(-1).clamp(0, 1)

    def forward(self, halves: Tensor, mel: Tensor) -> Tensor:
        """Do five frames and 200 ms of sound belong together?

        Args:
            halves: f32[B, 5, 3, h, w] RGB in ±1, hidden halves of consecutive frames.
            mel: f32[B, 80, 16] in ±4, from the first frame on.

        Returns:
            f32[B] in 0..1.
        """
        return self.judge(self.embed_audio(mel), self.embed_faces(halves))


def _plain(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU()
    )


class SmallSyncNet(nn.Module):
    """0.6 M parameters; group norms, so that a batch of any size on any device counts alike.

    Its vectors may point anywhere, and how sharply their cosine decides is learned, so unlike the
    published expert it does not first have to find its way out of answering 1 to everything.
    """

    kind: ExpertKind = "small"
    size = (32, 64)

    def __init__(self, width: int = 32, embedding: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        w = width
        # The mouth's movement, not the face, is what has to be heard: differences between frames
        # are offered beside the frames themselves.
        self.face = nn.Sequential(
            _plain(3 * (2 * FRAMES - 1), w, 2),
            _plain(w, 2 * w),
            _plain(2 * w, 2 * w, 2),
            _plain(2 * w, 3 * w, 2),
            _plain(3 * w, 4 * w, 2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4 * w * 2 * 4, embedding),
        )
        # Sound is one-dimensional: bands are channels, time is the axis.
        self.audio = nn.Sequential(
            nn.Conv1d(80, 4 * w, 3, padding=1),
            nn.GroupNorm(8, 4 * w),
            nn.SiLU(),
            nn.Conv1d(4 * w, 4 * w, 3, stride=2, padding=1),
            nn.GroupNorm(8, 4 * w),
            nn.SiLU(),
            nn.Conv1d(4 * w, 4 * w, 3, padding=1),
            nn.GroupNorm(8, 4 * w),
            nn.SiLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4 * w * 8, embedding),
        )
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.bias = nn.Parameter(torch.tensor(-1.0))

    def embed_audio(self, mel: Tensor) -> Tensor:
        """f32[B, 80, 16] in ±4 -> f32[B, E] of length 1."""
        return _unit(self.audio(mel / 4))

    def embed_faces(self, halves: Tensor) -> Tensor:
        """f32[B, 5, 3, h, w] RGB in ±1 -> f32[B, E] of length 1."""
        faces = stack_halves(halves, self.size)
        movement = 2 * (faces[:, 3:] - faces[:, :-3])
        return _unit(self.face(torch.cat([2 * faces - 1, movement], dim=1)))

    def judge(self, audio: Tensor, faces: Tensor) -> Tensor:
        """Probability that they belong together; f32[..., E] twice -> f32[...]."""
        return torch.sigmoid(self.scale * (audio * faces).sum(-1) + self.bias)

    def forward(self, halves: Tensor, mel: Tensor) -> Tensor:
        """Do they belong together? Shapes as in `ColourSyncNet.forward`."""
        return self.judge(self.embed_audio(mel), self.embed_faces(halves))


SyncExpert = ColourSyncNet | SmallSyncNet


def make_expert(kind: ExpertKind) -> SyncExpert:
    return ColourSyncNet() if kind == "wav2lip" else SmallSyncNet()
