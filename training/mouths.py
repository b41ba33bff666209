"""What the painter learns from: a frame, what else is known of its face, and its mouth's shape."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from engine.face import CROP_SIZE
from engine.mel import PAPER_FPS
from engine.types import F32, U8
from training.data import MIN_REFERENCE_GAP, ClipData, Clips, loss_weight, to_planes

OPENING = 0
# References are picked as a call picks them: the most closed and the widest of several frames.
# Fewer candidates: the two look alike and teach little. More: always the extremes of the clip.
CANDIDATES = 8
# Share of samples whose references are all one frame, as at the beginning of a call.
ONE_REFERENCE = 0.25
# Brightness, tint, and a tracker's jitter of a pixel or so between one frame and another.
SHIFT_PX = 1.5


@dataclass(frozen=True, slots=True)
class MouthBatch:
    """What one step of the painter trains on."""

    crops: F32
    """f32[B, 3, 128, 128] in ±1"""
    references: F32
    """f32[B, 3 R, 128, 128] in ±1, the most closed mouth first"""
    codes: F32
    """f32[B, 7], normalised"""
    weights: F32
    """f32[B, 1, 64, 128], how much each hidden pixel counts; mean 1"""


def pick_references(clip: ClipData, index: int, count: int, rng: np.random.Generator) -> list[int]:
    """`count` other frames of the clip, the most closed mouth first; none next to `index`."""
    distance = np.abs(np.arange(len(clip)) - index)
    far = np.flatnonzero(distance >= min(MIN_REFERENCE_GAP, len(clip) // 3))
    near = far[distance[far] < 4 * PAPER_FPS]
    drawn = rng.choice(near if len(near) else far, size=CANDIDATES)
    opening = clip.codes[drawn, OPENING]
    if count == 1 or rng.random() < ONE_REFERENCE:
        # Of a few, the one least like the target: one that shows the answer teaches to copy it.
        unlike = np.abs(opening[:4] - clip.codes[index, OPENING])
        return [int(drawn[unlike.argmax()])] * count
    order = drawn[np.argsort(opening, kind="stable")]
    return [int(order[i]) for i in np.linspace(0, CANDIDATES - 1, count).round().astype(int)]


def augment(pictures: list[U8], weight: F32, rng: np.random.Generator) -> tuple[list[U8], F32]:
    """Mirror, light, softness alike for all; a slight shift of each but the first."""
    if rng.random() < 0.5:
        pictures, weight = [p[:, ::-1] for p in pictures], weight[:, ::-1]
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.95, 1.05, 3)
    offset = rng.uniform(-20, 20)
    small = int(rng.uniform(0.4, 0.9) * CROP_SIZE) if rng.random() < 0.15 else 0
    out = []
    for number, picture in enumerate(pictures):
        image: Any = np.clip(picture * gain + offset, 0, 255).astype(np.uint8)
        if small:  # a face of fewer pixels than the crop
            image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
            image = cv2.resize(image, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
        if number and rng.random() < 0.5:
            x, y = rng.uniform(-SHIFT_PX, SHIFT_PX, 2)
            matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
            image = cv2.warpAffine(image, matrix, (CROP_SIZE, CROP_SIZE),
                                   borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
        out.append(np.asarray(image, np.uint8))
    return out, np.ascontiguousarray(weight)


def draw(clips: Clips, size: int, references: int, rng: np.random.Generator,
         augmented: bool = True) -> MouthBatch:  # fmt: skip
    """`size` frames, each with its references."""
    crops, others, codes, weights = [], [], [], []
    for pick in clips.pick(size, rng):
        clip = clips.clips[pick]
        index = int(rng.integers(len(clip)))
        frames = [index, *pick_references(clip, index, references, rng)]
        pictures = [np.asarray(clip.crops[i]) for i in frames]
        weight = loss_weight(clip.landmarks[index])
        if augmented:
            pictures, weight = augment(pictures, weight, rng)
        planes = [to_planes(p) for p in pictures]
        crops.append(planes[0])
        others.append(np.concatenate(planes[1:]))
        codes.append(clips.normalised(clip.codes[index]))
        weights.append(weight[None, CROP_SIZE // 2 :])
    return MouthBatch(np.stack(crops), np.stack(others), np.stack(codes), np.stack(weights))


def batches(clips: Clips, size: int, references: int, seed: int, start: int = 0,
            ahead: int = 4) -> Iterator[MouthBatch]:  # fmt: skip
    """Endless batches from step `start` on, each a function of (seed, step), drawn ahead."""

    def make(step: int) -> MouthBatch:
        return draw(clips, size, references, np.random.default_rng((seed, step)))

    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(make, start + i) for i in range(ahead)]
        step = start + ahead
        while True:
            yield pending.pop(0).result()
            pending.append(pool.submit(make, step))
            step += 1
