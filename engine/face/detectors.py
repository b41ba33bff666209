"""Detectors: MediaPipe's nets that find faces anywhere in a picture, shared by all who search."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lipwire.engine.face.mesh import drawn_face, load_mediapipe, quiet_stderr
from lipwire.engine.types import F32, U8


class Detectors:
    """Two nets, one for near and one for far faces, which keep nothing from picture to picture.

    So they are lent for one picture: there are as many pairs as threads have searched at once, not
    as there are calls. A pair holds 20 MiB and four threads.

    Args:
        min_confidence: below it what looks like a face is none.
    """

    def __init__(self, min_confidence: float = 0.5) -> None:
        self._min_confidence = min_confidence
        self._idle: list[list[Any]] = []
        self._lock = threading.Lock()
        self._closed = False

    def find(self, image: U8) -> F32:
        """Faces in uint8[H, W, 3]: f32[N, 4] (x0, y0, x1, y1), shares of its sides, brows to chin.

        Those wider than about 7 % of it: by the net for far ones, and where it finds none, by the
        other.
        """
        with self._pair() as pair:
            for net in pair:
                if found := net.process(image).detections:
                    boxes = [each.location_data.relative_bounding_box for each in found]
                    return np.array(
                        [(b.xmin, b.ymin, b.xmin + b.width, b.ymin + b.height) for b in boxes],
                        np.float32,
                    )
        return np.zeros((0, 4), np.float32)

    @contextmanager
    def _pair(self) -> Iterator[list[Any]]:
        with self._lock:
            pair = self._idle.pop() if self._idle else None
        pair = pair or self._make()
        try:
            yield pair
        finally:
            with self._lock:
                keep = not self._closed
                if keep:
                    self._idle.append(pair)
            if not keep:
                _close(pair)

    def _make(self) -> list[Any]:
        with quiet_stderr():
            mp = load_mediapipe()
            far = (1, 0)  # MediaPipe's `model_selection`: 1 is called the full range
            pair = [mp.solutions.face_detection.FaceDetection(self._min_confidence, k) for k in far]
            for net in pair:
                net.process(drawn_face())  # which builds it, and prints
        return pair

    def close(self) -> None:
        """Free those that are idle; those that search are freed as they end."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for pair in idle:
            _close(pair)


def _close(pair: list[Any]) -> None:
    for net in pair:
        net.close()
