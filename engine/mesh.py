"""Mesh: one of MediaPipe's face meshes, following one face through a window of the picture."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from engine.types import F32, U8, Face

# Landmarks are found on a 192 px patch, so a larger picture only costs copying. Smaller: a face
# that fills a quarter of the picture loses detail, and VGA would have to be reduced; larger: slower
# for nothing.
TRACK_SIDE_PX = 640
# A face is followed through a window so many times its size. Smaller: a quick head leaves it;
# larger: other faces come into it.
WINDOW = 2.2
# The window is reduced to this: the mesh's own patch is 192 px for one and a half faces.
WINDOW_SIDE_PX = 320
# The window follows when it is off by so much of itself. Less: it moves, and looks twice, in every
# frame of a walk; more: the face comes to its edge.
HOP = 0.12


_stderr = threading.Lock()  # two at once would each save the other's null as the real one


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hide what is printed on stderr meanwhile: the native libraries cannot be told to be quiet."""
    with _stderr:
        saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)


def drawn_face(side: int = 192) -> U8:
    """A face simple enough to draw and good enough to be found, uint8[S, S, 3]."""
    y, x = np.mgrid[0:side, 0:side] / side * 2 - 1
    image: F32 = np.full((side, side, 3), (70, 90, 110), np.float32)

    def blob(cx: float, cy: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        far = np.hypot((x - cx) / rx, (y - cy) / ry)[..., None]
        inside = np.clip((1.15 - far) / 0.3, 0, 1).astype(np.float32)
        image[:] = image * (1 - inside) + np.array(colour, np.float32) * inside

    blob(0, -0.12, 0.52, 0.62, (60, 40, 30))  # hair
    blob(0, 0.05, 0.44, 0.58, (215, 170, 140))
    for side_x in (-1, 1):
        blob(side_x * 0.18, -0.17, 0.12, 0.03, (70, 45, 35))  # brow
        blob(side_x * 0.18, -0.05, 0.09, 0.045, (240, 235, 230))
        blob(side_x * 0.18, -0.05, 0.04, 0.04, (40, 30, 30))
        blob(side_x * 0.05, 0.2, 0.03, 0.02, (120, 70, 60))  # nostril
    blob(0, 0.36, 0.16, 0.045, (170, 70, 75))  # mouth
    return image.astype(np.uint8)


def reduced(image: U8, side_px: int) -> U8:
    """uint8[H, W, 3] no larger than `side_px`, contiguous."""
    import cv2

    shrink = side_px / max(image.shape[:2])
    if shrink >= 1:
        return np.ascontiguousarray(image)
    # Below a half, a bilinear one skips pixels, and landmarks shiver with the grain.
    how = cv2.INTER_LINEAR if shrink > 0.5 else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=how), np.uint8)


class Mesh:
    """One face mesh, which looks at the whole picture or through a window that follows its face."""

    def __init__(self, min_confidence: float, still: bool) -> None:
        os.environ.setdefault("GLOG_minloglevel", "2")
        self._aimed: F32 | None = None  # set by `aim`, until the next picture
        self._window: tuple[int, int, int, int] | None = None
        self._box: F32 | None = None  # of the last face seen through a window
        with quiet_stderr():
            import mediapipe as mp  # pulls in much; loaded only where faces are tracked

            self._graph: Any = mp.solutions.face_mesh.FaceMesh(
                static_image_mode=still,
                max_num_faces=1,
                refine_landmarks=False,
                min_detection_confidence=min_confidence,
                min_tracking_confidence=min_confidence,
            )
            # The first picture and the first face build their graphs and print; no frame of a
            # session should wait for that. The last picture makes it forget the drawing.
            self._graph.process(drawn_face())
            self.forget()

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
        if self._box is None or self._window is None:
            return self._look(image)
        wanted = window_around(self._box, shape)
        side_px = WINDOW * float((self._box[2:] - self._box[:2]).max())
        if np.abs(np.subtract(wanted, self._window)).max() > HOP * side_px:
            # What the graph remembers is a place in the window: in the new one it looks beside
            # the face first, and then at it.
            self._window = wanted
            self._look(image)
        face = self._look(image) or self._look(image)  # the second looks in all of the window
        if face is None or not same_place(self._box, box_of(face)):
            self.forget()
            return None
        self._box = box_of(face)
        return face

    def _acquire(self, image: U8, box: F32) -> Face | None:
        """Begin to follow: once with all but this face's surroundings hidden, then openly."""
        self.forget()
        self._window = window_around(box, image.shape[:2])
        face = self._look(image, box)
        if face is None or not same_place(box, box_of(face)):
            self.forget()
            return None
        self._box = box_of(face)
        return face

    def _look(self, image: U8, only: F32 | None = None) -> Face | None:
        height, width = image.shape[:2]
        x0, y0, x1, y1 = self._window or (0, 0, width, height)
        x1, y1 = min(x1, width), min(y1, height)  # pictures may change their size
        if x1 - x0 < 8 or y1 - y0 < 8:
            return None
        seen = image[y0:y1, x0:x1]
        if only is not None:
            seen = _hide_others(seen, only - np.array([x0, y0, x0, y0], np.float32))
        small = reduced(seen, TRACK_SIDE_PX if self._window is None else WINDOW_SIDE_PX)
        found = self._graph.process(small).multi_face_landmarks
        if not found:
            return None
        points = np.array([(p.x, p.y) for p in found[0].landmark], np.float32)
        points = points * np.array([x1 - x0, y1 - y0], np.float32) + np.array([x0, y0], np.float32)
        return Face(np.asarray(points, np.float32), confidence=1.0)

    def forget(self) -> None:
        """Lose the face it follows, so that it can follow somebody else's."""
        self._window = self._box = self._aimed = None
        self._graph.process(np.zeros((64, 64, 3), np.uint8))

    def close(self) -> None:
        """Free the graph."""
        self._graph.close()


def box_of(face: Face) -> F32:
    """f32[4] (x0, y0, x1, y1) around the landmarks."""
    return np.concatenate([face.landmarks.min(0), face.landmarks.max(0)])


def same_place(one: F32, other: F32) -> bool:
    """Whether two boxes, f32[4], are of one face: their middles are near and their sizes alike."""
    size_px = np.array([max(box[2] - box[0], box[3] - box[1]) for box in (one, other)])
    far_px = float(np.hypot(*((one[:2] + one[2:] - other[:2] - other[2:]) / 2)))
    return far_px < 0.6 * float(size_px.mean()) and float(size_px.max()) < 2 * float(size_px.min())


def window_around(box: F32, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part (x0, y0, x1, y1) of a picture of `shape` in which a face is followed."""
    half = WINDOW * float((box[2:] - box[:2]).max()) / 2
    x, y = (box[:2] + box[2:]) / 2
    height, width = shape[0], shape[1]
    return (max(round(x - half), 0), max(round(y - half), 0),
            min(round(x + half), width), min(round(y + half), height))  # fmt: skip


def _hide_others(image: U8, box: F32) -> U8:
    """A copy of uint8[H, W, 3], grey but for the face in f32[4] and a little around it."""
    x0, y0, x1, y1 = box
    pad_x, pad_y = 0.3 * (x1 - x0), 0.4 * (y1 - y0)
    rows = slice(max(int(y0 - pad_y), 0), max(int(y1 + pad_y), 0))
    cols = slice(max(int(x0 - pad_x), 0), max(int(x1 + pad_x), 0))
    alone = np.full_like(image, 128)
    alone[rows, cols] = image[rows, cols]
    return alone
