"""A face that speaks: pictures whose mouth is as open as asked for, and a tracker that reads it.

image = speaking(6.0)                      # a mouth open by 6 px of a 128 px crop
MouthTracker().track(image).landmarks      # lips and chin where they are drawn
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np
from fakes import FakeBackend, FakeTracker, face_mesh, picture

from lipwire.engine.config import EngineConfig
from lipwire.engine.face.alignment import (
    CROP_SIZE,
    JAW,
    LIPS_OUTER,
    align,
    alignment_from,
    fit_similarity,
    transform,
)
from lipwire.engine.face.articulation import CORNERS
from lipwire.engine.face.articulation_scale import ArticulationScale
from lipwire.engine.face.identity import likeness_of
from lipwire.engine.session.session import Session
from lipwire.engine.types import F32, U8, CodeStats, Face, JobSpec, OutputFrame, VideoFrame
from lipwire.engine.units.bank import MouthBank
from lipwire.engine.units.enrolled import Consent, EnrolledBank, enrolled_bank
from lipwire.engine.units.unit import Unit, look_of, unit_of

STATS = CodeStats((4.0, 4.0, 0, 0, 0, 0, 0), (3.0, 3.0, 2.0, 2.0, 1.0, 2.5, 1.5))
WIDTH_PX = 110.0
CENTRE = (160.0, 120.0)
# Points below the mouth's middle: they go down as it opens; the outer ones half as far.
LOWER_LIPS = (146, 91, 181, 84, 17, 314, 405, 321, 375, 14, 87, 317, 88, 318, 178, 402)
MIDDLE_JAW = JAW[7:14]
SPEC = JobSpec(references=1, mel_columns=16, reach_px=5.0, codes=STATS)
SPEAKING = EngineConfig(silence="generate", fade_s=0.0)
SHUT = 0.0
TALK = [9.0 - abs(i % 18 - 9.0) for i in range(40)]
"""openings of a mouth that speaks, open and shut, as people do"""


def mouth(opening_px: float, shift: tuple[float, float] = (0, 0), roll: float = 0.0) -> F32:
    """f32[468, 2], pixels of the frame: lips open by so many pixels of a 128 px crop."""
    points = face_mesh((0, 0), WIDTH_PX)
    unit = 1 / float(np.hypot(*fit_similarity(points)[:2]))
    lips_gap = {13: 14, 82: 87, 312: 317}
    for upper, lower in lips_gap.items():
        points[lower] = points[upper] + (0, 0)
    for index in {*LOWER_LIPS, *MIDDLE_JAW}:
        share = 0.6 if index in MIDDLE_JAW else 1.0
        points[index, 1] += share * opening_px * unit
    for index in CORNERS:
        points[index, 1] += 0.1 * opening_px * unit
    cos, sin = np.cos(roll), np.sin(roll)
    turned = points @ np.array([[cos, sin], [-sin, cos]]) + np.array(CENTRE) + np.array(shift)
    return np.asarray(turned, np.float32)


@cache
def speaking(opening_px: float, shift: tuple[float, float] = (0, 0), scene: int = 0) -> U8:
    """uint8[240, 320, 3]: a face with such a mouth; the first pixel tells the tracker how open."""
    import cv2

    points = mouth(opening_px, shift)
    image = picture(scene=scene).copy()
    skin = cv2.convexHull(np.round(points[list(JAW)] + (0, 4)).astype(np.int32))
    cv2.fillConvexPoly(image, skin, (190, 150, 130))
    # Brows: what is told apart by eyes and nose needs something there.
    for index in (70, 300):
        x, y = np.round(points[index]).astype(int)
        cv2.circle(image, (int(x), int(y) + 10), 6, (40, 30, 30), -1)
    lips = np.round(points[list(LIPS_OUTER)]).astype(np.int32)
    cv2.fillPoly(image, [lips], (170, 60, 70))
    hole = np.round(points[[78, 82, 13, 312, 308, 317, 14, 87]]).astype(np.int32)
    cv2.fillPoly(image, [hole], (20 + round(10 * opening_px), 10, 10))
    image[0, 0] = round(10 * opening_px), round(shift[0]) % 256, round(shift[1]) % 256
    image.setflags(write=False)
    return image


@cache
def unit(opening_px: float, time_s: float = 0.0, shift: tuple[float, float] = (0, 0)) -> Unit:
    """The mouth of `speaking` as a unit."""
    image, points = speaking(opening_px, shift), mouth(opening_px, shift)
    place = alignment_from(fit_similarity(points))
    look = look_of(likeness_of(align(image, place)))
    return unit_of(image, place, points, look, time_s)


@cache
def enrolled() -> EnrolledBank:
    """Mouths of `TALK` as a file would have them."""
    bank, reach = MouthBank(STATS), ArticulationScale(5.0)
    for index, opening in enumerate(TALK):
        bank.usual.update(unit(opening).codes)
        bank.add(unit(opening, index / 25))
        reach.see_opening(opening, index / 25)
    consent = Consent("Eileen", "My calls may begin with these mouths.", "2026-11-29", "0.2.0")
    return enrolled_bank(bank, reach, STATS, consent)


def in_crop(points: F32) -> F32:
    """f32[468, 2] of the frame in pixels of its 128 px crop."""
    return transform(points, alignment_from(fit_similarity(points, CROP_SIZE), CROP_SIZE).matrix)


class MouthTracker(FakeTracker):
    """Implements `lipwire.engine.face.tracker.FaceTracker` for pictures of `speaking`."""

    def track(self, image: U8) -> Face | None:
        """The face, its mouth as open as the first pixel says."""
        super().track(image)
        opening, dx, dy = (float(v) for v in image[0, 0])
        return Face(mouth(opening / 10, (dx, dy)), 1.0, told=True)

    def detect(self, image: U8) -> F32:
        """Its own face and no other, f32[1, 4]."""
        points = mouth(0.0)
        return np.concatenate([points.min(0), points.max(0)])[None]


class Listener:
    """Asks for a wide mouth where the sound is loud, for a shut one where it is not."""

    def __init__(self) -> None:
        self.ahead: list[int] = []
        self.error: Exception | None = None

    def __call__(self, mels: Sequence[F32], scale: F32 | None) -> F32:
        """f32[N, 7]; see `lipwire.engine.session.conditioning.Listen`."""
        if self.error is not None:
            raise self.error
        self.ahead.append(len(mels) - 1)
        codes = np.zeros((len(mels), 7), np.float32)
        codes[:, :2] = [[1.0 if mel.mean() > -3 else -1.0] for mel in mels]
        return codes


def frame(index: int, opening: float) -> VideoFrame:
    """One of 25 a second."""
    return VideoFrame(speaking(opening), index, Fraction(1, 25))


def make(listener: Listener | None = None, config: EngineConfig = SPEAKING) -> Session:
    """A session whose model and tracker know this person's mouth."""
    return Session("own", MouthTracker, config, spec=SPEC, articulation=listener or Listener())


def play(session: Session, openings: Sequence[float], first: int = 0) -> list[OutputFrame]:
    """A healthy call at 25 fps whose person's mouth is as open as told."""
    return show(session, [speaking(opening) for opening in openings], first)


def show(session: Session, images: Sequence[U8], first: int = 0) -> list[OutputFrame]:
    """A healthy call at 25 fps with these pictures."""
    out = []
    for index, image in enumerate(images, first):
        now = index / 25
        session.push_video(VideoFrame(image, index, Fraction(1, 25)), now)
        if (job := session.jobs.begin(now)) is not None:
            session.jobs.complete(job, FakeBackend().generate([job])[0], now)
        while (made := session.pop_video(now + 0.039)) is not None:
            out.append(made)
    return out
