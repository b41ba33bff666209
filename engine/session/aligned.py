"""A face that was found in a frame and cut out of it."""

from __future__ import annotations

from dataclasses import dataclass

from lipwire.engine.compositing.blend import blend
from lipwire.engine.face.alignment import align
from lipwire.engine.face.articulation_scale import ArticulationScale
from lipwire.engine.face.exposure import times
from lipwire.engine.face.pitch_compensation import unstretch
from lipwire.engine.types import F32, U8, Alignment, Face, Patch
from lipwire.engine.units.bank import MouthBank
from lipwire.engine.units.compose import put
from lipwire.engine.units.reshape import reshape
from lipwire.engine.units.selection import ChosenUnit


@dataclass(frozen=True, slots=True)
class Aligned:
    """A face ready for the model."""

    image: U8
    """uint8[H, W, 3], the whole frame"""
    crop: U8
    """uint8[S, S, 3], `gain` times as bright as the frame, its lower half `length` times as high"""
    references: U8
    """uint8[R, S, S, 3], see `ReferenceBank`; each as bright and as long as the model wants a
    face"""
    alignment: Alignment
    face: Face
    reach: F32 | None = None
    """f32[codes], see `ArticulationScale`; None for a model that takes none"""
    gain: float = 1.0
    """above 1 for a face in the dark"""
    length: float = 1.0
    """above 1 for a head that nods forward, see `PitchCompensation`"""
    time_s: float = 0.0
    """when it was taken"""
    look: F32 | None = None
    """f32[D], see `Unit.look`; None for a model without units"""
    reference_codes: F32 | None = None
    """f32[R, codes], see `LipJob`"""
    start: U8 | None = None
    """uint8[S/2, S, 3], see `LipJob`"""
    wanted: F32 | None = None
    """f32[codes], how the mouth is to be held, as measured; None where nobody can say it"""

    @property
    def own_crop(self) -> U8:
        """uint8[S, S, 3], as bright and as long as in the frame; not to be written to."""
        if self.gain == 1 and self.length == 1:
            return self.crop
        return align(self.image, self.alignment)


@dataclass(frozen=True, slots=True)
class Chapter:
    """A stretch of a film with one person in it, as seen before it is dubbed."""

    begin_s: float
    bank: MouthBank
    reach: ArticulationScale | None


def composite(aligned: Aligned, generated: U8, strength: float) -> Patch:
    """What the generated mouth, uint8[S, S, 3], changes in its frame."""
    crop = aligned.own_crop
    generated = unstretch(times(generated, 1 / aligned.gain), crop, aligned.length)
    landmarks = aligned.face.landmarks
    if aligned.wanted is not None:
        return reshape(
            aligned.image, generated, aligned.alignment, landmarks, aligned.wanted, strength
        )
    return blend(aligned.image, crop, generated, aligned.alignment, landmarks, strength)


def move(aligned: Aligned, strength: float) -> Patch:
    """What moving the frame's own mouth towards what is wanted changes, without the model."""
    assert aligned.wanted is not None
    landmarks = aligned.face.landmarks
    return reshape(aligned.image, None, aligned.alignment, landmarks, aligned.wanted, strength)


def paste(aligned: Aligned, chosen: ChosenUnit, strength: float) -> Patch:
    """What one of the person's own mouths changes in a frame."""
    landmarks, unit = aligned.face.landmarks, chosen.unit
    return put(aligned.image, aligned.alignment, landmarks, unit, strength, chosen.change)
