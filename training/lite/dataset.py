"""What the painter learns from: a frame, what else is known of its face, and its mouth's shape."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from lipwire.engine.face.alignment import CROP_SIZE
from lipwire.engine.face.articulation import OPENING
from lipwire.engine.types import F32, U8
from lipwire.training.data.augment_picture import degrade
from lipwire.training.data.dataset import I64, ClipData, Clips, loss_weight, other_frames, to_planes

Bools = npt.NDArray[np.bool_]
# References are picked as a call picks them: the most closed and the widest of several frames.
# Fewer candidates: the two look alike and teach little. More: always the extremes of the clip.
CANDIDATES = 8
# Share of samples whose references are all one frame, as at the beginning of a call.
ONE_REFERENCE = 0.25


class Start(IntEnum):
    """What x_t is made of."""

    NOISE = 0  # noise alone, where every sampling without a unit starts
    OWN = 1
    """the network's own first estimate with noise put back, as the second of two steps gets it"""
    TRUE = 2  # the true picture with noise, as the paper trains
    UNIT = 3  # a mouth that the person really made, with noise: see `lipwire.training.lite.units`


@dataclass(frozen=True, slots=True)
class MouthBatch:
    """What one step of the painter trains on."""

    crops: F32  # f32[B, 3, 128, 128] in ±1
    references: F32  # f32[B, 3 R, 128, 128] in ±1, the most closed mouth first
    codes: F32  # f32[B, 7], normalised
    mismatched: F32  # f32[B, 7], as `codes`, of any frame of the same clip
    weights: F32  # f32[B, 1, 64, 128], how much each hidden pixel counts; mean 1
    shown: F32  # f32[B, R, 7], as `codes`, of the references
    starts: I64  # int64[B], see `Start`
    astray: Bools  # bool[B], which are asked for the stray code; they have no target


def pick_references(clip: ClipData, index: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` other frames of the clip, the most closed mouth first; none next to `index`."""
    drawn = rng.choice(other_frames(len(clip), index, within_s=4), size=CANDIDATES)
    opening = clip.codes[drawn, OPENING]
    if count == 1 or rng.random() < ONE_REFERENCE:
        # Of a few, the one least like the target: one that shows the answer teaches to copy it.
        unlike = np.abs(opening[:4] - clip.codes[index, OPENING])
        return [int(drawn[unlike.argmax()])] * count
    order = drawn[np.argsort(opening, kind="stable")]
    return [int(order[i]) for i in np.linspace(0, CANDIDATES - 1, count).round().astype(int)]


def shares(size: int, noise: float = 1 / 3, own: float = 1 / 3, unit: float = 0.0) -> I64:
    """What the samples of a batch begin with, int64[size]; the rest are true pictures."""
    starts = np.full(size, Start.TRUE, np.int64)
    begin = 0
    for kind, share in ((Start.NOISE, noise), (Start.OWN, own), (Start.UNIT, unit)):
        count = int(share * size + 1e-6)
        starts[begin : begin + count] = kind
        begin += count
    return starts


def astray(starts: I64, share: float) -> Bools:
    """Which samples are asked for the mouth of another frame: `share` of all, if there are so many.

    None that begins at its own true picture: nothing of it may be told. bool[B].
    """
    free = starts != Start.TRUE
    out = np.zeros(len(starts), bool)
    for kind in np.unique(starts[free]):
        own = np.flatnonzero(starts == kind)
        out[own[: round(share * len(starts) * len(own) / free.sum())]] = True
    return out


def shown_to_a_camera(
    clip: ClipData,
    frames: list[int],
    augmented: bool,
    rng: np.random.Generator,
    moved: tuple[int, U8] | None = None,
) -> tuple[list[F32], F32]:
    """Frames as cameras show them, half of the times mirrored.

    Args:
        clip: to look in.
        frames: the target, then its references.
        augmented: degraded; else as they are.
        rng: draws how.
        moved: place in `frames` of a reference that is shown in the target's pose instead, and
            that picture, uint8[S, S, 3]; camera and tracker are the target's.

    Returns:
        f32[3, S, S] in ±1 of each, and f32[S, S], how much each pixel of the target counts.
    """
    pictures: U8 = np.stack([np.asarray(clip.crops[i]) for i in frames])
    landmarks = clip.landmarks[frames[0]]
    if moved is not None:
        pictures[moved[0]] = moved[1]
    if augmented:
        same = [0] if moved is None else [0, moved[0]]
        others = [i for i in range(len(frames)) if i not in same]
        seen = degrade(pictures[same], pictures[others], landmarks[None].repeat(len(same), 0), rng)
        pictures[same], pictures[others] = seen.frames, seen.references
        weight = np.asarray(loss_weight(seen.landmarks[0]) * seen.weight[0], np.float32)
        if rng.random() < 0.5:
            pictures, weight = pictures[:, :, ::-1], weight[:, ::-1]
    else:
        weight = loss_weight(landmarks)
    return [to_planes(p) for p in pictures], weight


def draw(
    clips: Clips,
    size: int,
    references: int,
    rng: np.random.Generator,
    augmented: bool = True,
    mismatched: float = 0.0,
    starts: I64 | None = None,
) -> MouthBatch:
    """`size` frames, each with its references; half of them mirrored, as the wild delivers them."""
    rows = []
    for pick in clips.pick(size, rng):
        clip = clips.clips[pick]
        index = int(rng.integers(len(clip)))
        frames = [index, *pick_references(clip, index, references, rng)]
        planes, weight = shown_to_a_camera(clip, frames, augmented, rng)
        stray = clip.codes[int(rng.integers(len(clip)))]
        rows.append(row_of(clips, clip, frames, planes, weight, stray))
    starts = shares(size) if starts is None else starts
    return stacked(rows, starts, astray(starts, mismatched))


Row = tuple[F32, F32, F32, F32, F32, F32]


def row_of(
    clips: Clips, clip: ClipData, frames: list[int], planes: list[F32], weight: F32, stray: F32
) -> Row:
    """What a batch holds of one sample, in `MouthBatch`'s order.

    Args:
        clips: know what is normal.
        clip: the sample's.
        frames: the target, then its references.
        planes: f32[3, S, S] of each.
        weight: f32[S, S].
        stray: f32[7], a code of the clip.
    """
    codes = clips.normalised(clip.codes[frames])
    shown = planes[0], np.concatenate(planes[1:])
    asked = codes[0], clips.normalised(stray)
    return (*shown, *asked, weight[None, CROP_SIZE // 2 :], codes[1:])


def stacked(rows: list[Row], starts: I64, stray: Bools) -> MouthBatch:
    """Samples as a batch."""
    crops, references, codes, mismatched, weights, shown = (
        np.stack(column) for column in zip(*rows, strict=True)
    )
    return MouthBatch(crops, references, codes, mismatched, weights, shown, starts, stray)
