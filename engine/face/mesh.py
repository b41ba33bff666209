"""Mesh: one of MediaPipe's face meshes, following one face through a window of the picture."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


def load_mediapipe() -> Any:
    """MediaPipe: it pulls in much, so it is loaded only where faces are tracked."""
    import mediapipe

    # Without PortAudio it keeps that error for later, and with it whoever is being served now.
    recorder = sys.modules.get("mediapipe.tasks.python.audio.core.audio_record")
    error = getattr(recorder, "sd_error", None)
    if isinstance(error, Exception):
        error.__traceback__ = None
    return mediapipe


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
            mp = load_mediapipe()
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
        inside = np.array([box[0] - self._window[0], box[1] - self._window[1],
                           self._window[2] - box[2], self._window[3] - box[3]])  # fmt: skip
        # At the picture's own edge there is nothing more to see.
        ends = np.array([self._window[0] > 0, self._window[1] > 0,
                         self._window[2] < shape[1], self._window[3] < shape[0]])  # fmt: skip
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
