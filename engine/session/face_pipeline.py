"""From a frame to a job: track, align, keep what is seen of the person. One per session."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Literal

import numpy as np

from lipwire.engine.config import EngineConfig
from lipwire.engine.face.active_speaker import Envelope
from lipwire.engine.face.alignment import (
    CROP_SIZE,
    align,
    alignment_from,
    box_alignment,
    face_box,
    fit_similarity,
    pose_to_similarity,
    similarity_to_pose,
    transform,
    turned_px,
)
from lipwire.engine.face.articulation import OPENING
from lipwire.engine.face.articulation_scale import ArticulationScale
from lipwire.engine.face.exposure import gain_of, lit, times
from lipwire.engine.face.identity import face_similarity, likeness_of
from lipwire.engine.face.occlusion import BARE, OcclusionDetector
from lipwire.engine.face.one_euro import OneEuro
from lipwire.engine.face.pitch_compensation import PitchCompensation, lengthened_alignment, stretch
from lipwire.engine.face.recorded_tracker import RecordedTracker
from lipwire.engine.face.references import TURNED_PX, ReferenceBank
from lipwire.engine.face.selector import FaceSelector
from lipwire.engine.face.tracker import FaceTracker
from lipwire.engine.session.aligned import Aligned, Chapter
from lipwire.engine.trace import UNTRACED, Trace
from lipwire.engine.types import F32, F64, U8, Alignment, Coverage, Enrolled, Face, JobSpec, Outcome
from lipwire.engine.units.bank import FILM_CAPACITY, MouthBank
from lipwire.engine.units.enrolled import Consent, EnrolledBank, Enrolment, enrolled_bank
from lipwire.engine.units.moved import moved_unit, unit_slot
from lipwire.engine.units.selection import ChosenUnit, Selector
from lipwire.engine.units.unit import codes_of, look_of, to_small_crop, unit_of
from lipwire.engine.units.usual import UsualMouth

# One in so many silent frames is looked at. Fewer: references are old when the voice begins, and a
# quick head is lost in between. More: tracking a face that is not repainted takes a core's time
# from others.
# While the bank of the person's own mouths has room, every frame is looked at.
GLANCE_FRAMES = 3
# Likeness of the face in two pictures below which it is another person's: between neighbours,
# between neighbours whose pictures differ too, and after it had been lost. Of 24 people half of all
# pairs lay below 0.75 and 95 % below 0.87; one face's neighbours fall to 0.65 when the head is
# thrown about.
SAME_FACE, SAME_ELSEWHERE, SAME_AGAIN = 0.6, 0.85, 0.75
# So long a face that is back and looks like another's passes through before it is taken for one.
# Shorter: who comes back from profile has lost his references; longer: somebody else waits.
DOUBT_S = 0.5
BOX_FRAMES = 5  # that the paper averages face boxes over; live, they are the last ones


class FacePipeline:
    """Finds the face in each frame; `lipwire.engine.session.aligned` puts mouths back."""

    def __init__(
        self,
        tracker: FaceTracker,
        config: EngineConfig,
        spec: JobSpec,
        envelope: Envelope | None = None,
    ) -> None:
        self._config, self._spec = config, spec
        self._record = RecordedTracker(tracker) if config.offline else None
        self._tracker = self._record or tracker
        self.selector = FaceSelector(self._tracker, config, envelope)
        self._references = ReferenceBank(spec.references)
        self._reach = ArticulationScale(spec.reach_px) if spec.reach_px else None
        self._units = (
            Selector(spec.codes, spec.reach_px or 1.0) if spec.codes and config.own_mouths else None
        )
        self._usual = UsualMouth(spec.codes) if spec.codes and not self._units else None
        self._chapters: list[Chapter] = []  # of a film that is seen before it is dubbed
        self._learning = False
        self._enrolment: Enrolment | None = None
        self._occlusion = OcclusionDetector()
        self._smooth, self._pitch = OneEuro(), PitchCompensation()
        self._boxes: deque[F64] = deque(maxlen=BOX_FRAMES)
        self._glances = 0
        self._person, self._stretch = self.selector.person, self.selector.stretch
        self._likeness: F32 | None = None
        self._frontal: F32 | None = None  # the last likeness that looked into the camera
        self._returned = False
        self._doubt_s: float | None = None  # since when it looks like somebody else

    def find(self, image: U8, time_s: float, trace: Trace = UNTRACED) -> Aligned | Outcome:
        """Track and cut out the face, or say why the frame must pass through."""
        height, width = image.shape[:2]
        if min(height, width) < self._config.min_side_px or (
            max(height, width) > self._config.max_side_px
        ):
            return Outcome.UNSUITABLE
        if self._chapters:
            self._turn_to(time_s)
        if self._record is not None:
            self._record.at(time_s, self._learning)
        face = self.selector.update(image, time_s)
        trace.stamp("tracked")
        self._keep_up(time_s)
        if isinstance(face, Outcome):
            return face
        alignment = self._align(face, time_s)
        crop = align(image, alignment)
        if not self._recognise(crop, face, time_s):
            return self._refuse(Outcome.NO_FACE)
        points = transform(face.landmarks, alignment.matrix)
        if self._occlusion.update(crop, points, time_s, face.told):
            return self._refuse(Outcome.OCCLUDED)
        length = 1.0
        if self._spec.framing != "box":  # models of boxes have seen all poses in them
            length = self._pitch.update(face.landmarks, alignment, time_s)
        long, placed = stretch(crop, length), lengthened_alignment(alignment, length)
        if (
            self._occlusion.share < BARE or self._references.empty
        ):  # no mouth with a hand on its way
            self._references.update(long, face.landmarks, placed, time_s)
        reach = None
        if self._reach is not None:
            if self._open:
                self._reach.update(face.landmarks, placed, time_s)
            reach = self._reach.value
        look = None if self._likeness is None else look_of(self._likeness)
        if self._units is not None and look is not None and self._open:
            self._recall(face, look, time_s)
            bank, codes = self._units.bank, codes_of(alignment, face.landmarks)
            bank.usual.update(codes)
            if self._occlusion.share < BARE and bank.wants(codes, look, time_s):
                bank.add(unit_of(image, alignment, face.landmarks, look, time_s))
        elif self._usual is not None:
            self._usual.update(codes_of(alignment, face.landmarks))
        gain = gain_of(long)
        references = np.stack([lit(shown) for shown in self._references.references])
        told = self._reference_codes()
        made = (image, times(long, gain), references, alignment, face)
        return Aligned(*made, reach, gain, length, time_s, look, told)

    def _reference_codes(self) -> F32 | None:
        """f32[R, codes], what the references show, for a model that is told."""
        usual = self._usual if self._units is None else self._units.bank.usual
        if usual is None or not self._spec.reference_codes:
            return None
        return usual.told(self._references.codes)

    def _refuse(self, why: Outcome) -> Outcome:
        self.selector.record(why)
        return why

    def _keep_up(self, time_s: float) -> None:
        """Forget what the tracking says is over."""
        if self.selector.person != self._person:
            self._forget(time_s)
        elif self.selector.stretch != self._stretch:
            self._unsmooth()
        self._person, self._stretch = self.selector.person, self.selector.stretch

    def _recognise(self, crop: U8, face: Face, time_s: float) -> bool:
        """Whether the face may be painted: not in the picture in which it is another's at once.

        Who is back may be turned away as he was not before: he has some time to look like himself.
        """
        seen, last = likeness_of(crop), self._likeness
        if last is None or last.shape != seen.shape:
            return self._remember(seen, face)
        known = [last] if self._frontal is None or not self._returned else [last, self._frontal]
        elsewhere = SAME_ELSEWHERE if self.selector.unlike else SAME_FACE
        least = SAME_AGAIN if self._returned else elsewhere
        if max(face_similarity(one, seen) for one in known) >= least:
            return self._remember(seen, face)
        if self._returned:
            since_s = self._doubt_s = time_s if self._doubt_s is None else self._doubt_s
            if 0 <= time_s - since_s < DOUBT_S:
                return False
        returned = self._returned
        self._forget(time_s)
        self._remember(seen, face)
        return returned  # who comes back as somebody else fades in anyway

    def _remember(self, likeness: F32, face: Face) -> Literal[True]:
        """It is him."""
        self._likeness, self._returned, self._doubt_s = likeness, False, None
        if turned_px(face.landmarks) <= TURNED_PX:
            self._frontal = likeness
        return True

    def glance(self, image: U8, time_s: float) -> None:
        """Keep knowing the face of a frame that is not repainted: now and then, it costs little.

        Without it the first words after a pause would be painted from the first frame's mouth.
        """
        self._glances += 1
        filling = self._units is not None and len(self._units.bank) < self._units.bank.capacity
        if filling or self._glances % GLANCE_FRAMES == 1:
            self.find(image, time_s)
        if self._units is not None:
            self._units.pause()

    # --- a film that is seen before it is dubbed ---

    def learn(self, image: U8, time_s: float) -> None:
        """Look at a frame for the mouths in it; nothing else is done with it."""
        if self._units is None:
            return
        if not self._learning:
            self._learning = True
            self._begin_chapter(time_s)
        self.find(image, time_s)

    def learned(self) -> None:
        """The film has been seen and begins again: every frame is given what all of it shows."""
        self._learning = False
        self.lose()

    def _begin_chapter(self, time_s: float) -> None:
        assert self._units is not None and self._spec.codes is not None
        bank = self._units.bank = MouthBank(self._spec.codes, FILM_CAPACITY)
        self._reach = ArticulationScale(self._spec.reach_px) if self._spec.reach_px else None
        self._chapters.append(Chapter(time_s, bank, self._reach))
        if self._enrolment is not None:
            self._enrolment.begin(keep=True)

    def _turn_to(self, time_s: float) -> None:
        """Take what is known of the person who is seen at this time."""
        if self._learning or self._units is None:
            return
        begun = (chapter for chapter in reversed(self._chapters) if chapter.begin_s <= time_s)
        chapter = next(begun, self._chapters[0])
        if chapter.bank is not self._units.bank:
            self._units.pause()
            self._units.bank, self._reach = chapter.bank, chapter.reach

    @property
    def _open(self) -> bool:
        """Whether the bank is still being filled."""
        return self._learning or not self._chapters

    # --- mouths from before the call ---

    def enrol(self, enrolled: EnrolledBank) -> None:
        """Use these mouths as soon as the face is known as that of their person."""
        if self._units is not None:
            self._enrolment = Enrolment(enrolled)

    def _recall(self, face: Face, look: F32, time_s: float) -> None:
        """Begin with the enrolled mouths if the face is that person's."""
        enrolment = self._enrolment
        if enrolment is None or self._units is None or turned_px(face.landmarks) > TURNED_PX:
            return
        if enrolment.judge(look, time_s):
            enrolment.take(self._units.bank, self._reach)

    def enrolled(self, consent: Consent) -> EnrolledBank | None:
        """What is known of the person; of the one seen most in a film, and None if too little."""
        if self._units is None or self._spec.codes is None:
            return None
        if self._chapters and not self._learning:
            most = max(self._chapters, key=lambda chapter: len(chapter.bank))
            self._units.bank, self._reach = most.bank, most.reach
        if not self.speaks:
            return None
        return enrolled_bank(self._units.bank, self._reach, self._spec.codes, consent)

    # --- the person's own mouths ---

    @property
    def speaks(self) -> bool:
        """Whether the bank of this person's own mouths can speak."""
        scale = 1.0 if self._reach is None else float(self._reach.value[OPENING])
        return self._units is not None and self._units.ready(scale)

    @property
    def coverage(self) -> Coverage:
        """What the bank holds."""
        if self._units is None:
            return Coverage()
        state = Enrolled.NONE if self._enrolment is None else self._enrolment.state
        return replace(self._units.coverage, enrolled=state)

    def choose(self, aligned: Aligned, codes: F32) -> ChosenUnit | None:
        """The person's own mouth for a frame; None if none of another moment is known."""
        if self._units is None or aligned.look is None:
            return None
        return self._units.choose(codes, aligned.look, aligned.time_s)

    def asked(self, aligned: Aligned, codes: F32) -> Aligned:
        """The frame with how its mouth is to be held."""
        usual = self._usual if self._units is None else self._units.bank.usual
        return aligned if usual is None else replace(aligned, wanted=usual.asked(codes))

    def begin_at(self, aligned: Aligned, chosen: ChosenUnit) -> Aligned:
        """The frame with a unit, moved to its pose, as a reference and as what sampling begins at.

        Returns:
            `aligned` itself for a model that is not told what its references show.
        """
        codes = aligned.reference_codes
        if codes is None or self._units is None:
            return aligned
        size = self._spec.crop_size
        crop = aligned.own_crop.copy()
        points = transform(aligned.face.landmarks, to_small_crop(aligned.alignment))
        crop[size // 2 :] = moved_unit(chosen.unit, points, size, chosen.change)
        crop = times(stretch(crop, aligned.length), aligned.gain)
        references, slot = aligned.references.copy(), unit_slot(len(aligned.references))
        references[slot] = crop
        codes = codes.copy()
        codes[slot] = self._units.bank.usual.told(chosen.codes)
        return replace(
            aligned, references=references, reference_codes=codes, start=crop[size // 2 :]
        )

    def _align(self, face: Face, time_s: float) -> Alignment:
        size = self._spec.crop_size
        if self._spec.framing == "box":
            self._boxes.append(face_box(face.landmarks))
            return box_alignment(np.mean(self._boxes, axis=0), size)
        similarity = fit_similarity(face.landmarks, size)
        # Speeds in pixels of a 128 px crop, whatever the size of face and crop.
        scale = float(np.hypot(*similarity[:2])) * CROP_SIZE / size
        steady = self._smooth(
            similarity_to_pose(similarity, size), time_s, np.array([scale, scale, 1.0, 1.0])
        )
        return alignment_from(pose_to_similarity(steady, size), size)

    def lose(self) -> None:
        """The person is gone: all that was learned of him goes too."""
        self.selector.forget()
        self._keep_up(0.0)

    def _forget(self, time_s: float) -> None:
        self._unsmooth()
        self._references.clear()
        if self._learning:
            self._begin_chapter(time_s)
        elif not self._chapters:
            if self._reach is not None:
                self._reach.clear()
            if self._units is not None:
                self._units.clear()
            if self._usual is not None:
                self._usual.clear()
            if self._enrolment is not None:
                self._enrolment.begin()
        self._occlusion.clear()
        self._likeness, self._frontal, self._returned, self._doubt_s = None, None, False, None

    def _unsmooth(self) -> None:
        """The movement is broken."""
        self._smooth.reset()
        self._pitch.reset()
        self._boxes.clear()
        self._returned = True

    def close(self) -> None:
        self._tracker.close()
