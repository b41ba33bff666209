"""The nouns that cross module borders. Times are seconds on the session's own clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from lipwire.engine.trace import Trace

U8 = npt.NDArray[np.uint8]
I16 = npt.NDArray[np.int16]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

SPEECH_RATE_HZ = 16_000  # what the model hears
PLAYOUT_RATE_HZ = 48_000  # what people hear: Opus's own rate, so nothing is lost on the way


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Mono sound at a known place in time."""

    samples: I16
    """int16[N]"""
    start: int
    """absolute index of the first sample: `start / rate_hz` seconds on the session's clock"""
    rate_hz: int = SPEECH_RATE_HZ


@dataclass(frozen=True, slots=True)
class Planes:
    """A picture as codecs have it: 4:2:0, limited range. Not to be written to; odd sides may be."""

    y: U8
    """uint8[H, W]"""
    u: U8
    """uint8[ceil(H / 2), ceil(W / 2)]"""
    v: U8
    """uint8[ceil(H / 2), ceil(W / 2)]"""
    matrix: int
    """how RGB became these, a code point of ITU-T H.273 (`lipwire.engine.media.colour`)"""


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One decoded picture."""

    image: U8
    """uint8[H, W, 3] RGB"""
    pts: int
    """presentation time in units of `time_base`"""
    time_base: Fraction
    planes: Planes | None = None
    """the same picture as it was decoded; what is not repainted leaves in it, bit for bit"""
    trace: Trace | None = None
    """notes where it is when"""

    @property
    def time_s(self) -> float:
        """Presentation time in seconds."""
        return float(self.pts * self.time_base)


@dataclass(frozen=True, slots=True)
class Face:
    """One tracked face."""

    landmarks: F32
    """f32[468, 2], pixels of the frame, MediaPipe's face-mesh order"""
    confidence: float
    """0 to 1"""
    told: bool = False
    """where it is was said, not seen: nobody looks whether the picture has a mouth there"""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where the model's square crop lies in the frame."""

    matrix: F32
    """f32[2, 3], frame pixels -> crop pixels"""
    size: int
    """side of the crop, pixels"""


class Outcome(StrEnum):
    """What became of an input frame. All but the first three show the original picture."""

    GENERATED = "generated"
    PASTED = (
        "pasted"  # the person's own mouth from another moment was put in (`lipwire.engine.units`)
    )
    HELD = "held"  # under overload: repainted with the mouth that was generated for the one before
    NO_FACE = "no_face"
    FACE_UNUSABLE = "face_unusable"  # too small, or turned too far away
    OCCLUDED = "occluded"  # a hand or a microphone is before the mouth
    SILENT = "silent"  # the new voice does not speak
    LATE = "late"  # not ready when it had to go out
    OVERLOADED = "overloaded"  # no time to paint it: replaced by a newer one, or left out at once
    FAULT = "fault"  # the tracker, the model or a worker failed
    UNSUITABLE = "unsuitable"  # the picture is too small or too large to work on


class FaceState(StrEnum):
    """What is known of the face that a session repaints."""

    SEARCHING = "searching"  # nobody is followed
    TRACKED = "tracked"
    LOST = "lost"  # it was there a moment ago, and is waited for


@dataclass(frozen=True, slots=True)
class Sighting:
    """The face that a session repaints, for people."""

    state: FaceState = FaceState.SEARCHING
    faces: int = 0
    """in the picture, as of the last look around"""
    index: int | None = None
    """which of them, from the left; None: none"""
    box: tuple[float, float, float, float] | None = None
    """(x0, y0, x1, y1) as shares of the picture"""
    reason: Outcome | None = None
    """why it is not repainted; None: nothing hinders"""
    policy: str = "largest"
    """how a face is chosen when none is followed"""


