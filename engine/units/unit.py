"""Unit: one of the person's own mouths, cut out of a frame of the call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lipwire.engine.face.alignment import CROP_SIZE, transform
from lipwire.engine.face.articulation import raw_codes
from lipwire.engine.types import F32, U8, Alignment

# What is kept of a frame, pixels of a 128 px crop: from the nose's tip to below the chin, from
# cheek to cheek. Tighter: a mouth moved to another pose runs out of picture; wider: memory.
TOP, BOTTOM, LEFT, RIGHT = 54, 132, 14, 114
# Wider pictures are reduced: 256 px are 328 of a crop. Less: faces that are little wider come back
# softer than they were (208 cost a quarter of their finest detail); more: memory.
WIDEST_PX = 256


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A mouth as the camera saw it, and how it was held."""

    picture: U8
    """uint8[h, w, 3], the lower half of the face; upright as in its frame, at its resolution"""
    to_crop: F32
    """f32[2, 3], pixels of `picture` -> pixels of the 128 px crop"""
    landmarks: F32
    """f32[468, 2], pixels of the 128 px crop"""
    codes: F32
    """f32[codes], see `lipwire.engine.face.articulation.raw_codes`"""
    look: F32
    """f32[D], unit length: eyes and nose, see `lipwire.engine.face.identity`"""
    detail: float
    """fine detail of its picture, of the contrast: falls when a head moves or focus is lost"""
    time_s: float
    """when it was taken"""

    @property
    def nbytes(self) -> int:
        """Memory held."""
        parts = self.picture, self.to_crop, self.landmarks, self.codes, self.look
        return sum(part.nbytes for part in parts)


def codes_of(alignment: Alignment, landmarks: F32) -> F32:
    """How the mouth in a frame is held, f32[codes]; landmarks f32[468, 2] in pixels of it."""
    return raw_codes(transform(landmarks, to_small_crop(alignment))[None])[0]


def unit_of(image: U8, alignment: Alignment, landmarks: F32, look: F32, time_s: float) -> Unit:
    """The mouth in a frame as a unit.

    Args:
        image: uint8[H, W, 3].
        alignment: frame -> crop.
        landmarks: f32[468, 2], pixels of the frame.
        look: f32[D], see `look_of`.
        time_s: when it was taken.
    """
    points = transform(landmarks, to_small_crop(alignment))
    picture, to_crop = cut(image, alignment)
    detail = _detail_of(picture) if picture.size else 0.0
    return Unit(picture, to_crop, points, raw_codes(points[None])[0], look, detail, time_s)


def look_of(likeness: F32) -> F32:
    """A likeness as a vector of unit length, f32[D], so that a dot product is the correlation."""
    flat = likeness.ravel()
    return np.asarray(flat / max(float(np.sqrt((flat**2).sum())), 1e-6), np.float32)


def _detail_of(picture: U8) -> float:
    import cv2

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    spread = float(cv2.meanStdDev(grey)[1][0, 0])
    return float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0, 0]) / (spread + 4.0)


def cut(image: U8, alignment: Alignment) -> tuple[U8, F32]:
    """The lower half of a face out of a frame, not resampled unless it is larger than is kept.

    Args:
        image: uint8[H, W, 3].
        alignment: frame -> crop, of any size.

    Returns:
        uint8[h, w, 3] and f32[2, 3], its pixels -> those of the 128 px crop; empty if the lower
        half lies outside the frame.
    """
    import cv2

    matrix = to_small_crop(alignment)
    inverse = np.asarray(cv2.invertAffineTransform(matrix), np.float32)
    corners = np.array([(LEFT, TOP), (RIGHT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], np.float32)
    box = transform(corners, inverse)
    height, width = image.shape[:2]
    x0, y0 = np.maximum(np.floor(box.min(0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(box.max(0)).astype(int) + 1, (width, height))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return np.zeros((0, 0, 3), np.uint8), matrix
    part = image[y0:y1, x0:x1]
    shrink = max((x1 - x0) / WIDEST_PX, 1.0)
    if shrink > 1:
        size = WIDEST_PX, max(round((y1 - y0) / shrink), 1)
        picture = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    else:
        picture = part.copy()
    # Pixel centres: (u + 0.5) of the reduced picture is (u + 0.5) * scale of the part.
    scale = np.array([(x1 - x0) / picture.shape[1], (y1 - y0) / picture.shape[0]], np.float32)
    offset = scale * 0.5 - 0.5 + np.array([x0, y0], np.float32)
    to_crop = np.concatenate(
        [matrix[:, :2] * scale, (matrix[:, :2] @ offset + matrix[:, 2])[:, None]], axis=1
    )
    return picture, to_crop.astype(np.float32)


def to_small_crop(alignment: Alignment) -> F32:
    """Frame -> 128 px crop, f32[2, 3], whatever the size of the model's crop."""
    return (alignment.matrix * np.float32(CROP_SIZE / alignment.size)).astype(np.float32)
