"""Where faces are: the tracker protocol, MediaPipe's nets behind it, and a pool of them."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np

from lipwire.engine.face.mesh import TRACK_SIDE_PX, Mesh, reduced
from lipwire.engine.types import F32, U8, Face

TILES = 6
# Of a detection or a tracked face. Lower: false faces in curtains; higher: faces lost in poor
# light.
MIN_CONFIDENCE = 0.5


class FaceTracker(Protocol):
    """Finds faces in one video and follows one; keeps state, so one per session."""

    def track(self, image: U8) -> Face | None:
        """The face it follows in uint8[H, W, 3] RGB, or None."""
        ...

    def detect(self, image: U8) -> F32:
        """Every face in uint8[H, W, 3]: f32[N, 4] (x0, y0, x1, y1), pixels, brows to chin."""
        ...

    def aim(self, box: F32) -> None:
        """From the next picture on follow the face in f32[4], and no other."""
        ...

    def glimpse(self, image: U8, boxes: F32) -> list[Face | None]:
        """Landmarks of other faces, in f32[N, 4], without losing the one it follows."""
        ...

    def close(self) -> None:
        """Free what the tracker holds."""
        ...


Runtime = Literal["litert", "mediapipe"]
"""what runs MediaPipe's nets: LiteRT, or MediaPipe itself where it is installed"""


class Detectors(Protocol):
    """Search for faces, for any number of trackers; keep nothing from picture to picture."""

    def find(self, image: U8) -> F32:
        """Faces in uint8[H, W, 3]: f32[N, 4] (x0, y0, x1, y1), pixels, brows to chin."""
        ...

    def close(self) -> None: ...


def _graphs(runtime: Runtime) -> Any:
    """The module that runs the nets: its `FaceMesh` is a `Graph`, its `Detectors` are such."""
    if runtime == "mediapipe" or importlib.util.find_spec("ai_edge_litert") is None:
        from lipwire.engine.face import mediapipe_graphs

        return mediapipe_graphs
    from lipwire.engine.face import litert

    return litert


