"""What the painter learns from: a frame, what else is known of its face, and its mouth's shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.articulation import OPENING
from engine.face import CROP_SIZE
from engine.types import F32
from training.augment_picture import degrade
from training.data import ClipData, Clips, loss_weight, other_frames, to_planes

# References are picked as a call picks them: the most closed and the widest of several frames.
# Fewer candidates: the two look alike and teach little. More: always the extremes of the clip.
CANDIDATES = 8
# Share of samples whose references are all one frame, as at the beginning of a call.
ONE_REFERENCE = 0.25


@dataclass(frozen=True, slots=True)
class MouthBatch:
    """What one step of the painter trains on."""

    crops: F32
    """f32[B, 3, 128, 128] in ±1"""
    references: F32
    """f32[B, 3 R, 128, 128] in ±1, the most closed mouth first"""
    codes: F32
    """f32[B, 7], normalised"""
    strays: F32
    """f32[B, 7], as `codes`, of any frame of the same clip"""
    weights: F32
    """f32[B, 1, 64, 128], how much each hidden pixel counts; mean 1"""


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


def draw(
    clips: Clips, size: int, references: int, rng: np.random.Generator, augmented: bool = True
) -> MouthBatch:
    """`size` frames, each with its references; half of them mirrored, as the wild delivers them."""
    crops, others, codes, strays, weights = [], [], [], [], []
    for pick in clips.pick(size, rng):
        clip = clips.clips[pick]
        index = int(rng.integers(len(clip)))
        frames = [index, *pick_references(clip, index, references, rng)]
        pictures = np.stack([np.asarray(clip.crops[i]) for i in frames])
        landmarks = clip.landmarks[index]
        if augmented:
            seen = degrade(pictures[:1], pictures[1:], landmarks[None], rng)
            pictures = np.concatenate([seen.frames, seen.references])
            weight = loss_weight(seen.landmarks[0]) * seen.weight[0]
            if rng.random() < 0.5:
                pictures, weight = pictures[:, :, ::-1], weight[:, ::-1]
        else:
            weight = loss_weight(landmarks)
        planes = [to_planes(p) for p in pictures]
        crops.append(planes[0])
        others.append(np.concatenate(planes[1:]))
        codes.append(clips.normalised(clip.codes[index]))
        strays.append(clips.normalised(clip.codes[int(rng.integers(len(clip)))]))
        weights.append(weight[None, CROP_SIZE // 2 :])
    return MouthBatch(*(np.stack(x) for x in (crops, others, codes, strays, weights)))
