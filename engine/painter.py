"""From a frame to a job and back: track, align, composite, fade. One per session."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from engine.config import EngineConfig
from engine.face import (
    align,
    alignment_from,
    box_alignment,
    composite,
    face_box,
    face_width_px,
    fit_similarity,
    pose_to_similarity,
    profile_ratio,
    similarity_to_pose,
)
from engine.tracker import FaceTracker, OneEuro
from engine.types import F64, U8, Alignment, Face, Outcome

# Nose this many times nearer one ear than the other: half the mouth is out of sight.
MAX_PROFILE = 5.0
BOX_FRAMES = 5  # that the paper averages face boxes over; live, they are the last ones


@dataclass(frozen=True, slots=True)
class Aligned:
    """A face ready for the model."""

    image: U8
    """uint8[H, W, 3], the whole frame"""
    crop: U8
    """uint8[S, S, 3]"""
    alignment: Alignment
    face: Face


class Painter:
    """Finds the face in each frame and puts generated mouths back.

    Args:
        tracker: follows this session's face; closed with the painter.
        config: limits and fades.
        size: side of the model's crop.
        framing: how the crop is cut out, as in the bundle's manifest: stabilised or box.
    """

    def __init__(
        self, tracker: FaceTracker, config: EngineConfig, size: int, framing: str = "stabilised"
    ) -> None:
        self._tracker, self._config, self._size = tracker, config, size
        self._framing = framing
        self._smooth = OneEuro()
        self._boxes: deque[F64] = deque(maxlen=BOX_FRAMES)
        self._strength = 0.0

    def find(self, image: U8, time_s: float) -> Aligned | Outcome:
        """Track and cut out the face, or say why the frame must pass through.

        Args:
            image: uint8[H, W, 3].
            time_s: when it was taken.
        """
        height, width = image.shape[:2]
        if min(height, width) < self._config.min_side_px or (
            max(height, width) > self._config.max_side_px
        ):
            return Outcome.UNSUITABLE
        face = self._tracker.track(image)
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
        return Aligned(image, align(image, alignment), alignment, face)

    def _align(self, face: Face, time_s: float) -> Alignment:
        if self._framing == "box":
            self._boxes.append(face_box(face.landmarks))
            return box_alignment(np.mean(self._boxes, axis=0), self._size)
        pose = similarity_to_pose(fit_similarity(face.landmarks, self._size), self._size)
        similarity = pose_to_similarity(self._smooth(pose, time_s), self._size)
        return alignment_from(similarity, self._size)

    def lose(self) -> None:
        """The face is gone: smoothing and fading start afresh when it returns."""
        self._smooth.reset()
        self._boxes.clear()
        self._strength = 0.0

    def reframe(self, size: int, framing: str) -> None:
        """From now on cut out crops of another side or in another way."""
        if (size, framing) != (self._size, self._framing):
            self._size, self._framing = size, framing
            self._smooth.reset()  # poses are measured in crops
            self._boxes.clear()

    def fade(self, speaking: bool) -> float:
        """Strength of this frame's mouth, 0 to 1, moving by one step towards speaking or not."""
        step = 1.0 / self._config.fade_frames
        target = 1.0 if speaking else 0.0
        self._strength += float(np.clip(target - self._strength, -step, step))
        return self._strength

    @staticmethod
    def paint(aligned: Aligned, generated: U8, strength: float) -> U8:
        """The frame with the generated mouth in it, uint8[H, W, 3]."""
        return composite(
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
