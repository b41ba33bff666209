"""Shards -> batches. Reading is random access and every batch is a function of (seed, step)."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from lipwire.engine.audio.mel import PAPER_FPS, WINDOW_COLUMNS, window, window_start
from lipwire.engine.errors import ConfigError
from lipwire.engine.face.alignment import CROP_SIZE, jaw_mask, lips_mask
from lipwire.engine.face.articulation import clip_codes
from lipwire.engine.types import F32, I16, U8, Alignment
from lipwire.training.data.pictures import BYTES, ENDS, RAW, StoredPictures
from lipwire.training.data.shards import FORMAT, StoredArray, read_places, read_sample

_IDENTITY = Alignment(np.array([[1, 0, 0], [0, 1, 0]], np.float32), CROP_SIZE)
# The reference is another frame of the clip, at least this far away so that its mouth differs.
MIN_REFERENCE_GAP = 4
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
    crops: StoredArray | StoredPictures
    if RAW in stored:
        crops = stored[RAW]
    else:
        crops = StoredPictures(stored[BYTES], stored[ENDS], f"{path}, {key}")
    return ClipData(
        key,
        about["speaker"],
        crops,
        landmarks,
        stored["mel.npy"][:],
        clip_codes(landmarks),
        stored.get("speech.npy", NO_SPEECH),  # format 1 kept no sound
        about.get("language", ""),
    )


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


def mel_windows(clip: ClipData, columns: int = WINDOW_COLUMNS) -> F32:
    """The window of every frame of a clip, f32[T, 80, C]; more columns than 16 are more past."""
    more = columns - WINDOW_COLUMNS
    return np.stack([window(clip.mel, window_start(i) - more, columns) for i in range(len(clip))])
