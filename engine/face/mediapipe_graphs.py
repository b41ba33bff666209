"""MediaPipe's own runtime around its face nets: the extra `mediapipe`, and the judge in tests."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import numpy as np

from lipwire.engine.errors import ConfigError
from lipwire.engine.face.quiet import quiet_stderr
from lipwire.engine.types import F32, U8


def load_mediapipe() -> Any:
    """MediaPipe 0.10.21; later ones need a download.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import mediapipe
    except ImportError as error:
        raise ConfigError(
            f"the tracker mediapipe cannot be loaded ({error}): pip install 'lipwire[mediapipe]'"
        ) from None

    # Without PortAudio it keeps that error for later, and with it whoever is being served now.
    recorder = sys.modules.get("mediapipe.tasks.python.audio.core.audio_record")
    kept = getattr(recorder, "sd_error", None)
    if isinstance(kept, Exception):
        kept.__traceback__ = None
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


class FaceMesh:
    """MediaPipe's graph of a detector and the mesh, see `lipwire.engine.face.litert.FaceMesh`.

    Raises:
        ConfigError: MediaPipe is not installed.
    """

    def __init__(self, min_confidence: float, still: bool) -> None:
        os.environ.setdefault("GLOG_minloglevel", "2")
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

    def process(self, image: U8) -> F32 | None:
        """f32[468, 3] of the face in uint8[H, W, 3]: x, y in pixels, z on their scale; or None."""
        found = self._graph.process(image).multi_face_landmarks
        if not found:
            return None
        height, width = image.shape[:2]
        shares = np.array([(p.x, p.y, p.z) for p in found[0].landmark], np.float32)
        return shares * np.array([width, height, width], np.float32)

    def forget(self) -> None:
        """Detect again in the next picture."""
        self._graph.process(np.zeros((64, 64, 3), np.uint8))

    def close(self) -> None:
        self._graph.close()


class Detectors:
    """Two detectors, one for near and one for far faces, for one thread at a time."""

    def __init__(self, min_confidence: float) -> None:
        self._lock = threading.Lock()
        with quiet_stderr():
            mp = load_mediapipe()
            far = (1, 0)  # MediaPipe's `model_selection`: 1 is called the full range
            self._nets = [mp.solutions.face_detection.FaceDetection(min_confidence, k) for k in far]
            for net in self._nets:
                net.process(drawn_face())  # which builds it, and prints

    def find(self, image: U8) -> F32:
        with self._lock:
            for net in self._nets:
                if found := net.process(image).detections:
                    shares = [each.location_data.relative_bounding_box for each in found]
                    boxes = [(b.xmin, b.ymin, b.xmin + b.width, b.ymin + b.height) for b in shares]
                    height, width = image.shape[:2]
                    return np.array(boxes, np.float32) * np.array([width, height] * 2, np.float32)
        return np.zeros((0, 4), np.float32)

    def close(self) -> None:
        with self._lock:
            for net in self._nets:
                net.close()
