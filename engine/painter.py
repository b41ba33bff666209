"""From a frame to a job and back: track, align, composite. One per session."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from engine.blend import blend
from engine.config import EngineConfig
from engine.face import (
    align,
    alignment_from,
    box_alignment,
    face_box,
    face_width_px,
    fit_similarity,
    pose_to_similarity,
    profile_ratio,
    similarity_to_pose,
)
from engine.gallery import Gallery
from engine.trace import Trace
from engine.tracker import FaceTracker, OneEuro
from engine.types import F64, U8, Alignment, Face, JobSpec, Outcome, Patch

# Nose this many times nearer one ear than the other: half the mouth is out of sight.
MAX_PROFILE = 5.0
# One in so many silent frames is looked at. Fewer: references are old when the voice begins. More:
# tracking a face that is not repainted takes a core's time from others.
GLANCE_FRAMES = 5
BOX_FRAMES = 5  # that the paper averages face boxes over; live, they are the last ones


@dataclass(frozen=True, slots=True)
class Aligned:
    """A face ready for the model."""

    image: U8
    """uint8[H, W, 3], the whole frame"""
    crop: U8
    """uint8[S, S, 3]"""
    references: U8
    """uint8[R, S, S, 3], see `Gallery`"""
    alignment: Alignment
    face: Face


class Painter:
    """Finds the face in each frame and puts generated mouths back.

    Args:
        tracker: follows this session's face; closed with the painter.
        config: limits.
        spec: what the model asks of a job.
    """

    def __init__(self, tracker: FaceTracker, config: EngineConfig, spec: JobSpec) -> None:
        self._tracker, self._config, self._spec = tracker, config, spec
        self._gallery = Gallery(spec.references)
        self._smooth = OneEuro()
        self._boxes: deque[F64] = deque(maxlen=BOX_FRAMES)
        self._glances = 0

    def find(self, image: U8, time_s: float, trace: Trace | None = None) -> Aligned | Outcome:
        """Track and cut out the face, or say why the frame must pass through.

        Args:
            image: uint8[H, W, 3].
            time_s: when it was taken.
            trace: told when the face is found.
        """
        height, width = image.shape[:2]
        if min(height, width) < self._config.min_side_px or (
            max(height, width) > self._config.max_side_px
        ):
            return Outcome.UNSUITABLE
        face = self._tracker.track(image)
        if trace is not None:
            trace.mark("tracked")
        if face is None:
            self.lose()
            return Outcome.NO_FACE
        if (
            face_width_px(face.landmarks) < self._config.min_face_px
            or profile_ratio(face.landmarks) > MAX_PROFILE
        ):
            self.lose()
            return Outcome.FACE_UNUSABLE
        alignment = self._align(face, time_s)
        crop = align(image, alignment)
        self._gallery.see(crop, face.landmarks, alignment, time_s)
        return Aligned(image, crop, self._gallery.references, alignment, face)

    def glance(self, image: U8, time_s: float) -> None:
        """Keep knowing the face of a frame that is not repainted: now and then, it costs little.

        Without it the first words after a pause would be painted from the first frame's mouth.
        """
        if self._spec.references == 1:
            return
        self._glances += 1
        if self._glances % GLANCE_FRAMES == 1:
            self.find(image, time_s)

    def _align(self, face: Face, time_s: float) -> Alignment:
        size = self._spec.crop_size
        if self._spec.framing == "box":
            self._boxes.append(face_box(face.landmarks))
            return box_alignment(np.mean(self._boxes, axis=0), size)
        pose = similarity_to_pose(fit_similarity(face.landmarks, size), size)
        return alignment_from(pose_to_similarity(self._smooth(pose, time_s), size), size)

    def lose(self) -> None:
        """The face is gone: smoothing and references start afresh when one returns."""
        self._smooth.reset()
        self._gallery.clear()
        self._boxes.clear()

    def adopt(self, spec: JobSpec) -> None:
        """From now on cut out what another model asks for."""
        if spec != self._spec:
            self._spec = spec
            self._gallery = Gallery(spec.references)
            self._smooth.reset()  # poses are measured in crops
            self._boxes.clear()

    @staticmethod
    def paint(aligned: Aligned, generated: U8, strength: float) -> Patch:
        """What the generated mouth, uint8[S, S, 3], changes in its frame."""
        return blend(
            aligned.image,
            aligned.crop,
            generated,
            aligned.alignment,
            aligned.face.landmarks,
            strength,
        )

    def close(self) -> None:
        """Free the tracker."""
        self._tracker.close()
