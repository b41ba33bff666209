"""Shards -> batches. Reading is random access and every batch is a function of (seed, step)."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from lipwire.engine.audio.mel import (
    MEL_RATE_HZ,
    N_FFT,
    PAPER_FPS,
    WINDOW_COLUMNS,
    log_mel,
    window,
    window_start,
)
from lipwire.engine.errors import ConfigError
from lipwire.engine.face.alignment import CROP_SIZE, jaw_mask, lips_mask
from lipwire.engine.face.articulation import clip_codes
from lipwire.engine.media.sound import as_float
from lipwire.engine.types import F32, I16, SPEECH_RATE_HZ, U8, Alignment
from lipwire.training.data.augment_audio import degrade
from lipwire.training.data.pictures import BYTES, ENDS, RAW, StoredPictures
from lipwire.training.data.shards import FORMAT, StoredArray, read_places, read_sample

_IDENTITY = Alignment(np.array([[1, 0, 0], [0, 1, 0]], np.float32), CROP_SIZE)
# The reference is another frame of the clip, at least this far away so that its mouth differs.
MIN_REFERENCE_GAP = 4
_SAMPLES_PER_FRAME = SPEECH_RATE_HZ // PAPER_FPS
I64 = npt.NDArray[np.int64]
NO_SPEECH: I16 = np.zeros(0, np.int16)


@dataclass(frozen=True, slots=True)
class ClipData:
    """One prepared clip; crops stay on disk until they are read."""

    key: str
    speaker: str
    crops: U8 | StoredArray | StoredPictures
    """uint8[T, 128, 128, 3]"""
    landmarks: F32
    """f32[T, 468, 2], crop pixels"""
    mel: F32
    """f32[80, M]"""
    codes: F32
    """f32[T, 7]"""
    speech: I16 | StoredArray = field(default_factory=lambda: NO_SPEECH)
    """int16[N] at 16 kHz, sample 0 at the first frame; empty where none was kept"""
    language: str = ""
    """what is spoken; empty: not known"""

    def __len__(self) -> int:
        return len(self.crops)


def load_clips(folder: Path, split: str) -> list[ClipData]:
    """Every clip of the split's shards.

    Raises:
        ConfigError: the folder holds no shard of that split.
    """
    return StoredClips(folder, split)[:]


def read_clip(
    path: Path, key: str, members: dict[str, tarfile.TarInfo], about: dict[str, Any]
) -> ClipData:
    """One clip of a shard; its crops and sound stay there until they are asked for.

    Raises:
        ConfigError: a later version of lipwire wrote it.
    """
    if about.get("format", 1) > FORMAT:
        raise ConfigError(f"{path}: was prepared by a later version (format {about['format']})")
    stored = {name: StoredArray(path, m) for name, m in members.items() if name.endswith(".npy")}
    landmarks = np.asarray(stored["landmarks.npy"], np.float32)
    crops: StoredArray | StoredPictures = (
        stored[RAW] if RAW in stored
        else StoredPictures(stored[BYTES], stored[ENDS], f"{path}, {key}")
    )  # fmt: skip
    return ClipData(
        key, about["speaker"], crops, landmarks,
        stored["mel.npy"][:], clip_codes(landmarks),
        stored.get("speech.npy", NO_SPEECH),  # format 1 kept no sound
        about.get("language", ""),
    )  # fmt: skip


class StoredClips(Sequence[ClipData]):
    """The clips of a split, each read when it is asked for: a corpus need not fit into memory.

    Holds 32 bytes a clip, no open file and no map, and forked processes share them.

    Args:
        folder: where `prepare` wrote.
        split: train, val or test.

    Raises:
        ConfigError: the folder holds no shard of that split.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self._paths, self._places = read_places(folder, split)
        if not len(self._places):
            raise ConfigError(f"{folder}: no {split} shards; run `lipwire prepare` first")

    @property
    def lengths(self) -> I64:
        """Frames of every clip, i64[N]."""
        return self._places[:, 3]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> ClipData: ...
    @overload
    def __getitem__(self, index: slice) -> list[ClipData]: ...
    def __getitem__(self, index: int | slice) -> ClipData | list[ClipData]:
        """Read one clip, or several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        shard, offset, members, _ = self._places[index].tolist()
        path = self._paths[shard]
        return read_clip(path, *read_sample(path, offset, members))


class Clips:
    """All clips of a split, and the batches drawn from them.

    Args:
        folder: where `prepare` wrote.
        split: train or val.
        code_stats: mean and spread of the codes, f32[2, 7]; None measures them here.
    """

    def __init__(self, folder: Path, split: str, code_stats: F32 | None = None) -> None:
        self.clips = load_clips(folder, split)
        # A clip longer than this counts as this long: one long talk must not drown the others.
        lengths = np.array([min(len(c), 250) for c in self.clips], np.float64)
        self._weights = lengths / lengths.sum()
        codes = np.concatenate([c.codes for c in self.clips])
        measured = np.stack([codes.mean(0), codes.std(0)]).astype(np.float32)
        self.code_stats: F32 = measured if code_stats is None else code_stats

    def normalised(self, codes: F32) -> F32:
        """Codes in units of their spread, limited to ±4."""
        return np.clip((codes - self.code_stats[0]) / self.code_stats[1], -4, 4)

    def pick(self, size: int, rng: np.random.Generator) -> list[int]:
        """Numbers of `size` clips, longer ones more often."""
        return [int(i) for i in rng.choice(len(self.clips), size=size, p=self._weights)]


def to_planes(image: U8) -> F32:
    """uint8[S, S, 3] -> f32[3, S, S] in ±1."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / 127.5 - 1


