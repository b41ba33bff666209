"""Sync_c and Sync_d: how sure the SyncNet of `Out of time` is that a mouth speaks a voice.

Chung & Zisserman, 2016, as the evaluation of Wav2Lip and of the paper uses it: five 224 px faces
and 20 columns of 13 MFCCs to two vectors of 1024, compared at 31 shifts of a film's sound. The
network has the published checkpoint's names (`syncnet_v2.model`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.face.alignment import face_box
from lipwire.engine.types import F32, F64, I16, SPEECH_RATE_HZ, U8
from lipwire.training.checkpoint import fit_weights, load_checkpoint, weights_of

FACE_PX = 224
FRAMES = 5
MFCCS = 13
MFCC_RATE_HZ = 100
COLUMNS_PER_FRAME, _remainder = divmod(MFCC_RATE_HZ, PAPER_FPS)
assert _remainder == 0
COLUMNS = FRAMES * COLUMNS_PER_FRAME
SHIFT = 15  # frames to either side that are tried
PADDING = 0.4  # of the box's half side, left and right and below: the pipeline's `crop_scale`


# --- network ---


class EvaluationSyncNet(nn.Module):
    """13.7 M parameters; attribute names are the published checkpoint's."""

    def __init__(self) -> None:
        super().__init__()

        def conv2(
            inputs: int, outputs: int, kernel: int | tuple[int, int], padding: int
        ) -> list[nn.Module]:
            return [
                nn.Conv2d(inputs, outputs, kernel, padding=padding),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]

        def conv3(
            inputs: int, outputs: int, kernel: tuple[int, int, int], stride: int, padding: int
        ) -> list[nn.Module]:
            return [
                nn.Conv3d(inputs, outputs, kernel, (1, stride, stride), (0, padding, padding)),
                nn.BatchNorm3d(outputs),
                nn.ReLU(),
            ]

        def pool3(padding: int) -> nn.Module:
            return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, padding, padding))

        self.netcnnaud = nn.Sequential(  # 13 x 20
            *conv2(1, 64, 3, 1), nn.MaxPool2d(1),
            *conv2(64, 192, 3, 1), nn.MaxPool2d(3, (1, 2)),
            *conv2(192, 384, 3, 1), *conv2(384, 256, 3, 1), *conv2(256, 256, 3, 1),
            nn.MaxPool2d(3, 2),
            *conv2(256, 512, (5, 4), 0),
        )  # fmt: skip
        self.netcnnlip = nn.Sequential(  # 5 x 224 x 224
            *conv3(3, 96, (5, 7, 7), 2, 0), pool3(0),
            *conv3(96, 256, (1, 5, 5), 2, 1), pool3(1),
            *conv3(256, 256, (1, 3, 3), 1, 1), *conv3(256, 256, (1, 3, 3), 1, 1),
            *conv3(256, 256, (1, 3, 3), 1, 1), pool3(0),
            *conv3(256, 512, (1, 6, 6), 1, 0),
        )  # fmt: skip

        def head() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024)
            )

        self.netfcaud, self.netfclip = head(), head()

    def embed_audio(self, mfcc: Tensor) -> Tensor:
        """f32[B, 1, 13, 20] -> f32[B, 1024]."""
        out: Tensor = self.netfcaud(self.netcnnaud(mfcc).flatten(1))
        return out

    def embed_faces(self, faces: Tensor) -> Tensor:
        """f32[B, 3, 5, 224, 224], BGR in 0..255 -> f32[B, 1024]."""
        out: Tensor = self.netfclip(self.netcnnlip(faces).flatten(1))
        return out


def load_syncnet(path: Path) -> EvaluationSyncNet:
    """The published network.

    Raises:
        CheckpointError: it cannot be read or does not fit.
    """
    net = EvaluationSyncNet()
    weights = {k.removeprefix("__S__."): v for k, v in weights_of(load_checkpoint(path)).items()}
    fit_weights(net, weights, path)
    return net.eval()


# --- sound ---

WINDOW, HOP, N_FFT = 400, 160, 512  # samples: 25 ms, 10 ms
FILTERS = 26
PREEMPHASIS = 0.97
LIFTER = 22
_TINY = float(np.finfo(np.float64).eps)


@cache
def _filters() -> F64:
    """Triangles on the mel scale with corners on whole bins of the spectrum, f64[26, 257]."""
    top = 2595 * np.log10(1 + SPEECH_RATE_HZ / 2 / 700)
    hz = 700 * (10 ** (np.linspace(0, top, FILTERS + 2) / 2595) - 1)
    corners = np.floor((N_FFT + 1) * hz / SPEECH_RATE_HZ)
    bins = np.arange(N_FFT // 2 + 1)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising = np.where(
        (bins >= low) & (bins < middle), (bins - low) / np.maximum(middle - low, 1), 0
    )
    falling = np.where(
        (bins >= middle) & (bins < high), (high - bins) / np.maximum(high - middle, 1), 0
    )
    return np.asarray(rising + falling)


