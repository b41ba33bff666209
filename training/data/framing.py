"""How faces are cut out of frames: stabilised (lite), by boxes (the paper), or at a fixed place.

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

FRAMINGS = ("stabilised", "box", "centre")
BOX_SMOOTHING = 5  # frames (OFFICIAL: boxes are a moving average over 5)
# VoxCeleb2's pictures are already cut around the face, with room on all sides: the square in the
# middle with this share of the height holds the face from brows to chin.
CENTRE_SHARE = 0.6


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
    if framing == "centre":
        height, width = frame_shape[:2]
        side = CENTRE_SHARE * min(height, width)
        corner = np.array([width - side, height - side]) / 2
        box = np.concatenate([corner, corner + side])
        return [box_alignment(box, size)] * len(landmarks)
    raise ConfigError(f"framing is {framing!r}, must be one of {', '.join(FRAMINGS)}")


def face_box(landmarks: F32) -> F64:
    """Axis-aligned box of a face from hairline to chin, f64[4] x0, y0, x1, y1, without padding."""
    return np.concatenate([landmarks.min(0), landmarks.max(0)]).astype(np.float64)


def moving_average(boxes: F64, count: int = BOX_SMOOTHING) -> F64:
    """Centred mean over `count` frames, f64[T, 4]; at the ends over those that there are."""
    half = count // 2
    return np.stack([
        boxes[max(i - half, 0) : i + half + 1].mean(0) for i in range(len(boxes))
    ])  # fmt: skip


def box_alignment(box: F64, size: int = CROP_SIZE) -> Alignment:
    """The map that stretches a box over the whole crop; its sides may be stretched unequally."""
    x0, y0, x1, y1 = box
    sx, sy = size / max(x1 - x0, 1e-6), size / max(y1 - y0, 1e-6)
    # Pixel centres: frame x0 - 0.5 is crop -0.5, as in cv2.resize.
    return Alignment(
        np.array([[sx, 0, (0.5 - x0) * sx - 0.5], [0, sy, (0.5 - y0) * sy - 0.5]], np.float32), size
    )