class MeshTracker:
    """MediaPipe's face mesh: detects once, then follows the face it has, which keeps it chosen.

    Args:
        min_confidence: below it a detection or a tracked face is dropped.
        still: treat every picture on its own (for photographs).
        detectors: shared with others, who close them; None makes its own.
        runtime: what runs the nets.

    Raises:
        BundleError: the nets are missing.
        ConfigError: the runtime is not installed.
    """

    def __init__(
        self,
        min_confidence: float = MIN_CONFIDENCE,
        still: bool = False,
        detectors: Detectors | None = None,
        runtime: Runtime = "litert",
    ) -> None:
        graphs = _graphs(runtime)
        self._open = partial(graphs.FaceMesh, min_confidence)
        self._mesh = Mesh(self._open(still))
        self._scouts: list[Mesh] = []  # of other faces; made when somebody asks for them
        self._detectors = detectors or graphs.Detectors(min_confidence)
        self._own = [] if detectors else [self._detectors]
        self._empty = 0  # searches since one found something

    def track(self, image: U8) -> Face | None:
        """The face in uint8[H, W, 3] RGB, or None; of all of it until `aim` says where."""
        return self._mesh.track(image)

    def aim(self, box: F32) -> None:
        """From the next picture on follow the face in f32[4], and no other."""
        self._mesh.aim(box)

    def detect(self, image: U8) -> F32:
        """Every face in uint8[H, W, 3]: f32[N, 4] (x0, y0, x1, y1), pixels, brows to chin.

        Faces wider than about 7 % of the picture: near ones by one net, far ones by another. While
        there are none, every second call looks into a part of a large picture, for smaller ones.
        """
        self._empty += 1
        tile = (0, 0, image.shape[1], image.shape[0])
        if self._empty % 2 == 0 and max(image.shape[:2]) > TRACK_SIDE_PX:
            tile = _tiles(image.shape)[self._empty // 2 % TILES]
        x0, y0, x1, y1 = tile
        small = reduced(image[y0:y1, x0:x1], TRACK_SIDE_PX)
        found = self._detectors.find(small)
        if not len(found):
            return found
        self._empty = 0
        scale = ((x1 - x0) / small.shape[1], (y1 - y0) / small.shape[0]) * 2
        return np.asarray(found * scale + (x0, y0) * 2, np.float32)

    def glimpse(self, image: U8, boxes: F32) -> list[Face | None]:
        """Landmarks of other faces, in f32[N, 4], without losing the one it follows."""
        while len(self._scouts) < len(boxes):
            self._scouts.append(Mesh(self._open(False)))
        return [self._peek(i, image, box) for i, box in enumerate(boxes)]

    def _peek(self, index: int, image: U8, box: F32) -> Face | None:
        free = self._scouts[index:]
        scout = next((s for s in free if s.holds(box)), free[0])
        self._scouts.remove(scout)
        self._scouts.insert(index, scout)
        if not scout.holds(box):
            scout.aim(box)
        return scout.track(image)

    def forget(self) -> None:
        """Lose every face it follows, so that it can follow somebody else's."""
        for mesh in (self._mesh, *self._scouts):
            mesh.forget()

    def close(self) -> None:
        for mesh in (self._mesh, *self._scouts):
            mesh.close()
        for detectors in self._own:
            detectors.close()


def _tiles(shape: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Parts of a picture, (x0, y0, x1, y1), that overlap by more than a small face."""
    height, width = shape[0], shape[1]
    corners = [(x, y, x + 0.55, y + 0.55) for y in (0, 0.45) for x in (0.225, 0, 0.45)]
    return [
        (round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height))
        for x0, y0, x1, y1 in corners
    ]


class TrackerPool:
    """Lends trackers to sessions and takes them back, ready for the next.

    MediaPipe takes as long as ten frames to build one, which a call that begins would lose, and is
    said to keep some memory of every one that was ever built. All search with the same detectors.

    Args:
        runtime: what runs the nets.
        make: builds a tracker from the `detectors` and the `runtime` it is given, when none is
            idle.
    """

    def __init__(
        self, runtime: Runtime = "litert", make: Callable[..., MeshTracker] = MeshTracker
    ) -> None:
        self._runtime: Runtime = runtime
        self._make = make
        self._detectors: Detectors | None = None  # opened by the first who needs a tracker
        self._idle: list[MeshTracker] = []
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self) -> FaceTracker:
        """A tracker that follows nobody yet; closing it gives it back."""
        with self._lock:
            tracker = self._idle.pop() if self._idle else None
            if self._detectors is None:
                self._detectors = _graphs(self._runtime).Detectors(MIN_CONFIDENCE)
        made = tracker or self._make(detectors=self._detectors, runtime=self._runtime)
        return _Lent(made, self)

    def give_back(self, tracker: MeshTracker) -> None:
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
        if self._detectors is not None:
            self._detectors.close()


class _Lent:
    """A tracker that goes back to its pool instead of being freed."""

    def __init__(self, tracker: MeshTracker, pool: TrackerPool) -> None:
        self._tracker: MeshTracker | None = tracker
        self._pool = pool

    @property
    def _held(self) -> MeshTracker:
        assert self._tracker is not None, "given back already"
        return self._tracker

    def track(self, image: U8) -> Face | None:
        """The face it follows in uint8[H, W, 3] RGB, or None."""
        return self._held.track(image)

    def detect(self, image: U8) -> F32:
        """Every face, f32[N, 4]."""
        return self._held.detect(image)

    def aim(self, box: F32) -> None:
        """Follow the face in f32[4]."""
        self._held.aim(box)

    def glimpse(self, image: U8, boxes: F32) -> list[Face | None]:
        """Landmarks of other faces."""
        return self._held.glimpse(image, boxes)

    def close(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            self._pool.give_back(tracker)
