"""A tracker, a model and a voice that need no files and no time, for tests of what uses them.

    engine = Engine(FakeBackend(), FakeTracker)                 # every frame shows a face
    backend = FakeBackend(colour=(255, 0, 0), delay_s=0.2)      # slow and red
    backend.error = RuntimeError("boom")                        # from now on it fails
    tracker = ScriptedTracker({3, 4})                           # frames 3 and 4 show none
    session.push_speech(voiced(2.0, 24_000), 24_000, now)       # two seconds of vowels

`FakeTracker` wears the mesh that MediaPipe found on the portrait of Eileen Collins (NASA, public
domain; `skimage.data.astronaut`), turned upright and scaled so that ear to ear is 1.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np

from lipwire.engine.errors import BackendError
from lipwire.engine.face.active_speaker import LOWER_LIP, UPPER_LIP
from lipwire.engine.face.alignment import CROP_SIZE, alignment_from, fit_similarity
from lipwire.engine.model.bundle import Manifest, check_steps
from lipwire.engine.types import F32, F64, I16, U8, Alignment, Face, LipJob, VideoFrame

MESH = Path(__file__).parent / "data" / "face_mesh.npy"
FLAT_COLOUR = (200, 30, 30)
LEAST_PX = 68.0  # ear to ear; smaller faces are passed through


@dataclass
class Packet:
    """What a jitter buffer reads of an RTP packet."""

    sequence_number: int
    timestamp: int
    marker: int
    payload: bytes
    payload_type: int = 97
    data: bytes = b""
    """its payload as a decoder takes it"""


@cache
def _unit_mesh() -> F32:
    mesh: F32 = np.load(MESH)
    return mesh


def face_mesh(centre: tuple[float, float], width_px: float) -> F32:
    """A frontal face, f32[468, 2] pixels, `width_px` from ear to ear around `centre` (x, y)."""
    return np.asarray(_unit_mesh() * width_px + np.array(centre), np.float32)


def aligned(
    centre: tuple[float, float] = (160, 120),
    width_px: float = 90,
    roll: float = 0.0,
    size: int = CROP_SIZE,
) -> tuple[F32, Alignment]:
    """A face in the frame, turned by `roll` radians, and its alignment."""
    cos, sin = np.cos(roll), np.sin(roll)
    turned = face_mesh((0, 0), width_px) @ np.array([[cos, sin], [-sin, cos]]) + centre
    landmarks = np.asarray(turned, np.float32)
    return landmarks, alignment_from(fit_similarity(landmarks, size), size)


def make_manifest(**changes: object) -> Manifest:
    """The manifest of no bundle in particular."""
    values: dict[str, object] = {
        "name": "fake",
        "version": "1",
        "kind": "lite",
        "licence": "Apache-2.0",
        "files": {},
        "prediction": "v",
        "spacing": "trailing",
        "steps_offered": (1, 2, 4, 8),
        "default_steps": 2,
        "crop_size": 128,
        "lookahead_s": 0.1725,
    }
    return Manifest(**{**values, **changes})  # type: ignore[arg-type]


def picture(height: int = 240, width: int = 320, seed: int = 0, scene: int = 0) -> U8:
    """A picture with soft structure everywhere, uint8[H, W, 3]; equal seeds give equal pictures.

    Seeds are moments of one scene; another scene is a cut.
    """
    rows, cols = np.mgrid[0:height, 0:width] / 40.0

    def waves(seed: int, speed: float) -> F64:
        phases = np.random.default_rng(seed).uniform(0, 6.28, 3)
        waves = [
            np.sin(speed * rows + p) + np.cos(speed * cols * (1 + i / 3) - p)
            for i, p in enumerate(phases)
        ]
        return np.dstack(waves)

    return np.asarray(128 + 36 * waves(1000 + scene, 1.0) + 4 * waves(seed, 3.0), np.uint8)


def video_frame(index: int, fps: int = 25, image: U8 | None = None) -> VideoFrame:
    """Frame `index` of a clip at `fps`, each picture different from the others."""
    return VideoFrame(picture(seed=index) if image is None else image, index, Fraction(1, fps))


@cache
def voiced(seconds: float, rate_hz: int = 16_000, seed: int = 0) -> I16:
    """Vowel-like sound that a voice detector takes for speech, int16[N]; it never pauses.

    Harmonics of a wavering 120 Hz tone under three wandering formants, in syllables of 0.2 s.
    """
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    syllable = np.sin(2 * np.pi * 2.5 * time_s + rng.uniform(0, 6.28))
    phase = 2 * np.pi * (120 * time_s + 3 * np.sin(2 * np.pi * 0.7 * time_s))
    formants_hz = [550 + 200 * syllable, 1500 - 400 * syllable, 2500 + 100 * syllable]
    total = np.zeros(len(time_s))
    for k in range(1, min(28, int(0.45 * rate_hz / 125)) + 1):
        shape = sum(1 / (1 + ((k * 120 - hz) / 120) ** 2) for hz in formants_hz)
        total += shape * np.sin(k * phase + rng.uniform(0, 6.28))
    total *= 0.65 + 0.35 * np.cos(2 * np.pi * 5 * time_s)
    return np.asarray(12_000 / max(np.abs(total).max(initial=0), 1e-9) * total, np.int16)


class FakeTracker:
    """Implements `lipwire.engine.face.tracker.FaceTracker`: the same upright face in every picture.

    Args:
        centre: of the face as a share of the picture's width and height.
        width: ear to ear as a share of the picture's smaller side; None: 0.4, but large enough
            to be repainted in any picture.
        delay_s: how long each call takes.
    """

    def __init__(
        self,
        centre: tuple[float, float] = (0.5, 0.5),
        width: float | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.centre, self.width, self.delay_s = centre, width, delay_s
        self.error: Exception | None = None
        """raised by `track` while set"""
        self.calls = 0
        self.closed = False

    def track(self, image: U8) -> Face | None:
        """The face, whatever the picture shows."""
        assert not self.closed, "track was called on a closed tracker"
        self.calls += 1
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        height, width = image.shape[:2]
        centre = (self.centre[0] * width, self.centre[1] * height)
        return Face(face_mesh(centre, self._width_px(image)), 1.0, told=True)

    def _width_px(self, image: U8) -> float:
        side_px = min(image.shape[:2])
        return max(0.4 * side_px, LEAST_PX) if self.width is None else self.width * side_px

    def detect(self, image: U8) -> F32:
        """Its own face and no other, f32[1, 4]."""
        height, width = image.shape[:2]
        centre = (self.centre[0] * width, self.centre[1] * height)
        points = face_mesh(centre, self._width_px(image))
        return np.concatenate([points.min(0), points.max(0)])[None]

    def aim(self, box: F32) -> None:
        """There is no other face."""

    def glimpse(self, image: U8, boxes: F32) -> list[Face | None]:
        """Nobody."""
        return [None] * len(boxes)

    def close(self) -> None:
        """From now on `track` must not be called."""
        self.closed = True


class ScriptedTracker(FakeTracker):
    """A `FakeTracker` that loses the face in chosen calls.

    Args:
        missing: numbers of the calls (from 0) that return None.
        failing: numbers of the calls that raise.
        width: as for `FakeTracker`.
    """

    def __init__(
        self, missing: Container[int] = (), failing: Container[int] = (), width: float | None = None
    ) -> None:
        super().__init__(width=width)
        self._missing, self._failing = missing, failing

    def track(self, image: U8) -> Face | None:
        """The face, None or an exception, as scripted."""
        call = self.calls
        face = super().track(image)
        if call in self._failing:
            raise RuntimeError(f"scripted fault of call {call}")
        return None if call in self._missing else face


class TalkingTracker(FakeTracker):
    """A `FakeTracker` whose mouth is open by `opening`, as a share of the face's width."""

    opening = 0.0

    def track(self, image: U8) -> Face | None:
        """The face, its lower lip so far below the upper one."""
        face = super().track(image)
        assert face is not None
        width_px = self._width_px(image)
        face.landmarks[LOWER_LIP] = face.landmarks[UPPER_LIP] + (0, self.opening * width_px)
        return face