@dataclass(frozen=True, slots=True)
class CodeStats:
    """Mean and spread of the articulation codes over people, by which a model tells them."""

    mean: tuple[float, ...]
    """pixels of a 128 px crop, see `lipwire.engine.face.articulation`"""
    spread: tuple[float, ...]
    expression: float = 1.4
    """how many times as far from the mean as the model says own mouths are asked to go"""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a model asks of every job; its manifest says it."""

    crop_size: int = 128
    """side of the crop and of the references, pixels"""
    framing: str = "stabilised"
    """how the crop is cut out: rotation-stabilised, or the axis-aligned box of the paper"""
    references: int = 1
    """pictures of the person; a single one is the frame itself (the paper's cross setting)"""
    mel_columns: int = 16
    """columns of log-mel; what they have beyond the paper's 16 is more past"""
    reach_px: float = 0.0
    """how far a typical speaker's mouth opening ranges, pixels of a 128 px crop: the model wants to
    be told the person's own reach (`lipwire.engine.face.articulation_scale`); 0: it takes none"""
    codes: CodeStats | None = None
    """what its codes mean; None: nothing is known, and no units can be chosen by them"""
    reference_codes: bool = False
    """whether it is told the codes that the references show, and may begin at a unit"""


@dataclass(frozen=True, slots=True)
class LipJob:
    """All that a worker needs to paint one mouth; any worker can take it."""

    session: str
    index: int
    """the frame's number in its session"""
    crop: U8
    """uint8[S, S, 3], the frame to repaint, aligned"""
    references: U8
    """uint8[R, S, S, 3], what this person looks like; R as the bundle's manifest says"""
    mel: F32
    """f32[80, C], log-mel in ±4 up to the model's look-ahead past the moment the frame is shown; C
    as the bundle's manifest says"""
    seed: int
    """of the one noise image that serves every frame of a session"""
    steps: int
    """DDIM steps to spend"""
    deadline_s: float
    """when the result is of no more use"""
    reach: F32 | None = None
    """f32[codes], how many times as far as a typical speaker's this person's mouth goes; None:
    nothing is known, or the model takes none"""
    reference_codes: F32 | None = None
    """f32[R, codes], what the references show, in spreads; None: as the usual mouth, or the model
    takes none"""
    start: U8 | None = None
    """uint8[S/2, S, 3], the hidden half that denoising begins at; None: at noise"""
    trace: Trace | None = None
    """the frame's"""


@dataclass(frozen=True, slots=True)
class Patch:
    """What a painted mouth changes in a frame."""

    x: int
    y: int
    """of its upper left pixel; both even, so that chroma lies under whole blocks"""
    change: F32
    """f32[h, w, 3] RGB, to be added; 0 where nothing changes"""
    weight: F32 | None = None
    """f32[h, w], 0 to 1: where the face lies that the mouth is part of, if it may be held over the
    next frames; None: it may not"""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1), pixels of the frame; the last two lie just outside."""
        height, width = self.change.shape[:2]
        return self.x, self.y, self.x + width, self.y + height

    def times(self, strength: float) -> Patch:
        """The same mouth, shown only so far."""
        return replace(self, change=self.change * np.float32(strength))


@dataclass(frozen=True, slots=True)
class OutputFrame:
    """One picture that leaves a session."""

    index: int
    image: U8
    """uint8[H, W, 3] RGB; outside the mouth bit-identical to the input"""
    pts: int
    time_base: Fraction
    playout_s: float
    """when it is to be shown, on the session's clock"""
    outcome: Outcome
    latency_s: float
    """from push_video to being ready"""
    planes: Planes | None = None
    """the same picture in the planes that came in; outside `box` bit-identical to them"""
    box: tuple[int, int, int, int] | None = None
    """(x0, y0, x1, y1) of what was repainted; None: nothing"""
    trace: Trace | None = None
    """the frame's"""


class Enrolled(StrEnum):
    """What became of a bank that a session was given (`lipwire.engine.units.enrolled`)."""

    NONE = "none"  # none was given
    WAITING = "waiting"  # until a face looks into the camera
    USED = "used"
    REFUSED = "refused"  # the face is another person's


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is kept of the person's own mouths (`lipwire.engine.units`), for people."""

    units: int = 0
    capacity: int = 0
    mib: float = 0.0
    ready: bool = False
    """whether mouths are chosen among them"""
    openings: tuple[int, ...] = (0,) * 8
    """units by opening, from shut to wide, in steps of 2 px of a 128 px crop"""
    enrolled: Enrolled = Enrolled.NONE


@dataclass(frozen=True, slots=True)
class SessionStats:
    """A snapshot for people and dashboards."""

    frames_in: int = 0
    frames_out: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=dict)
    fps: float = 0.0
    """frames that left during the last second or so"""
    delay_p50_s: float = 0.0
    delay_p95_s: float = 0.0
    """added picture delay: pushed -> popped, recent frames"""
    speech_backlog_s: float = 0.0
    """voice that waits to be played"""
    speech_drift_ppm: float = 0.0
    """how much faster than ours the clock of a voice that comes evenly is; it is made good"""
    original_drift_ppm: float = 0.0
    """the same of the original voice"""
    speaking: bool = False
    steps: int = 0
    """of the frames that are painted now"""
    rung: str = "full"
    """of the overload ladder (`lipwire.engine.overload.levels.RUNGS`)"""
    rung_reason: str = ""
    """why it is there; empty if it never was elsewhere"""
    rung_changes: dict[tuple[str, str], int] = field(default_factory=dict)
    """how often it went from one rung to another"""
    face: Sighting = Sighting()
    bank: Coverage = Coverage()

    @property
    def generated(self) -> int:
        """Frames for which a mouth was generated."""
        return self.outcomes.get(Outcome.GENERATED, 0)

    @property
    def pasted(self) -> int:
        """Frames that show one of the person's own mouths from another moment."""
        return self.outcomes.get(Outcome.PASTED, 0)

    @property
    def held(self) -> int:
        """Frames with the mouth of the one before."""
        return self.outcomes.get(Outcome.HELD, 0)
