"""Five consecutive frames and their sound: what the paper's losses are computed on.

A sample is a function of (seed, step, its number in the step), so that a run is the same on one
device or many, and goes on exactly after a kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lipwire.engine.audio.mel import MEL_RATE_HZ, PAPER_FPS, WINDOW_COLUMNS, window, window_start
from lipwire.engine.errors import ConfigError
from lipwire.engine.types import F32, U8
from lipwire.training.data.dataset import ClipData, StoredClips, other_frame, to_planes
from lipwire.training.nets.syncnet import FRAMES


class ClipBatch(NamedTuple):
    """B times five consecutive frames of one clip; also one sample, without the B."""

    frames: Tensor
    """f32[B, 5, 3, S, S] in ±1"""
    references: Tensor
    """f32[B, 3, S, S] in ±1, one other frame of the clip for all five (paper, fig. 2)"""
    mels: Tensor
    """f32[B, 5, 80, C], the window of each frame"""
    sync_mels: Tensor
    """f32[B, 80, 16], the 200 ms that begin with the first frame: what an expert hears"""


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the equal parts that a step's samples are dealt out in, to ranks and micro-batches."""

    index: int = 0
    count: int = 1

    def numbers(self, batch: int) -> range:
        """The samples of this part, of `batch` in the whole step."""
        size = batch // self.count
        return range(self.index * size, (self.index + 1) * size)


class Source(Protocol):
    """Where a run's batches come from."""

    def draw(self, step: int, slot: Slot) -> Any:
        """The batch of one slot of one step; the same whenever and wherever it is asked for."""


def sync_window(clip: ClipData, frame: int) -> F32:
    """What an expert hears with frames `frame` .. `frame` + 4, f32[80, 16]."""
    return window(clip.mel, int(MEL_RATE_HZ * frame / PAPER_FPS))


def resized(image: U8, size: int) -> U8:
    """A square picture at `size` px."""
    if image.shape[0] == size:
        return image
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


class FiveFrames:
    """Draws five consecutive frames from prepared clips.

    Args:
        clips: to draw from.
        size: side of the crops, px.
        plain: as the paper draws: any other frame of the clip is as good a reference, and nothing
            is mirrored. Otherwise the reference is one whose mouth is unlike.
        mirror: flip every second sample, frames and reference alike; never if `plain`.
        at_least: frames of a clip; shorter ones are left out. Six leave one for the reference.
        columns: of log-mel in a frame's window; more than 16 are more past.

    Raises:
        ConfigError: no clip is long enough.
    """

    def __init__(
        self,
        clips: Sequence[ClipData],
        size: int,
        *,
        plain: bool = False,
        mirror: bool = True,
        at_least: int = FRAMES + 1,
        columns: int = WINDOW_COLUMNS,
    ) -> None:
        if isinstance(clips, StoredClips):
            lengths = clips.lengths
        else:
            lengths = np.array([len(c) for c in clips], np.int64)
        self.clips = clips
        self.long = np.flatnonzero(lengths >= at_least)
        if not len(self.long):
            raise ConfigError(f"no clip has {at_least} frames; nothing can be drawn")
        self.size, self.plain, self.columns = size, plain, columns
        self.mirror = mirror and not plain
        # A clip longer than this counts as this long: one long talk must not drown the others.
        shares = np.minimum(lengths[self.long], 250).astype(np.float64)
        # What `Generator.choice` makes of shares at every draw, made once.
        self._cumulative = np.cumsum(shares / shares.sum())
        self._cumulative /= self._cumulative[-1]

    def pick(self, rng: np.random.Generator) -> ClipData:
        """A clip, the longer the likelier."""
        drawn = np.searchsorted(self._cumulative, rng.random(), side="right")
        return self.clips[int(self.long[drawn])]

    def sample(self, rng: np.random.Generator) -> ClipBatch:
        """One sample."""
        clip = self.pick(rng)
        first = int(rng.integers(len(clip) - FRAMES + 1))
        if self.plain:
            reference = int(rng.integers(len(clip) - FRAMES))
            reference += FRAMES * (reference >= first)
            return self.at(clip, first, reference)
        reference = other_frame(clip.codes, first + FRAMES // 2, rng)
        if first <= reference < first + FRAMES:  # in a short clip the nearest other is none other
            outside = [i for i in range(len(clip)) if not first <= i < first + FRAMES]
            reference = int(rng.choice(outside))
        return self.at(clip, first, reference, mirrored=self.mirror and rng.random() < 0.5)

    def at(
        self, clip: ClipData, first: int, reference: int, *, mirrored: bool = False
    ) -> ClipBatch:
        """Frames `first` .. `first` + 4 of one clip, with frame `reference` as the reference."""

        def planes(index: int) -> F32:
            image = resized(np.asarray(clip.crops[index]), self.size)
            return to_planes(image[:, ::-1] if mirrored else image)

        frames = range(first, first + FRAMES)
        return ClipBatch(
            torch.from_numpy(np.stack([planes(i) for i in frames])),
            torch.from_numpy(planes(reference)),
            torch.from_numpy(np.stack([self._heard(clip, i) for i in frames])),
            torch.from_numpy(sync_window(clip, first)),
        )

    def _heard(self, clip: ClipData, frame: int) -> F32:
        start = window_start(frame) + WINDOW_COLUMNS - self.columns
        return window(clip.mel, start, self.columns)


def in_fives(frames: Tensor) -> Tensor:
    """Frames f32[5B, ...] as clips f32[B, 5, ...]."""
    return frames.reshape(-1, FRAMES, *frames.shape[1:])


def stack(samples: Sequence[ClipBatch]) -> ClipBatch:
    """Samples -> one batch."""
    return ClipBatch(*(torch.stack(parts) for parts in zip(*samples, strict=True)))


class NoisedBatch(NamedTuple):
    """A batch and all that is random about a step on it."""

    clip: ClipBatch
    t: Tensor
    """i64[B], one level for all five frames (paper, 3.2.1)"""
    noise: Tensor
    """f32[B, 3, S/2, S], one picture of noise for all five frames, as when sampling"""
    fill: Tensor
    """f32[B, 3, S/2, S], what covers the hidden half of the conditioning image"""


class NoisedClips:
    """The source of the paper's objective.

    The noise that covers the conditioning image is drawn apart from the noise in x_t: while
    sampling they are the same picture, but a network trained so would read the answer off.
    """

    def __init__(
        self,
        clips: FiveFrames,
        batch: int,
        seed: int,
        levels: Sequence[int] | npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Bind.

        Args:
            clips: where samples come from.
            batch: samples a step, over all ranks.
            seed: of everything.
            levels: noise levels to draw from; None is all 1000.
        """
        self.clips, self.batch, self.seed = clips, batch, seed
        self.levels = np.arange(1000) if levels is None else np.asarray(levels)

    def draw(self, step: int, slot: Slot) -> NoisedBatch:
        """See `Source`."""
        samples, levels, noises, fills = [], [], [], []
        shape = (3, self.clips.size // 2, self.clips.size)
        for number in slot.numbers(self.batch):
            rng = np.random.default_rng((self.seed, step, number))
            samples.append(self.clips.sample(rng))
            levels.append(int(rng.choice(self.levels)))
            noises.append(rng.standard_normal(shape, np.float32))
            fills.append(rng.standard_normal(shape, np.float32))
        return NoisedBatch(
            stack(samples),
            torch.tensor(levels),
            torch.from_numpy(np.stack(noises)),
            torch.from_numpy(np.stack(fills)),
        )