class SceneTracker(FakeTracker):
    """A `FakeTracker` before several people, who come and go.

    Args:
        **people: centre (x, y) and width of each, pixels.
    """

    def __init__(self, **people: tuple[tuple[float, float], float]) -> None:
        super().__init__()
        self.people = dict(people)
        """may be changed between pictures"""
        self.hidden: set[str] = set()
        self.openings: dict[str, float] = {}
        """of lips, as shares of a face's width"""
        self.followed: str | None = None
        self.detections = 0

    def _face(self, name: str) -> Face:
        centre, width_px = self.people[name]
        points = face_mesh(centre, width_px)
        points[LOWER_LIP] = points[UPPER_LIP] + (0, self.openings.get(name, 0.0) * width_px)
        return Face(points, 1.0, told=True)

    def _box(self, name: str) -> F32:
        points = self._face(name).landmarks
        return np.concatenate([points.min(0), points.max(0)])

    def _nearest(self, box: F32) -> str | None:
        """Who is in f32[4]."""
        middle, size_px = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
        far = {name: float(np.hypot(*(middle - centre))) for name, (centre, _) in self.seen.items()}
        near = min(far, key=lambda name: far[name], default=None)
        return near if near is not None and far[near] < size_px else None

    @property
    def seen(self) -> dict[str, tuple[tuple[float, float], float]]:
        """Who is in sight."""
        return {name: who for name, who in self.people.items() if name not in self.hidden}

    def track(self, image: U8) -> Face | None:
        """Whom it was aimed at, while in sight."""
        self.calls += 1
        if self.followed not in self.seen:
            self.followed = None
        return None if self.followed is None else self._face(self.followed)

    def detect(self, image: U8) -> F32:
        """All who are in sight, f32[N, 4]."""
        self.detections += 1
        return np.array([self._box(name) for name in self.seen], np.float32).reshape(-1, 4)

    def aim(self, box: F32) -> None:
        """Follow who is in f32[4]."""
        self.followed = self._nearest(box)

    def glimpse(self, image: U8, boxes: F32) -> list[Face | None]:
        """Who is in f32[N, 4]."""
        names = [self._nearest(box) for box in boxes]
        return [None if name is None else self._face(name) for name in names]


