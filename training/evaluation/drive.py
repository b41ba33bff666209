"""One clip's face driven by one voice as a call drives it, and what a tracker sees of the result.

The model is told what a call tells it: crops at the length it knows
(engine/face/pitch_compensation.py), references (engine/face/references.py), how far the person's
mouth goes (engine/face/articulation_scale.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.backends import Backend
from lipwire.engine.face.articulation import OPENING, raw_codes
from lipwire.engine.face.articulation_scale import ArticulationScale, believed, grown, moving
from lipwire.engine.face.pitch_compensation import (
    PitchCompensation,
    lengthened_alignment,
    stretch,
    unstretch,
)
from lipwire.engine.face.references import ReferenceBank
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.types import F32, U8, LipJob
from lipwire.engine.units.usual import UsualMouth
from lipwire.training.data.dataset import ClipData, to_planes
from lipwire.training.evaluation.measures import IDENTITY
from lipwire.training.nets.perceptual import load_perceptual


@dataclass(frozen=True, slots=True)
class Drive:
    """One clip's face, painted with one voice."""

    painted: list[U8]
    landmarks: F32
    """f32[T, 468, 2] of the painted pictures; NaN where no face was found"""

    @property
    def opening(self) -> F32:
        """f32[T], crop pixels."""
        return raw_codes(self.landmarks)[:, OPENING]


class Given(NamedTuple):
    """What a call tells the model of one frame."""

    crop: U8
    references: U8
    reach: F32 | None
    length: float
    """how many times as long as its lower half the model sees it"""
    reference_codes: F32 | None = None


def reach_elsewhere(clips: Sequence[ClipData], number: int, frames: int, typical_px: float) -> F32:
    """What a call would know of a person, from other frames than those that are judged by it.

    Args:
        clips: all of the split.
        number: of the clip that is painted.
        frames: T, how many of it are.
        typical_px: a typical speaker's range.

    Returns:
        f32[T, codes]; the first half is told what the second half and the speaker's other clips
        show, and the other way round.
    """
    clip = clips[number]
    opening, others = clip.codes[:, OPENING], list[float]()
    for index, other in enumerate(clips):
        if index != number and other.speaker == clip.speaker:
            others += moving(other.codes[:, OPENING], PAPER_FPS)
    others += moving(opening[frames:], PAPER_FPS)  # past what is painted
    half = frames // 2
    first, second = (
        grown(believed(others + moving(part, PAPER_FPS), typical_px))
        for part in (opening[half:frames], opening[:half])
    )
    return np.stack([first] * half + [second] * (frames - half))


def lengths_of(clip: ClipData) -> list[float]:
    """How many times its length a call shows the model each frame's lower face, see
    `PitchCompensation`."""
    compensation = PitchCompensation()
    return [compensation.update(m, IDENTITY, i / PAPER_FPS) for i, m in enumerate(clip.landmarks)]


def as_seen(clip: ClipData) -> ClipData:
    """A clip with the codes that a call reads: of the face at the length that the model sees."""
    return replace(clip, codes=clip.codes * np.array(lengths_of(clip), np.float32)[:, None])


class Measure:
    """Paints with one backend and measures with one tracker and one perceptual distance."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self._tracker = backend, MeshTracker(still=True)
        self.perceptual = load_perceptual()
        self.columns = int(backend.manifest.mel["columns"])
        self._references = backend.manifest.references
        self.typical_px = backend.manifest.reach_px

    def reconstruction(
        self, clip: ClipData, mels: F32, steps: int, reach: F32 | None = None
    ) -> Drive:
        """The clip's first frame, moved by `mels`, f32[T, 80, C].

        Args:
            clip: shows the face.
            mels: of the voice.
            steps: DDIM steps.
            reach: f32[T, codes], what is known of the person; None: nothing.
        """
        first = np.ascontiguousarray(clip.crops[0])
        length = lengths_of(clip)[0]
        bank = ReferenceBank(self._references)
        placed = lengthened_alignment(IDENTITY, length)
        bank.update(stretch(first, length), clip.landmarks[0], placed, 0.0)
        codes = self._told(self._usual(), clip.landmarks[0], bank)
        told = [None] * len(mels) if reach is None else list(reach)
        faces = [Given(first, bank.references, known, length, codes) for known in told]
        return self._drive(faces, mels, steps)

    def cross(self, clip: ClipData, mels: F32, steps: int, *, settled: bool = False) -> Drive:
        """The clip's frames, each with what a reference bank holds at its time.

        Args:
            clip: shows the face.
            mels: of the voice.
            steps: DDIM steps.
            settled: the call has seen the clip already, and references change no more.
        """
        bank, usual, faces = ReferenceBank(self._references), self._usual(), list[Given]()
        reach, lengths = ArticulationScale(self.typical_px), lengths_of(clip)
        for i in range(len(mels)):
            crop, time_s, length = np.ascontiguousarray(clip.crops[i]), i / PAPER_FPS, lengths[i]
            placed = lengthened_alignment(IDENTITY, length)
            bank.update(stretch(crop, length), clip.landmarks[i], placed, time_s)
            reach.update(clip.landmarks[i], placed, time_s)
            known = reach.value if self.typical_px else None
            codes = self._told(usual, clip.landmarks[i], bank)
            faces.append(Given(crop, bank.references, known, length, codes))
        if settled:
            faces = [faces[-1]._replace(crop=face.crop, length=face.length) for face in faces]
        return self._drive(faces, mels, steps)

    def _usual(self) -> UsualMouth | None:
        """What references are told from; None for a model that is not told what they show."""
        spec = self.backend.manifest.job_spec
        return UsualMouth(spec.codes) if spec.codes and spec.reference_codes else None

    def _told(self, usual: UsualMouth | None, landmarks: F32, bank: ReferenceBank) -> F32 | None:
        if usual is None:
            return None
        usual.update(raw_codes(landmarks[None])[0])
        return usual.told(bank.codes)

    def _drive(self, faces: Sequence[Given], mels: F32, steps: int) -> Drive:
        seed = self.backend.manifest.noise_seed
        jobs = [
            LipJob(
                "evaluate",
                i,
                stretch(face.crop, face.length),
                face.references,
                mel,
                seed,
                steps,
                0.0,
                face.reach,
                face.reference_codes,
            )
            for i, (face, mel) in enumerate(zip(faces, mels, strict=True))
        ]
        long: list[U8] = []
        for begin in range(0, len(jobs), 8):
            long += self.backend.generate(jobs[begin : begin + 8])
        painted = [
            unstretch(picture, face.crop, face.length)
            for picture, face in zip(long, faces, strict=True)
        ]
        return Drive(painted, self.landmarks(painted))

    def landmarks(self, images: Sequence[U8]) -> F32:
        """f32[T, 468, 2] of crops; NaN where no face is found."""
        found = np.full((len(images), 468, 2), np.nan, np.float32)
        for i, image in enumerate(images):
            face = self._tracker.track(np.ascontiguousarray(image))
            if face is not None:
                found[i] = face.landmarks
        return found

    def distance(self, found: Sequence[U8], wanted: Sequence[U8]) -> float:
        """Mean perceptual distance of pictures, uint8[h, w, 3] each; 0 for the same pictures."""
        import torch

        a, b = (torch.from_numpy(np.stack([to_planes(p) for p in x])) for x in (found, wanted))
        with torch.no_grad():
            return float(self.perceptual(a, b).mean())

    def close(self) -> None:
        """Free the tracker."""
        self._tracker.close()
