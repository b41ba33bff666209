"""LazyFacePipeline: whom a session repaints, from the first picture on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from lipwire.engine.config import EngineConfig
from lipwire.engine.face.active_speaker import Envelope
from lipwire.engine.face.policy import Choice, Policy
from lipwire.engine.face.tracker import FaceTracker
from lipwire.engine.session.aligned import Aligned
from lipwire.engine.session.face_pipeline import FacePipeline
from lipwire.engine.trace import UNTRACED
from lipwire.engine.types import (
    F32,
    I16,
    Coverage,
    Enrolled,
    JobSpec,
    Outcome,
    Sighting,
    VideoFrame,
)
from lipwire.engine.units.enrolled import Consent, EnrolledBank
from lipwire.engine.units.selection import ChosenUnit


class LazyFacePipeline:
    """Finds the face in one frame after the other, in the worker that has the session.

    What it needs for that is loaded by the first of them, as it takes long. `choose`, `hear`
    and `enrol` may be called from any thread; the rest belongs to the worker.
    """

    def __init__(
        self, make_tracker: Callable[[], FaceTracker], config: EngineConfig, spec: JobSpec
    ) -> None:
        self._make_tracker, self._config, self._spec = make_tracker, config, spec
        self._pipeline: FacePipeline | None = None
        self.coverage = Coverage()  # of the bank of the person's own mouths, as of the last frame
        self._given: EnrolledBank | None = None  # until the worker takes it
        self._choices: deque[Choice] = deque()  # until the worker takes them
        self._heard = Envelope()  # of the original voice
        self.by_lips = False  # whether the original voice decides which face it is
        self.sighting = Sighting()  # as of the last frame

    @property
    def spec(self) -> JobSpec:
        """What the model asks of a job."""
        return self._spec

    def choose(self, choice: Choice) -> None:
        """Follow another face, or choose otherwise among several; from the next frame on."""
        self._choices.append(choice)
        self.by_lips = choice.policy is Policy.LIPS  # whoever points at a face ends that

    def hear(self, samples: I16, rate_hz: int, time_s: float) -> None:
        """The original voice, if it decides."""
        if self.by_lips:
            self._heard.hear(samples, rate_hz, time_s)

    def look(self, frame: VideoFrame, repaint: bool) -> Aligned | Outcome | None:
        """The face of a frame, or why it must pass through; None if it is not to be repainted."""
        pipeline = self._opened()
        while self._choices:
            pipeline.selector.choose(self._choices.popleft())
        found = None
        # Smoothed by the camera's time: arrival jitters.
        if repaint:
            found = pipeline.find(frame.image, frame.time_s, frame.trace or UNTRACED)
        else:
            pipeline.glance(frame.image, frame.time_s)
        self.sighting = pipeline.selector.sighting
        self.coverage = pipeline.coverage
        return found

    def _opened(self) -> FacePipeline:
        if self._pipeline is None:
            tracker = self._make_tracker()
            self._pipeline = FacePipeline(tracker, self._config, self._spec, self._heard)
        if self._given is not None:
            self._pipeline.enrol(self._given)
            self._given = None
        return self._pipeline

    def learn(self, frame: VideoFrame) -> None:
        """Look at a frame of a film before it is dubbed, see `FacePipeline.learn`."""
        self._opened().learn(frame.image, frame.time_s)

    def learned(self) -> None:
        """The film has been seen and begins again."""
        if self._pipeline is not None:
            self._pipeline.learned()
            self.coverage = self._pipeline.coverage

    def enrol(self, enrolled: EnrolledBank) -> None:
        """Begin with these mouths, from the next frame on; from any thread."""
        self.coverage = replace(self.coverage, enrolled=Enrolled.WAITING)
        self._given = enrolled

    def enrolled(self, consent: Consent) -> EnrolledBank | None:
        """What is known of the person, see `FacePipeline.enrolled`."""
        return None if self._pipeline is None else self._pipeline.enrolled(consent)

    @property
    def speaks(self) -> bool:
        """Whether the person's own mouths can speak."""
        return self._pipeline is not None and self._pipeline.speaks

    @property
    def knows(self) -> bool:
        """Whether any of the person's own mouths is known."""
        return self.coverage.units > 0

    def asked(self, aligned: Aligned, codes: F32) -> Aligned:
        """The frame with how its mouth is to be held, see `FacePipeline.asked`."""
        return self._opened().asked(aligned, codes)

    def begin_at(self, aligned: Aligned, chosen: ChosenUnit) -> Aligned:
        """The frame as a job that begins at a unit, see `FacePipeline.begin_at`."""
        return self._opened().begin_at(aligned, chosen)

    def choose_unit(self, aligned: Aligned, codes: F32) -> ChosenUnit | None:
        """The person's own mouth for a frame; None if none of another moment is known."""
        return None if self._pipeline is None else self._pipeline.choose(aligned, codes)

    def close(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()
