"""How faces are cut out of frames: stabilised (lite), by boxes or at a fixed place (the paper).

All three give affine maps, so that pictures and landmarks go through the same code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.errors import ConfigError
from lipwire.engine.face.alignment import (
    CROP_SIZE,
    alignment_from,
    fit_similarity,
    pose_to_similarity,
    similarity_to_pose,
)
from lipwire.engine.face.one_euro import OneEuro
from lipwire.engine.types import F32, F64, Alignment

FRAMINGS = ("stabilised", "box", "voxceleb2")
BOX_SMOOTHING = 5  # frames (OFFICIAL: boxes are a moving average over 5)


def alignments(
    framing: str, landmarks: Sequence[F32], frame_shape: tuple[int, ...], size: int = CROP_SIZE
) -> list[Alignment]:
    """Frame pixels -> crop pixels for every frame of an unbroken run.

    Args:
        framing: one of `FRAMINGS`.
        landmarks: f32[468, 2] each, frame pixels.
        frame_shape: height and width of the frames.
        size: side of the crop.

    Raises:
        ConfigError: the framing is unknown.
    """
    if framing == "stabilised":
        smooth = OneEuro()  # the live engine's own, so that training sees its jitter
        poses = [
            smooth(similarity_to_pose(fit_similarity(points, size), size), index / PAPER_FPS)
            for index, points in enumerate(landmarks)
        ]
        return [alignment_from(pose_to_similarity(pose, size), size) for pose in poses]
    if framing == "box":
        boxes = moving_average(np.stack([face_box(points) for points in landmarks]))
        return [box_alignment(box, size) for box in boxes]
    if framing == "voxceleb2":
        return [box_alignment(voxceleb2_box(frame_shape), size)] * len(landmarks)
    raise ConfigError(f"framing is {framing!r}, must be one of {', '.join(FRAMINGS)}")


def face_box(landmarks: F32) -> F64:
    """Axis-aligned box of a face from hairline to chin, f64[4] x0, y0, x1, y1, without padding."""
    return np.concatenate([landmarks.min(0), landmarks.max(0)]).astype(np.float64)


def voxceleb2_box(frame_shape: tuple[int, ...]) -> F64:
    """Where the paper's authors cut VoxCeleb2's films, which are cut around faces already, f64[4].

    The same share of every picture (the released code's numbers): 124x158 px of 224.
    """
    height, width = frame_shape[:2]
    side = int(1.8 * width / 8)
    return np.array([side, 0, width - side, height - int(2.36 * height / 8)], np.float64)


def paper_boxes(
    landmarks: Sequence[F32 | None], frame_shape: tuple[int, ...], fixed: bool
) -> list[tuple[int, int, int, int]]:
    """The rectangle of every frame that the paper's protocol replaces, whole pixels.

    Args:
        landmarks: f32[468, 2] each; one that is None is filled from its neighbours.
        frame_shape: height and width.
        fixed: VoxCeleb2's, instead of the face's, averaged over five frames from each on.

    Raises:
        ConfigError: no frame has a face.
    """
    height, width = frame_shape[:2]
    boxes = np.tile(voxceleb2_box(frame_shape), (len(landmarks), 1))
    if not fixed:
        known = [i for i, points in enumerate(landmarks) if points is not None]
        if not known:
            raise ConfigError("no frame has a face")
        found = np.stack([face_box(p) for p in landmarks if p is not None])
        every = np.arange(len(landmarks))
        boxes = np.stack([np.interp(every, known, found[:, side]) for side in range(4)], axis=1)
        boxes = np.stack([boxes[i : i + BOX_SMOOTHING].mean(0) for i in every])
    boxes = np.clip(np.rint(boxes), 0, [width, height, width, height]).astype(int)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], np.minimum(boxes[:, :2] + 2, [width, height]))
    boxes[:, :2] = np.minimum(boxes[:, :2], boxes[:, 2:] - 2)
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes.tolist()]


def moving_average(boxes: F64, count: int = BOX_SMOOTHING) -> F64:
    """Centred mean over `count` frames, f64[T, 4]; at the ends over those that there are."""
    half = count // 2
    return np.stack([boxes[max(i - half, 0) : i + half + 1].mean(0) for i in range(len(boxes))])


def box_alignment(box: F64, size: int = CROP_SIZE) -> Alignment:
    """The map that stretches a box over the whole crop; its sides may be stretched unequally."""
    x0, y0, x1, y1 = box
    sx, sy = size / max(x1 - x0, 1e-6), size / max(y1 - y0, 1e-6)
    # Pixel centres: frame x0 - 0.5 is crop -0.5, as in cv2.resize.
    return Alignment(
        np.array([[sx, 0, (0.5 - x0) * sx - 0.5], [0, sy, (0.5 - y0) * sy - 0.5]], np.float32), size
    )