class FakeBackend:
    """Implements `lipwire.engine.backends.Backend`: paints the lower half of each crop in one
    colour.

    Args:
        colour: RGB of the painted half; a function of the job where it must differ, e.g.
            `lambda job: (job.index, 0, 0)`.
        delay_s: how long each call takes.
        batch_sizes: as offered to the engine.
        **manifest: fields of the manifest that differ from `make_manifest`.
    """

    def __init__(
        self,
        colour: tuple[int, int, int] | Callable[[LipJob], tuple[int, int, int]] = FLAT_COLOUR,
        delay_s: float = 0.0,
        batch_sizes: tuple[int, ...] = (1, 2, 4),
        **manifest: object,
    ) -> None:
        self.manifest = make_manifest(**manifest)
        self.batch_sizes = batch_sizes
        self.description = "fake: one flat colour"
        self.colour, self.delay_s = colour, delay_s
        self.error: Exception | None = None
        """raised by `generate` while set"""
        self.batches: list[tuple[LipJob, ...]] = []
        """what was asked for, in order"""
        self.threads: set[str] = set()
        """names of the threads that called `generate`"""
        self.closed = False

    @property
    def jobs(self) -> list[LipJob]:
        """Every job of every batch, in order."""
        return [job for batch in self.batches for job in batch]

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        """Each job's crop with its lower half painted; see `Backend.generate`."""
        assert not self.closed, "generate was called on a closed backend"
        self.threads.add(threading.current_thread().name)
        self.batches.append(tuple(jobs))
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        if len({job.steps for job in jobs}) > 1:
            raise BackendError("all jobs of a batch must take the same number of steps")
        return [self._paint(job) for job in jobs]

    def _paint(self, job: LipJob) -> U8:
        check_steps(self.manifest, job.steps)
        painted = job.crop.copy()
        painted[len(painted) // 2 :] = self.colour(job) if callable(self.colour) else self.colour
        return painted

    def close(self) -> None:
        """From now on `generate` must not be called."""
        self.closed = True
