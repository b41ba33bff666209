"""Where the face is: the tracker protocol, MediaPipe behind it, and the smoothing of its output."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from engine.types import F32, F64, U8, Face

# Landmarks are found on a 192 px patch, so a larger picture only costs copying. Smaller: a face
# that fills a quarter of the picture loses detail, and VGA would have to be reduced; larger: slower
# for nothing.
TRACK_SIDE_PX = 640


class FaceTracker(Protocol):
    """Finds the face of one video; keeps state from frame to frame, so one per session."""

    def track(self, image: U8) -> Face | None:
        """The face in uint8[H, W, 3] RGB, or None."""
        ...

    def close(self) -> None:
        """Free what the tracker holds."""
        ...


_stderr = threading.Lock()  # two at once would each save the other's null as the real one


@contextmanager
def _quiet_stderr() -> Iterator[None]:
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


def _drawn_face(side: int = 192) -> U8:
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


class MediaPipeTracker:
    """MediaPipe's face mesh: detects once, then follows the face it has, which keeps it chosen.

    Args:
        min_confidence: below it a detection or a tracked face is dropped. Lower: false faces in
            curtains; higher: faces lost in poor light.
        still: treat every picture on its own (for photographs).
    """

    def __init__(self, min_confidence: float = 0.5, still: bool = False) -> None:
        os.environ.setdefault("GLOG_minloglevel", "2")
        with _quiet_stderr():
            import mediapipe as mp  # pulls in much; loaded only where faces are tracked

            self._mesh: Any = mp.solutions.face_mesh.FaceMesh(
                static_image_mode=still,
                max_num_faces=1,
                refine_landmarks=False,
                min_detection_confidence=min_confidence,
                min_tracking_confidence=min_confidence,
            )
            # The first picture and the first face build their graphs and print; no frame of a
            # session should wait for that. The last picture makes it forget the drawing.
            self._mesh.process(_drawn_face())
            self.forget()

    def track(self, image: U8) -> Face | None:
        """The face in uint8[H, W, 3] RGB, or None."""
        import cv2

        height, width = image.shape[:2]
        shrink = TRACK_SIDE_PX / max(height, width)
        small = image
        if shrink < 1:
            small = np.asarray(
                cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_LINEAR),
                np.uint8,
            )
        found = self._mesh.process(np.ascontiguousarray(small)).multi_face_landmarks
        if not found:
            return None
        points = np.array([(p.x * width, p.y * height) for p in found[0].landmark], np.float32)
        return Face(points, confidence=1.0)

    def forget(self) -> None:
        """Lose the face it follows, so that it can follow somebody else's."""
        self._mesh.process(np.zeros((64, 64, 3), np.uint8))

    def close(self) -> None:
        """Free the graph."""
        self._mesh.close()


class TrackerPool:
    """Lends trackers to sessions and takes them back, ready for the next.

    Building one takes as long as ten frames, which a call that begins would lose, and the native
    library is said to keep some memory of every one that was ever built.

    Args:
        make: builds a tracker when none is idle.
    """

    def __init__(self, make: Callable[[], MediaPipeTracker] = MediaPipeTracker) -> None:
        self._make = make
        self._idle: list[MediaPipeTracker] = []
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self) -> FaceTracker:
        """A tracker that follows nobody yet; closing it gives it back."""
        with self._lock:
            tracker = self._idle.pop() if self._idle else None
        return _Lent(tracker or self._make(), self)

    def give_back(self, tracker: MediaPipeTracker) -> None:
        """Take a tracker back, or free it if the pool has been closed."""
        with self._lock:
            keep = not self._closed
            if keep:
                tracker.forget()
                self._idle.append(tracker)
        if not keep:
            tracker.close()

    def close(self) -> None:
        """Free the idle trackers; lent ones are freed as they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for tracker in idle:
            tracker.close()


class _Lent:
    """A tracker that goes back to its pool instead of being freed."""

    def __init__(self, tracker: MediaPipeTracker, pool: TrackerPool) -> None:
        self._tracker: MediaPipeTracker | None = tracker
        self._pool = pool

    def track(self, image: U8) -> Face | None:
        """The face in uint8[H, W, 3] RGB, or None."""
        assert self._tracker is not None, "given back already"
        return self._tracker.track(image)

    def close(self) -> None:
        """Give it back; once."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            self._pool.give_back(tracker)


class OneEuro:
    """The 1 Euro filter (Casiez et al., CHI 2012): rest stops shaking, movement lags little.

    Args:
        min_cutoff_hz: smoothing at rest. Lower: less jitter, but a slow drift lags.
        beta: how fast the cutoff rises with speed. Lower: a fast turn lags; higher: jitter returns.
        derivative_cutoff_hz: smoothing of the speed itself.
    """

    def __init__(
        self, min_cutoff_hz: float = 1.5, beta: float = 0.05, derivative_cutoff_hz: float = 1.0
    ) -> None:
        self._min_cutoff_hz = min_cutoff_hz
        self._beta = beta
        self._derivative_cutoff_hz = derivative_cutoff_hz
        self._time_s: float | None = None
        self._value: F64 = np.zeros(0)
        self._speed: F64 = np.zeros(0)

    def reset(self) -> None:
        """Forget the past: the next value passes unchanged."""
        self._time_s = None

    def __call__(self, value: F64, time_s: float) -> F64:
        """Smooth f64[N] taken at `time_s`; a step back in time counts as a new start."""
        if self._time_s is None or time_s <= self._time_s:
            self._time_s, self._value, self._speed = time_s, value.copy(), np.zeros_like(value)
            return value.copy()
        elapsed_s = time_s - self._time_s
        speed = (value - self._value) / elapsed_s
        self._speed += _smoothing(self._derivative_cutoff_hz, elapsed_s) * (speed - self._speed)
        cutoff_hz = self._min_cutoff_hz + self._beta * np.abs(self._speed)
        self._value = self._value + _smoothing(cutoff_hz, elapsed_s) * (value - self._value)
        self._time_s = time_s
        return self._value.copy()


def _smoothing(cutoff_hz: Any, elapsed_s: float) -> Any:
    """Weight of the newest sample in a first-order low-pass (paper, eq. 6)."""
    return 1.0 / (1.0 + 1.0 / (2 * np.pi * cutoff_hz * elapsed_s))
