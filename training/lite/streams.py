"""What the lite voice hears while it learns: clips and recordings after each other, with pauses.

A voice in a call begins after silence, stops and goes on; so does each stream. Every second column
from the voice's own window on is a moment with an answer: the teacher's, and on film the mouth's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lipwire.engine.audio.mel import (
    MAX_ABS,
    MEL_RATE_HZ,
    N_MELS,
    PAPER_FPS,
    SILENCE,
    WINDOW_COLUMNS,
)
from lipwire.engine.nets.voice import TAUGHT
from lipwire.engine.types import F32, F64
from lipwire.training.config import VoiceRecipe
from lipwire.training.data.augment_audio import louder_or_noisier
from lipwire.training.data.batch import Slot
from lipwire.training.lite.lessons import Lesson
from lipwire.training.nets.whisper import RATE_HZ

# Columns of silence between two pieces, 0.05 to 1.5 s: as often a breath as more past than a voice
# hears, as before the first word of a call.
PAUSES = ((4, 60), (60, 120))
FIRST = 0.7  # share of streams that begin in silence
AS_IT_IS = 0.4  # share of pieces that are heard undegraded
LOUDER_DB = 13.3  # loudness of half of the pieces varies by -16 to 11 dB
MOST_FRAMES = 250  # a clip longer than this counts as this long


class Heard(NamedTuple):
    """A batch of streams."""

    mels: Tensor
    """f32[B, 80, C + 2 (T - 1)]"""
    codes: Tensor
    """f32[B, T, 7] in the speaker's spreads"""
    seen: Tensor
    """bool[B, T], where a mouth is known"""
    taught: Tensor
    """f32[B, T, 128], the teacher's features"""
    told: Tensor
    """bool[B, T], where they are known"""


def time_of(column: F64) -> F64:
    """The time of the picture whose window ends with a column, s.

    `window_start` takes the floor of 80 (t - 0.04): half a column on average.
    """
    first = column - (WINDOW_COLUMNS - 1)
    return (first + 0.5) / MEL_RATE_HZ + 1 / PAPER_FPS


def between(rows: F32, places: F64) -> tuple[F32, np.ndarray]:  # type: ignore[type-arg]
    """Rows at fractional places, and whether they lie within, f32[T, D] and bool[T]."""
    last = len(rows) - 1
    inside = (places >= -0.5) & (places <= last + 0.5)
    clipped = np.clip(places, 0, last)
    low = np.floor(clipped).astype(int)
    high = np.minimum(low + 1, last)
    share = (clipped - low).astype(np.float32)[:, None]
    return rows[low].astype(np.float32) * (1 - share) + rows[high] * share, inside


class StreamSource:
    """Draws streams; see `lipwire.training.data.batch.Source`.

    Args:
        film: of the clips.
        codes: f32[T, 7] of each clip, in the speaker's spreads.
        plain: speech without film; may be empty.
        shut: f32[7], the mouth of one who is silent.
        recipe: shares of all of it.
        batch: streams.
        columns: of the voice's window.
        seed: of everything random.
    """

    def __init__(
        self,
        film: Sequence[Lesson],
        codes: Sequence[F32],
        plain: Sequence[Lesson],
        shut: F32,
        recipe: VoiceRecipe,
        *,
        batch: int,
        columns: int,
        seed: int,
    ) -> None:
        self._film, self._codes, self._plain, self._shut = film, codes, plain, shut
        self._recipe, self._batch, self._columns, self._seed = recipe, batch, columns, seed
        # By time: of a long clip a piece is heard, of a word all.
        piece = recipe.moments * 5 // 8
        counts = [min(len(own), MOST_FRAMES) for own in codes]
        self._film_shares = _shares([count / min(count, piece) for count in counts])
        self._plain_shares = _shares([len(lesson.taught) for lesson in plain])
        self.length = columns + 2 * (recipe.moments - 1)

    def draw(self, step: int, slot: Slot) -> Heard:
        """See `Source`."""
        rows = []
        for number in slot.numbers(self._batch):
            rng = np.random.default_rng((self._seed, step, number))
            kind = rng.random()
            if kind < self._recipe.silence:
                rows.append(self._voiceless(rng))
            else:
                film = not self._plain or kind < self._recipe.silence + self._recipe.film
                rows.append(self._stream(film, rng))
        return Heard(*(torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True)))

    def _empty(self) -> tuple[np.ndarray, ...]:  # type: ignore[type-arg]
        count = self._recipe.moments
        return (
            np.full((N_MELS, self.length), SILENCE, np.float32),
            np.zeros((count, len(self._shut)), np.float32),
            np.zeros(count, bool),
            np.zeros((count, TAUGHT), np.float32),
            np.zeros(count, bool),
        )

    def _voiceless(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:  # type: ignore[type-arg]
        row = self._empty()
        row[0][:] = voiceless(self.length, rng)
        row[1][:], row[2][:] = self._shut, True
        return row

    def _stream(self, film: bool, rng: np.random.Generator) -> tuple[np.ndarray, ...]:  # type: ignore[type-arg]
        row = self._empty()
        mel, codes, seen, taught, told = row
        lessons = self._film if film else self._plain
        at = int(rng.integers(self._columns + 14)) if rng.random() < FIRST else 0
        while at < self.length:
            pick = int(
                rng.choice(len(lessons), p=self._film_shares if film else self._plain_shares)
            )
            lesson = lessons[pick]
            copy = 0 if rng.random() < AS_IT_IS else int(rng.integers(len(lesson.mels)))
            whole = lesson.mels[copy]
            count = whole.shape[1]
            begin = int(rng.integers(max(1, count - self.length // 2)))
            begin = begin if count > 0.6 * self.length else 0
            stop = min(count, begin + self.length - at)
            loud = LOUDER_DB if rng.random() < 0.5 else self._recipe.gain_db
            piece = whole[:, begin:stop].astype(np.float32)
            mel[:, at : at + stop - begin] = louder_or_noisier(piece, loud, rng)
            # Moments whose last column lies in the piece, and that column in the clip.
            first = max(0, -(-(at - self._columns + 1) // 2))
            last = max(first, (at + stop - begin - self._columns) // 2 + 1)
            moments = slice(first, min(last, len(seen)))
            own = 2.0 * np.arange(first, moments.stop) + self._columns - 1 - at + begin
            if len(own):
                times = time_of(own)
                taught[moments], told[moments] = between(lesson.taught, times * RATE_HZ)
                if film:
                    codes[moments], seen[moments] = between(self._codes[pick], times * PAPER_FPS)
            at += stop - begin + int(rng.integers(*PAUSES[int(rng.integers(2))]))
        return row


def _shares(lengths: Sequence[float]) -> F64:
    counts = np.array(lengths, np.float64)
    return counts / counts.sum() if len(counts) else counts


def voiceless(columns: int, rng: np.random.Generator) -> F32:
    """A room in which nobody speaks: a floor of any level and colour, f32[80, C]."""
    level = rng.uniform(-MAX_ABS - 0.5, -1.5)
    colour = 0.1 * np.cumsum(rng.normal(0, 0.4, (N_MELS, 1)), axis=0)
    hiss = 0.25 * rng.standard_normal((N_MELS, columns))
    return np.clip(level + colour + hiss, -MAX_ABS, MAX_ABS).astype(np.float32)
