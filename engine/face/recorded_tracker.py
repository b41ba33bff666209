"""RecordedTracker: a film that is gone over twice is tracked once."""

from __future__ import annotations

from lipwire.engine.face.tracker import FaceTracker
from lipwire.engine.types import F32, U8, Face

# Faces that are kept, 4 kB each: a quarter of an hour at 25 fps, 90 MB. What comes after is tracked
# again.
KEPT_FACES = 22_500


class RecordedTracker:
    """Tells for a picture that was looked at before what was found then."""

    def __init__(self, tracker: FaceTracker) -> None:
        self._tracker = tracker
        self._faces: dict[float, Face | None] = {}
        self._boxes: dict[float, F32] = {}
        self._time_s, self._keep = 0.0, False

    def at(self, time_s: float, keep: bool) -> None:
        """Say when the next picture was taken, its name from then on, and whether to keep it."""
        self._time_s, self._keep = time_s, keep and len(self._faces) < KEPT_FACES

    def track(self, image: U8) -> Face | None:
        """The face it follows, or None."""
        if self._time_s in self._faces:
            return self._faces[self._time_s]
        face = self._tracker.track(image)
        if self._keep:
            self._faces[self._time_s] = face
        return face

    def detect(self, image: U8) -> F32:
        """Every face, f32[N, 4]."""
        boxes = self._boxes.get(self._time_s)
        if boxes is None:
            boxes = self._tracker.detect(image)
            if self._keep:
                self._boxes[self._time_s] = boxes
        return boxes

    def aim(self, box: F32) -> None:
        """Follow the face in f32[4]."""
        self._tracker.aim(box)

    def glimpse(self, image: U8, boxes: F32) -> list[Face | None]:
        """Landmarks of other faces."""
        return self._tracker.glimpse(image, boxes)

    def close(self) -> None:
        self._tracker.close()
