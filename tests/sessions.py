"""A session with a clock of one's own, for tests of the engine: a call in a few lines."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from fakes import FakeBackend, FakeTracker, picture

from lipwire.engine.config import EngineConfig
from lipwire.engine.session.session import Session
from lipwire.engine.types import U8, JobSpec, LipJob, OutputFrame, VideoFrame

# Generating all the time takes the voice out of tests that are not about it.
ALWAYS = EngineConfig(silence="generate", fade_s=0.0)
DELAY_S, PATIENCE_S = ALWAYS.delay_s, ALWAYS.slack_s + ALWAYS.patience_s
SLOW_S = ALWAYS.longest_delay_s  # the delay where a machine is slow
PICTURES = [picture(96, 128, seed) for seed in range(4)]


def frame(index: int, image: U8 | None = None) -> VideoFrame:
    return VideoFrame(PICTURES[index % 4] if image is None else image, index, Fraction(1, 25))


def make(
    config: EngineConfig = ALWAYS,
    tracker: Callable[[], FakeTracker] = FakeTracker,
    now: float = 0.0,
    spec: JobSpec | None = None,
) -> Session:
    return Session("test", tracker, config, now=now, spec=spec)


def paint(job: LipJob) -> U8:
    return FakeBackend().generate([job])[0]


def work(session: Session, now: float) -> bool:
    """Do all of the next frame's work at once; whether there was a job."""
    job = session.jobs.begin(now)
    if job is not None:
        session.jobs.complete(job, paint(job), now)
    return job is not None


def pop_all(session: Session, now: float) -> list[OutputFrame]:
    return list(iter(lambda: session.pop_video(now), None))


def run(session: Session, frames: int, start_s: float = 0.0, first: int = 0) -> list[OutputFrame]:
    """A healthy call at 25 fps."""
    out = []
    for index in range(first, first + frames):
        now = start_s + (index - first) / 25
        session.push_video(frame(index), now)
        work(session, now + 0.01)
        out += pop_all(session, now + 0.039)
    return out + pop_all(session, start_s + frames / 25 + session.config.delay_s)
