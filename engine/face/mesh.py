"""Mesh: a face mesh of MediaPipe's, following one face through a window of the picture."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lipwire.engine.types import F32, U8, Face

# Landmarks are found on a 192 px patch, so a larger picture only costs copying. Smaller: a face
# that fills a quarter of the picture loses detail, and VGA would have to be reduced; larger: slower
# for nothing.
TRACK_SIDE_PX = 640
# A small face in a large picture is followed through a window of it, so many times its size and
# never smaller than what is looked at without one. Smaller: the window moves often, and each time
# the mesh must find the face afresh, which shows; larger: nothing is won.
WINDOW = 5.0
# Nothing is won either by a window that is more than this of the picture.
NEARLY_ALL = 0.75
# A face that has moved by so much of itself is looked at twice. Less: every step costs double;
# more: a head that is thrown about is drawn small and behind itself.
QUICK = 0.12
# The window follows when the face comes so near to its edge, in sizes of the face.
EDGE = 0.6


def reduced(image: U8, side_px: int) -> U8:
    """uint8[H, W, 3] no larger than `side_px`, contiguous."""
    import cv2

    shrink = side_px / max(image.shape[:2])
    if shrink >= 1:
        return np.ascontiguousarray(image)
    # Below a half, a bilinear one skips pixels, and landmarks shiver with the grain.
    how = cv2.INTER_LINEAR if shrink > 0.5 else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=how), np.uint8)


class Graph(Protocol):
    """A net of landmarks and what feeds it; keeps where the face was."""

    def process(self, image: U8) -> F32 | None:
        """f32[468, 3] of one face in uint8[H, W, 3]: x, y in pixels, z on their scale; or None."""
        ...

    def forget(self) -> None:
        """Detect again in the next picture."""
        ...

    def close(self) -> None: ...


class Mesh:
    """One face mesh, which looks at the whole picture or through a window that follows its face."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._aimed: F32 | None = None  # set by `aim`, until the next picture
        self._window: tuple[int, int, int, int] | None = None
        self._box: F32 | None = None  # of the last face seen through a window

    def aim(self, box: F32) -> None:
        """Follow the face in f32[4] from the next picture on."""
        self._aimed = box

    def holds(self, box: F32) -> bool:
        """Whether the face that it follows is the one in f32[4]."""
        return self._box is not None and same_place(self._box, box)

    def track(self, image: U8) -> Face | None:
        """The face in uint8[H, W, 3], or None."""
        shape = image.shape[:2]
        aimed, self._aimed = self._aimed, None
        if aimed is not None:
            return self._acquire(image, aimed)
        if self._box is None:
            return self._look(image)
        if not self._sees(self._box, shape):
            return self._acquire(image, self._box)
        face = self._look(image) or self._look(image)  # the second searches all that it sees
        if face is not None and _moved(self._box, box_of(face)) > QUICK:
            # It was looked for where it had been, which squeezes it; now it is known where it is.
            face = self._look(image) or face
        if face is None or not same_place(self._box, box_of(face)):
            self.forget()
            return None
        self._box = box_of(face)
        return face

    def _sees(self, box: F32, shape: tuple[int, ...]) -> bool:
        """Whether the face in f32[4] lies well within the window, and the window suits it."""
        wanted = window_around(box, shape)
        if self._window is None or wanted is None:
            return self._window is wanted
        edge_px = EDGE * float((box[2:] - box[:2]).max())
        window = np.asarray(self._window, np.float32)
        inside = np.concatenate([box[:2] - window[:2], window[2:] - box[2:]])
        # At the picture's own edge there is nothing more to see.
        ends = np.concatenate([window[:2] > 0, window[2:] < shape[1::-1]])
        return not bool((ends & (inside < edge_px)).any())

    def _acquire(self, image: U8, box: F32) -> Face | None:
        """Begin to follow: once with all but this face's surroundings hidden, then openly."""
        self.forget()
        self._window = window_around(box, image.shape[:2])
        face = self._look(image, box)
        if face is None or not same_place(box, box_of(face)):
            self.forget()
            return None
        self._box = box_of(face)
        # Found from a box of a detector; followed, it lies better.
        face = self._look(image)
        if face is not None and same_place(self._box, box_of(face)):
            self._box = box_of(face)
        return face

    def _look(self, image: U8, only: F32 | None = None) -> Face | None:
        height, width = image.shape[:2]
        x0, y0, x1, y1 = self._window or (0, 0, width, height)
        x1, y1 = min(x1, width), min(y1, height)  # pictures may change their size
        if min(x1 - x0, y1 - y0) < 8 <= min(height, width):
            return None
        seen = image[y0:y1, x0:x1]
        if only is not None:
            seen = _hide_others(seen, only - np.array([x0, y0, x0, y0], np.float32))
        small = reduced(seen, TRACK_SIDE_PX)
        marks = self._graph.process(small)
        if marks is None:
            return None
        scale = np.array([(x1 - x0) / small.shape[1], (y1 - y0) / small.shape[0]], np.float32)
        points = marks[:, :2] * scale + np.array([x0, y0], np.float32)
        return Face(np.asarray(points, np.float32), confidence=1.0)

    def forget(self) -> None:
        """Lose the face it follows, so that it can follow somebody else's."""
        self._window = self._box = self._aimed = None
        self._graph.forget()

    def close(self) -> None:
        self._graph.close()


def box_of(face: Face) -> F32:
    """f32[4] (x0, y0, x1, y1) around the landmarks."""
    return np.concatenate([face.landmarks.min(0), face.landmarks.max(0)])


def _moved(one: F32, other: F32) -> float:
    """How far two boxes, f32[4], are apart, in sizes of the first."""
    far_px = float(np.hypot(*((one[:2] + one[2:] - other[:2] - other[2:]) / 2)))
    return far_px / max(float((one[2:] - one[:2]).max()), 1.0)


def same_place(one: F32, other: F32) -> bool:
    """Whether two boxes, f32[4], are of one face: their middles are near and their sizes alike."""
    size_px = np.array([max(box[2] - box[0], box[3] - box[1]) for box in (one, other)])
    far_px = float(np.hypot(*((one[:2] + one[2:] - other[:2] - other[2:]) / 2)))
    return far_px < 0.6 * float(size_px.mean()) and float(size_px.max()) < 2 * float(size_px.min())


def window_around(box: F32, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """The part (x0, y0, x1, y1) of a picture of `shape` that is looked at; None: all of it."""
    side = max(TRACK_SIDE_PX, WINDOW * float((box[2:] - box[:2]).max()))
    height, width = shape[0], shape[1]
    if side > NEARLY_ALL * max(height, width):
        return None
    x, y = (box[:2] + box[2:]) / 2
    # Whole inside the picture where it fits.
    x0 = round(min(max(x - side / 2, 0), max(width - side, 0)))
    y0 = round(min(max(y - side / 2, 0), max(height - side, 0)))
    return x0, y0, min(round(x0 + side), width), min(round(y0 + side), height)


def _hide_others(image: U8, box: F32) -> U8:
    """A copy of uint8[H, W, 3], grey but for the face in f32[4] and a little around it."""
    x0, y0, x1, y1 = box
    pad_x, pad_y = 0.3 * (x1 - x0), 0.4 * (y1 - y0)
    rows = slice(max(int(y0 - pad_y), 0), max(int(y1 + pad_y), 0))
    cols = slice(max(int(x0 - pad_x), 0), max(int(x1 + pad_x), 0))
    alone = np.full_like(image, 128)
    alone[rows, cols] = image[rows, cols]
    return alone