def mfcc(speech: I16) -> F32:
    """Cepstra as the published network was fed: int16[N] at 16 kHz -> f32[M, 13], 100 a second.

    Rectangular 25 ms windows, power, 26 mel filters, log, orthonormal DCT-II, liftered; the first
    coefficient is the log energy. The last window is filled up with zeros.
    """
    x = speech.astype(np.float64)
    x = np.concatenate([x[:1], x[1:] - PREEMPHASIS * x[:-1]])
    count = 1 + max(0, -(-(len(x) - WINDOW) // HOP))
    x = np.pad(x, (0, (count - 1) * HOP + WINDOW - len(x)))
    windows = np.lib.stride_tricks.sliding_window_view(x, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(windows, N_FFT, axis=1)) ** 2 / N_FFT
    energy = power.sum(1)
    bands = np.log(np.where(f := power @ _filters().T, f, _TINY))
    k, n = np.arange(MFCCS)[:, None], np.arange(FILTERS)
    dct = np.sqrt(2 / FILTERS) * np.cos(np.pi * k * (2 * n + 1) / (2 * FILTERS))
    cepstra = bands @ dct.T * (1 + LIFTER / 2 * np.sin(np.pi * np.arange(MFCCS) / LIFTER))
    cepstra[:, 0] = np.log(np.where(energy, energy, _TINY))
    return cepstra.astype(np.float32)


# --- pictures ---


def face_crops(images: Sequence[U8], landmarks: Sequence[F32]) -> list[U8]:
    """What SyncNet's own pipeline cuts out: a padded square, its middle a running median.

    Args:
        images: uint8[H, W, 3] RGB, consecutive.
        landmarks: f32[468, 2] of each, pixels of the picture.

    Returns:
        uint8[224, 224, 3] each.
    """
    import cv2

    boxes = np.stack([face_box(points) for points in landmarks])
    half = np.max(boxes[:, 2:] - boxes[:, :2], axis=1) / 2
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    half, cx, cy = (_median13(v) for v in (half, centre[:, 0], centre[:, 1]))
    crops = []
    for image, h, x, y in zip(images, half, cx, cy, strict=True):
        side = h * (2 + 2 * PADDING)
        scale = FACE_PX / side
        x0, y0 = x - h * (1 + PADDING), y - h
        matrix = np.array(
            [[scale, 0, (0.5 - x0) * scale - 0.5], [0, scale, (0.5 - y0) * scale - 0.5]]
        )
        crop = cv2.warpAffine(
            image,
            matrix,
            (FACE_PX, FACE_PX),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(110, 110, 110),
        )
        crops.append(np.asarray(crop, np.uint8))
    return crops


def whole_pictures(images: Sequence[U8]) -> list[U8]:
    """Pictures as SyncNet is shown films that are cut around a face already, uint8[224, 224, 3]."""
    import cv2

    return [np.asarray(cv2.resize(image, (FACE_PX, FACE_PX)), np.uint8) for image in images]


def _median13(values: F64) -> F64:
    """Running median over 13 frames, fewer at the ends."""
    return np.array([np.median(values[max(i - 6, 0) : i + 7]) for i in range(len(values))])


# --- scores ---


class SyncScores(NamedTuple):
    """What SyncNet says of one film."""

    offset: int
    """of the sound in frames, as the published script prints it: negative where it is late"""
    confidence: float
    """Sync_c: the median distance less the least one; higher is better"""
    distance: float
    """Sync_d: the least mean distance over all shifts; lower is better"""


def sync_scores(faces: F32, sounds: F32, shift: int = SHIFT) -> SyncScores:
    """Compare a film's vectors at every shift of its sound.

    Args:
        faces: f32[T, 1024].
        sounds: f32[T, 1024].
        shift: frames to either side; the sound beyond its ends is zeros.
    """
    padded = np.pad(sounds.astype(np.float64), ((shift, shift), (0, 0)))
    count, by_shift = len(faces), []
    for s in range(2 * shift + 1):
        # 1e-6 is what torch's pairwise distance adds to each difference.
        gap = faces.astype(np.float64) - padded[s : s + count] + 1e-6
        by_shift.append(np.sqrt((gap**2).sum(1)).mean())
    best = int(np.argmin(by_shift))
    least = float(by_shift[best])
    return SyncScores(shift - best, float(np.median(by_shift)) - least, least)


@torch.no_grad()
def score_film(
    net: EvaluationSyncNet, crops: Sequence[U8], speech: I16, batch: int = 20
) -> SyncScores:
    """Sync_c and Sync_d of one film.

    Args:
        net: in evaluation mode.
        crops: of `face_crops`, 25 a second, unbroken.
        speech: int16[N] at 16 kHz from the first crop on.
        batch: windows at a time.

    Returns:
        All NaN where there are fewer than six frames with sound.
    """
    cepstra = mfcc(speech).T  # f32[13, M]
    count = min(len(crops), cepstra.shape[1] // COLUMNS_PER_FRAME) - FRAMES
    if count < 1:
        return SyncScores(0, float("nan"), float("nan"))
    film = torch.from_numpy(np.stack(crops)[..., ::-1].copy()).permute(3, 0, 1, 2)  # BGR
    sound = torch.from_numpy(np.ascontiguousarray(cepstra))
    faces, sounds = [], []
    for begin in range(0, count, batch):
        indices = range(begin, min(begin + batch, count))
        faces.append(
            net.embed_faces(torch.stack([film[:, i : i + FRAMES] for i in indices]).float())
        )
        windows = [sound[None, :, i * COLUMNS_PER_FRAME :][..., :COLUMNS] for i in indices]
        sounds.append(net.embed_audio(torch.stack(windows)))
    return sync_scores(torch.cat(faces).numpy(), torch.cat(sounds).numpy())
