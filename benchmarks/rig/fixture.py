"""A face, a voice and the live path in virtual time: what benchmarks of the picture look at."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from unittest import mock

import numpy as np

from lipwire.benchmarks.rig import scenes
from lipwire.benchmarks.rig.voices import sample_voice
from lipwire.engine import EngineConfig, OutputFrame, Session, VideoFrame
from lipwire.engine.backends import Backend
from lipwire.engine.face.tracker import FaceTracker
from lipwire.engine.media.files import read_frames
from lipwire.engine.media.sound import stream_speech
from lipwire.engine.session import jobs
from lipwire.engine.session.aligned import Aligned, composite
from lipwire.engine.types import F32, I16, PLAYOUT_RATE_HZ, U8, Patch

FPS = 25
MOUTH = (13, 14)  # the lips' inner edges
LIPS = (61, 291, 0, 17, 13, 14, 37, 267, 84, 314)


@dataclass(frozen=True, slots=True)
class Painted:
    """A mouth as it was put into its frame."""

    aligned: Aligned
    generated: U8
    patch: Patch


@dataclass(frozen=True, slots=True)
class Take:
    """What went in and what came out."""

    images: list[U8]
    shown: list[OutputFrame]  # in order; dropped frames are missing
    painted: list[Painted]

    def pairs(self) -> Iterator[tuple[U8, OutputFrame]]:
        """Each frame that came out beside what it was."""
        return ((self.images[out.index], out) for out in self.shown)


def portrait(frames: int, *, sway_px: float = 0.0, grain: float = 2.0, seed: int = 0) -> list[U8]:
    """A public-domain portrait, uint8[480, 640, 3], with a camera's grain, swaying sideways."""
    import cv2

    rng, source = np.random.default_rng(seed), scenes.portrait()
    images = []
    for index in range(frames):
        place = np.array([[1.5, 0, -20 + sway_x(index, sway_px)], [0, 1.5, 0]])
        image = cv2.warpAffine(source, place, (640, 480), borderMode=cv2.BORDER_REFLECT)
        noisy = image + rng.normal(0, grain, image.shape)
        images.append(np.asarray(np.clip(np.rint(noisy), 0, 255), np.uint8))
    return images


def sway_x(index: float, sway_px: float) -> float:
    """Where the swaying portrait is, pixels to the right of the middle."""
    return sway_px * float(np.sin(2 * np.pi * 0.7 * index / FPS))


def clip(path: Path, frames: int) -> list[U8]:
    """The first pictures of a clip."""
    return [frame.image for frame in itertools.islice(read_frames(path), frames)]


def voice(seconds: float, path: Path | None = None) -> I16:
    """The beginning of a voice at 48 kHz, int16[N]; without a path, of the one that ships."""
    wanted, pieces = round(seconds * PLAYOUT_RATE_HZ), []
    for piece in stream_speech(path or sample_voice(), PLAYOUT_RATE_HZ, lambda line: None):
        pieces.append(piece)
        if sum(map(len, pieces)) >= wanted:
            break
    return np.concatenate(pieces)[:wanted]


@contextmanager
def watched() -> Iterator[list[Painted]]:
    """Notes every mouth that any session paints meanwhile."""
    seen: list[Painted] = []

    def paint(aligned: Aligned, generated: U8, strength: float) -> Patch:
        patch = composite(aligned, generated, strength)
        seen.append(Painted(aligned, generated, patch))
        return patch

    with mock.patch.object(jobs, "composite", paint):
        yield seen


def play(
    backend: Backend,
    make_tracker: Callable[[], FaceTracker],
    images: Sequence[U8],
    speech: I16,
    config: EngineConfig,
    *,
    fps: int = FPS,
    interrupt_s: float | None = None,
) -> Take:
    """Send pictures and a voice through a session in virtual time, on a machine fast enough.

    Args:
        backend: the model.
        make_tracker: as for `Session`.
        images: at `fps`.
        speech: int16[N] at 48 kHz, all of it there from the start.
        config: of the session.
        fps: of the pictures.
        interrupt_s: when the voice is interrupted.
    """
    manifest = backend.manifest
    session = Session(
        "bench", make_tracker, config, steps=manifest.default_steps, spec=manifest.job_spec
    )
    shown: list[OutputFrame] = []
    # Every picture comes at its time, and what else happens lies between them.
    events = sorted(
        [(index / fps, index) for index in range(len(images))]
        + ([] if interrupt_s is None else [(interrupt_s, INTERRUPT)])
    )
    with watched() as painted:
        if len(speech):
            session.push_speech(speech, PLAYOUT_RATE_HZ, 0.0)
            session.flush_speech()
        for now, index in [*events, (len(images) / fps + config.delay_s + 1, END)]:
            while (out := _pop(session, now)) is not None:
                shown.append(out)
            if index == INTERRUPT:
                session.interrupt_speech(now)
            elif index != END:
                frame = VideoFrame(images[index], index, Fraction(1, fps))
                session.push_video(frame, now)
                job = session.jobs.begin(now)
                if job is not None:
                    session.jobs.complete(job, backend.generate([job])[0], now)
        session.close()
    return Take(list(images), shown, painted)


INTERRUPT, END = -1, 1 << 30


def _pop(session: Session, now: float) -> OutputFrame | None:
    """The next picture that is due by `now`, at its own time; and the sound until then."""
    while session.pop_audio(now) is not None:
        pass
    due_s = session.next_due()
    return None if due_s is None or due_s > now else session.pop_video(max(due_s, 0.0))


def opening_px(landmarks: F32) -> float:
    """How far apart the lips are."""
    upper, lower = landmarks[list(MOUTH)]
    return float(np.hypot(*(lower - upper)))