def other_frames(count: int, index: int, within_s: float) -> I64:
    """Frames of a clip of `count` that may be references of frame `index`: not next to it.

    Those within `within_s` of it, or all others where there is none.
    """
    distance = np.abs(np.arange(count) - index)
    far = np.flatnonzero(distance >= min(MIN_REFERENCE_GAP, count // 3))
    near = far[distance[far] < within_s * PAPER_FPS]
    return near if len(near) else far


def other_frame(codes: F32, index: int, rng: np.random.Generator) -> int:
    """Another frame of the clip, not next to `index`: reference != target (paper, 3.2).

    Of a few drawn, the one whose mouth is least like the target's: a reference that already shows
    the answer teaches the network to copy it, and in use it shows the very mouth to be replaced.
    """
    drawn = rng.choice(other_frames(len(codes), index, within_s=2), size=4)
    unlike = np.abs(codes[drawn, 0] - codes[index, 0]) + np.abs(codes[drawn, 5] - codes[index, 5])
    return int(drawn[unlike.argmax()])


def loss_weight(landmarks: F32) -> F32:
    """Where a mistake is seen: lips most, then the jaw, what is never shown hardly; f32[S, S]."""
    weight = 0.08 + jaw_mask(landmarks, _IDENTITY) + 2 * lips_mask(landmarks, _IDENTITY)
    return np.asarray(weight / weight[CROP_SIZE // 2 :].mean(), np.float32)


# What degrades a sound in whole frames and columns at once: 5 frames are 16 columns.
_SPAN_FRAMES = 5


def with_degraded_sound(
    clip: ClipData, first: int, count: int, rng: np.random.Generator
) -> ClipData:
    """The clip as a room, a network or a telephone would have let it be heard around some frames.

    Only about a second on either side of them is changed, which is cheap whatever the clip's
    length. A clip of format 1, which kept no sound, comes back as it is.

    Args:
        clip: as prepared.
        first: frame that will be looked at.
        count: how many.
        rng: draws what happens to the sound.
    """
    begin = max(0, first - PAPER_FPS) // _SPAN_FRAMES * _SPAN_FRAMES
    sample = begin * _SAMPLES_PER_FRAME
    speech = clip.speech[sample : sample + (count + 2 * PAPER_FPS) * _SAMPLES_PER_FRAME]
    if len(speech) <= N_FFT:
        return clip
    heard = log_mel(degrade(as_float(np.asarray(speech)), rng))
    column = begin * MEL_RATE_HZ // PAPER_FPS
    mel = clip.mel.copy()
    width = min(heard.shape[1], mel.shape[1] - column)
    mel[:, column : column + width] = heard[:, :width]
    return replace(clip, mel=mel)


def mel_windows(clip: ClipData, columns: int = WINDOW_COLUMNS) -> F32:
    """The window of every frame of a clip, f32[T, 80, C]; more columns than 16 are more past."""
    more = columns - WINDOW_COLUMNS
    return np.stack([window(clip.mel, window_start(i) - more, columns) for i in range(len(clip))])
