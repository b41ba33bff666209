"""How sure a sync expert of `train syncnet` is that a mouth speaks a voice, and at which lag.

As Sync_c and Sync_d of SyncNet (`lipwire.training.evaluation.sync`), with an expert that anybody
can train: the distance of its two vectors, each of length 1, at lags of up to 15 frames. Only pairs
for which there is sound count. An expert judges best what it was trained on: films of one corpus
favour an expert of that corpus, and figures of two experts are not to be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from lipwire.engine.audio.mel import MEL_RATE_HZ, PAPER_FPS, WINDOW_COLUMNS, log_mel, window
from lipwire.engine.face.alignment import CROP_SIZE
from lipwire.engine.types import F32, F64, U8
from lipwire.training.evaluation.measures import Rows, over_speakers
from lipwire.training.nets.syncnet import FRAMES, SyncExpert

SHIFT = 15  # frames to either side that are tried
LEAST = 10  # pairs: the mean of fewer says nothing of a lag
AT_ONCE = 50  # windows


class InStep(NamedTuple):
    """What an expert says of some seconds."""

    lag: int
    """frames by which the mouth is late where the distance is least"""
    confidence: float
    """the median distance over lags less the least one; higher is better"""
    distance: float
    """the least mean distance, 0 to 2; lower is better"""
    likely: float
    """mean probability that mouth and sound belong together at lag 0; 1 is best"""


class Pairs(NamedTuple):
    """Of one film: sums over pairs of mouth and sound, for each lag from -15 to 15."""

    distances: F64
    """f64[31]"""
    counts: F64
    """f64[31]"""
    likely: float
    """sum over the pairs of lag 0"""


@torch.no_grad()
def pairs_of(expert: SyncExpert, crops: Sequence[U8], speech: F32) -> Pairs:
    """Every five frames with the sounds around them.

    Args:
        expert: in evaluation mode.
        crops: uint8[S, S, 3], stabilised, 25 a second, unbroken.
        speech: f32[N] at 16 kHz from the first crop on.
    """
    mel, halves = log_mel(speech), _halves(crops)
    heard = [int(MEL_RATE_HZ * i / PAPER_FPS) for i in range(len(crops) - FRAMES + 1)]
    heard = [start for start in heard if start + WINDOW_COLUMNS <= mel.shape[1]]
    distances, counts, likely = np.zeros(2 * SHIFT + 1), np.zeros(2 * SHIFT + 1), 0.0
    if not heard:
        return Pairs(distances, counts, likely)
    faces, sounds = [], []
    for begin in range(0, len(heard), AT_ONCE):
        starts = heard[begin : begin + AT_ONCE]
        five = [halves[i : i + FRAMES] for i in range(begin, begin + len(starts))]
        faces.append(expert.embed_faces(torch.stack(five)))
        mels = np.stack([window(mel, start) for start in starts])
        sounds.append(expert.embed_audio(torch.from_numpy(mels)))
    face, sound = torch.cat(faces), torch.cat(sounds)
    for index, lag in enumerate(range(-SHIFT, SHIFT + 1)):
        late, early = face[max(lag, 0) :], sound[max(-lag, 0) :]
        both = min(len(late), len(early))
        gap = (late[:both] - early[:both]).norm(dim=1)
        distances[index], counts[index] = float(gap.sum()), both
    likely = float(expert.judge(sound, face).sum())
    return Pairs(distances, counts, likely)


def verdict(pairs: Pairs) -> InStep:
    """Of the pairs of one film or of several; NaN where no lag has ten pairs."""
    enough = pairs.counts >= LEAST
    if not enough.any():
        return InStep(0, *[float("nan")] * 3)
    mean = np.where(enough, pairs.distances / np.maximum(pairs.counts, 1), np.nan)
    best = int(np.nanargmin(mean))
    least = float(mean[best])
    likely = pairs.likely / pairs.counts[SHIFT] if pairs.counts[SHIFT] else float("nan")
    return InStep(best - SHIFT, float(np.nanmedian(mean)) - least, least, float(likely))


def over_films(films: Sequence[dict[str, Pairs]]) -> dict[str, dict[str, Any]]:
    """By name the verdict on all films' pairs, each figure but the lag with 95 % over films."""
    found = {}
    for name in films[0]:
        of = [film[name] for film in films]

        def figure(rows: Rows, which: str, of: list[Pairs] = of) -> float:
            return float(getattr(verdict(_together([of[i] for i in rows])), which))

        each = [str(i) for i in range(len(of))]
        found[name] = {
            "lag": verdict(_together(of)).lag,
            **{
                which: over_speakers(partial(figure, which=which), each)
                for which in ("confidence", "distance", "likely")
            },
        }
    return found


def _together(pairs: Sequence[Pairs]) -> Pairs:
    return Pairs(
        np.sum([of.distances for of in pairs], axis=0),
        np.sum([of.counts for of in pairs], axis=0),
        sum(of.likely for of in pairs),
    )


def _halves(crops: Sequence[U8]) -> torch.Tensor:
    """The hidden halves of crops, f32[T, 3, 64, 128] in ±1."""
    small = [
        crop if crop.shape[0] == CROP_SIZE
        else cv2.resize(crop, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA)
        for crop in crops
    ]  # fmt: skip
    lower = np.stack([crop[CROP_SIZE // 2 :] for crop in small])
    return torch.from_numpy(lower.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1)
