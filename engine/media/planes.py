"""Pictures in their own planes: out of decoders, with a mouth painted in, into encoders.

What is not repainted never becomes RGB and back, which costs time and about one level of luma
everywhere; and what is repainted is a change, so that rounding touches nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lipwire.engine.media.colour import FULL_RANGE, colour_of, rgb_to_yuv
from lipwire.engine.media.orientation import orientation_of
from lipwire.engine.types import F32, U8, Patch, Planes


def planes_of(frame: Any) -> Planes | None:
    """The planes of an av.VideoFrame, without a copy, turned the way it is to be shown.

    None for any format but limited-range yuv420p, and where a turn would tear chroma from luma.
    """
    if frame.format.name != "yuv420p" or int(frame.color_range) == FULL_RANGE:
        return None
    lies = orientation_of(frame)
    if not lies.as_is and (frame.width % 2 or frame.height % 2):
        return None
    y, u, v = map(lies.apply, _views(frame))
    for plane in (y, u, v):
        plane.flags.writeable = False  # the decoder may still predict from it
    return Planes(y, u, v, colour_of(frame).matrix)


def frame_of(planes: Planes) -> Any:
    """An av.VideoFrame in yuv420p with pixels of its own."""
    import av

    height, width = planes.y.shape
    frame = av.VideoFrame(width, height, "yuv420p")
    for there, here in zip(_views(frame), (planes.y, planes.u, planes.v), strict=True):
        there[:] = here
    return frame


def _views(frame: Any) -> list[U8]:
    """The three planes of a yuv420p frame as uint8[rows, columns], lines' padding left out."""
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
            : plane.height, : plane.width
        ]
        for plane in frame.planes
    ]


def even(planes: Planes) -> Planes:
    """The same picture with even sides, as H.264 files want it: the last line is repeated."""
    height, width = planes.y.shape
    if not (height % 2 or width % 2):
        return planes
    y = np.pad(planes.y, ((0, height % 2), (0, width % 2)), mode="edge")
    return Planes(y, planes.u, planes.v, planes.matrix)


def paint_image(image: U8, patch: Patch) -> U8:
    """uint8[H, W, 3] with the patch added: a new picture, equal to `image` outside it."""
    x0, y0, x1, y1 = patch.box
    out = image.copy()
    if x1 > x0 and y1 > y0:
        out[y0:y1, x0:x1] = _added(out[y0:y1, x0:x1], patch.change)
    return out


def paint_planes(planes: Planes, patch: Patch) -> Planes:
    """The same in planes: luma by pixels, chroma by the mean of each block of 2 by 2."""
    import cv2

    x0, y0, x1, y1 = patch.box
    y, u, v = planes.y.copy(), planes.u.copy(), planes.v.copy()
    if x1 > x0 and y1 > y0:
        change = cv2.transform(patch.change, rgb_to_yuv(planes.matrix))
        luma, *chroma = (np.asarray(part, np.float32) for part in cv2.split(change))
        y[y0:y1, x0:x1] = _added(y[y0:y1, x0:x1], luma)
        # At a picture's odd border the last block is cut; its pixels count twice.
        odd_y, odd_x = luma.shape[0] % 2, luma.shape[1] % 2
        for plane, part in zip((u, v), chroma, strict=True):
            blocks = np.pad(part, ((0, odd_y), (0, odd_x)), mode="edge") if odd_y + odd_x else part
            size = blocks.shape[1] // 2, blocks.shape[0] // 2
            half = np.asarray(cv2.resize(blocks, size, interpolation=cv2.INTER_AREA), np.float32)
            under = plane[y0 // 2 : (y1 + 1) // 2, x0 // 2 : (x1 + 1) // 2]
            under[:] = _added(under, half)
    return Planes(y, u, v, planes.matrix)


def _added(pixels: U8, change: F32) -> U8:
    """Rounded half to even and kept within 0 to 255."""
    import cv2

    sums = pixels + change
    # In one step; cv2.add would round the change apart, and takes a single pixel for a scalar.
    return np.asarray(cv2.convertScaleAbs(np.maximum(sums, 0, out=sums)), np.uint8)
