"""A face that speaks: pictures whose mouth is as open as asked for, and a tracker that reads it.

image = speaking(6.0)                      # a mouth open by 6 px of a 128 px crop
MouthTracker().track(image).landmarks      # lips and chin where they are drawn
"""

from __future__ import annotations

from functools import cache

import numpy as np
from fakes import FakeTracker, face_mesh, picture

from lipwire.engine.face.alignment import (
    CROP_SIZE,
    JAW,
    LIPS_OUTER,
    align,
    alignment_from,
    fit_similarity,
    transform,
)
from lipwire.engine.face.articulation import CORNERS
from lipwire.engine.face.identity import likeness_of
from lipwire.engine.types import F32, U8, CodeStats, Face
from lipwire.engine.units.unit import Unit, look_of, unit_of

STATS = CodeStats((4.0, 4.0, 0, 0, 0, 0, 0), (3.0, 3.0, 2.0, 2.0, 1.0, 2.5, 1.5))
WIDTH_PX = 110.0
CENTRE = (160.0, 120.0)
# Points below the mouth's middle: they go down as it opens; the outer ones half as far.
LOWER_LIPS = (146, 91, 181, 84, 17, 314, 405, 321, 375, 14, 87, 317, 88, 318, 178, 402)
MIDDLE_JAW = JAW[7:14]


def mouth(opening_px: float, shift: tuple[float, float] = (0, 0), roll: float = 0.0) -> F32:
    """f32[468, 2], pixels of the frame: lips open by so many pixels of a 128 px crop."""
    points = face_mesh((0, 0), WIDTH_PX)
    unit = 1 / float(np.hypot(*fit_similarity(points)[:2]))
    lips_gap = {13: 14, 82: 87, 312: 317}
    for upper, lower in lips_gap.items():
        points[lower] = points[upper] + (0, 0)
    for index in {*LOWER_LIPS, *MIDDLE_JAW}:
        share = 0.6 if index in MIDDLE_JAW else 1.0
        points[index, 1] += share * opening_px * unit
    for index in CORNERS:
        points[index, 1] += 0.1 * opening_px * unit
    cos, sin = np.cos(roll), np.sin(roll)
    turned = points @ np.array([[cos, sin], [-sin, cos]]) + np.array(CENTRE) + np.array(shift)
    return np.asarray(turned, np.float32)


@cache
def speaking(opening_px: float, shift: tuple[float, float] = (0, 0), scene: int = 0) -> U8:
    """uint8[240, 320, 3]: a face with such a mouth; the first pixel tells the tracker how open."""
    import cv2

    points = mouth(opening_px, shift)
    image = picture(scene=scene).copy()
    skin = cv2.convexHull(np.round(points[list(JAW)] + (0, 4)).astype(np.int32))
    cv2.fillConvexPoly(image, skin, (190, 150, 130))
    # Brows: what is told apart by eyes and nose needs something there.
    for index in (70, 300):
        x, y = np.round(points[index]).astype(int)
        cv2.circle(image, (int(x), int(y) + 10), 6, (40, 30, 30), -1)
    lips = np.round(points[list(LIPS_OUTER)]).astype(np.int32)
    cv2.fillPoly(image, [lips], (170, 60, 70))
    hole = np.round(points[[78, 82, 13, 312, 308, 317, 14, 87]]).astype(np.int32)
    cv2.fillPoly(image, [hole], (20 + round(10 * opening_px), 10, 10))
    image[0, 0] = round(10 * opening_px), round(shift[0]) % 256, round(shift[1]) % 256
    image.setflags(write=False)
    return image


@cache
def unit(opening_px: float, time_s: float = 0.0, shift: tuple[float, float] = (0, 0)) -> Unit:
    """The mouth of `speaking` as a unit."""
    image, points = speaking(opening_px, shift), mouth(opening_px, shift)
    place = alignment_from(fit_similarity(points))
    look = look_of(likeness_of(align(image, place)))
    return unit_of(image, place, points, look, time_s)


def in_crop(points: F32) -> F32:
    """f32[468, 2] of the frame in pixels of its 128 px crop."""
    return transform(points, alignment_from(fit_similarity(points, CROP_SIZE), CROP_SIZE).matrix)


class MouthTracker(FakeTracker):
    """Implements `lipwire.engine.face.tracker.FaceTracker` for pictures of `speaking`."""

    def track(self, image: U8) -> Face | None:
        """The face, its mouth as open as the first pixel says."""
        super().track(image)
        opening, dx, dy = (float(v) for v in image[0, 0])
        return Face(mouth(opening / 10, (dx, dy)), 1.0, told=True)

    def detect(self, image: U8) -> F32:
        """Its own face and no other, f32[1, 4]."""
        points = mouth(0.0)
        return np.concatenate([points.min(0), points.max(0)])[None]
