"""Sounds and what the teacher makes of them: what the lite voice learns from, kept on disk.

Each sound is heard as it is by the teacher and, degraded in several ways, by the voice: so the
voice learns to understand in a room or over a telephone what was said in a studio.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from lipwire.engine.audio.mel import log_mel
from lipwire.engine.errors import ConfigError, MediaError
from lipwire.engine.media.sound import as_float, read_speech
from lipwire.engine.nets.voice import TAUGHT
from lipwire.engine.types import F32, I16, SPEECH_RATE_HZ
from lipwire.training.data.augment_audio import degrade, speech_level
from lipwire.training.nets.whisper import WhisperEncoder

COPIES = 3  # degraded ones of each sound, beside the sound as it is
FITTED = 400  # sounds whose features the components are fitted to
LONGEST = 12 * SPEECH_RATE_HZ  # longer recordings are cut: a batch takes pieces of seconds
LEAST = SPEECH_RATE_HZ // 2
LEVEL = 0.08  # root mean square of what the teacher hears, -22 dB: loudness teaches nothing
NAMES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".g722")


class Teacher(Protocol):
    """Who understands speech."""

    def listen(self, samples: F32) -> F32:
        """f32[N] at 16 kHz -> f32[N / 320, D], the features of two layers beside each other."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One sound."""

    mels: tuple[np.ndarray, ...]  # type: ignore[type-arg]
    """f16[80, M] each: as it is, then degraded"""
    taught: np.ndarray  # type: ignore[type-arg]
    """f16[N / 320, 128], 50 a second; see `Components`"""


@dataclass(frozen=True, slots=True)
class Components:
    """The teacher's features by their principal components, half of the places for each layer.

    Scaled by the root of their spreads: whitened ones would be mostly noise, and as they come the
    first few would be all.
    """

    mean: F32
    """f32[D]"""
    axes: F32
    """f32[D, 128]"""

    @classmethod
    def fit(cls, features: Sequence[F32]) -> Components:
        """To some recordings, f32[N, D] each."""
        every = np.concatenate(features).astype(np.float64)
        mean, half = every.mean(0), every.shape[1] // 2
        axes = np.zeros((every.shape[1], TAUGHT))
        for layer in range(2):
            rows = slice(layer * half, (layer + 1) * half)
            values, vectors = np.linalg.eigh(np.cov((every - mean)[:, rows].T))
            count = min(TAUGHT // 2, half)
            first = layer * TAUGHT // 2
            spread = np.sqrt(np.maximum(values[::-1][:count], 1e-9))
            axes[rows, first : first + count] = vectors[:, ::-1][:, :count] / np.sqrt(
                spread * spread[0]
            )
        return cls(mean.astype(np.float32), axes.astype(np.float32))

    def of(self, features: F32) -> F32:
        """f32[N, D] -> f32[N, 128]."""
        return np.asarray((features - self.mean) @ self.axes, np.float32)


def read_speech_folder(folder: Path) -> list[I16]:
    """Every recording below a folder, in pieces of at most 12 s, int16[N] at 16 kHz.

    Raises:
        ConfigError: there is none that can be read.
    """
    pieces: list[I16] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in NAMES:
            continue
        try:
            samples = read_speech(path, SPEECH_RATE_HZ)
        except MediaError:
            continue
        pieces += [samples[i : i + LONGEST] for i in range(0, len(samples), LONGEST)]
    pieces = [piece for piece in pieces if len(piece) >= LEAST]
    if not pieces:
        raise ConfigError(f"{folder}: holds no speech that can be read ({', '.join(NAMES)})")
    return pieces


def _name(samples: I16) -> str:
    return hashlib.sha256(samples.tobytes()).hexdigest()[:24]


def _write(path: Path, **arrays: np.ndarray) -> None:  # type: ignore[type-arg]
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, path)


def prepare_lessons(
    folder: Path, sounds: Sequence[I16], teacher: Teacher | None = None
) -> list[Lesson]:
    """Have the teacher listen to all sounds; those that are in `folder` already are read.

    Args:
        folder: killed anywhere, the same call goes on from what is there.
        sounds: int16[N] at 16 kHz.
        teacher: None: Whisper's encoder, loaded if there is anything to listen to.

    Raises:
        ConfigError: the teacher is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "components.npz"
    names = [_name(samples) for samples in sounds]
    if not known.exists() or any(not (folder / f"{name}.npz").exists() for name in names):
        from rich.progress import track

        teacher = teacher or WhisperEncoder.pretrained()
        if not known.exists():
            every = max(1, len(sounds) // FITTED)
            heard = [teacher.listen(_levelled(as_float(s))) for s in sounds[::every]]
            fitted = Components.fit(heard)
            _write(known, mean=fitted.mean, axes=fitted.axes)
        with np.load(known) as stored:
            components = Components(stored["mean"], stored["axes"])
        told = list(zip(names, sounds, strict=True))
        for name, samples in track(told, "teacher listens"):
            if not (path := folder / f"{name}.npz").exists():
                _write(path, **_lesson(name, as_float(samples), teacher, components))
    return [_read(folder / f"{name}.npz") for name in names]


def _levelled(speech: F32) -> F32:
    return speech * np.float32(LEVEL / max(speech_level(speech), 1e-4))


def _lesson(name: str, speech: F32, teacher: Teacher, components: Components) -> dict[str, F32]:
    rng = np.random.default_rng(int(name, 16))
    heard = [log_mel(speech), *(log_mel(degrade(speech, rng)) for _ in range(COPIES))]
    taught = components.of(teacher.listen(_levelled(speech)))
    return {"mels": np.stack(heard).astype(np.float16), "taught": taught.astype(np.float16)}


def _read(path: Path) -> Lesson:
    with np.load(path) as stored:
        return Lesson(tuple(stored["mels"]), stored["taught"])
