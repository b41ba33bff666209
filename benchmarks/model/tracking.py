"""`run`: is the face followed without shaking, without lagging, and let go when it must be?

Everything is made from the portrait that scikit-image carries, so that what is found can be held
against what is true; with clips given, covers are also laid over the people in them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lipwire.benchmarks.rig.scenes import Pose, cover, scene, talking
from lipwire.engine.config import EngineConfig
from lipwire.engine.face.alignment import alignment_from, fit_similarity, transform
from lipwire.engine.face.tracker import TrackerPool
from lipwire.engine.media.files import read_frames
from lipwire.engine.session.aligned import Aligned
from lipwire.engine.session.face_pipeline import FacePipeline
from lipwire.engine.session.session import Session
from lipwire.engine.types import F64, U8, Alignment, Face, JobSpec, Outcome, VideoFrame

FPS = 25
SETTLE = 10  # frames before anything is measured
MOUTH = (64.0, 88.0)  # in a 128 px crop
SPEC = JobSpec(references=2)


def run(seconds: float = 4.0, clips: Sequence[Path] = ()) -> dict[str, Any]:
    frames = round(seconds * FPS)
    pool = TrackerPool()
    with closing(pool):
        found = {
            **_still(pool, frames),
            **_moving(pool, frames),
            **_hidden(pool, max(frames, 12 * FPS)),
            **_covered(pool, lambda: talking(frames), "made"),
        }
        if clips:
            found |= _sum([_covered(pool, partial(_film, c, frames), "clips") for c in clips])
    return found


# --- the crop against the truth ---


def _place(alignment: Alignment) -> F64:
    """Where in the frame the crop's mouth lies, f64[2]."""
    import cv2

    inverse = np.asarray(cv2.invertAffineTransform(alignment.matrix), np.float32)
    return transform(np.array([MOUTH]), inverse)[0].astype(np.float64)


def _follow(pool: TrackerPool, pictures: Iterator[U8]) -> tuple[F64, F64]:
    """Place of the mouth in the crop as smoothed and as the landmarks alone have it, f64[N, 2]."""
    smooth, raw = [], []
    pipeline = FacePipeline(pool(), EngineConfig(), SPEC)
    with closing(pipeline):
        for index, image in enumerate(pictures):
            found = pipeline.find(image, index / FPS)
            if isinstance(found, Aligned):
                smooth.append(_place(found.alignment))
                raw.append(_place(alignment_from(fit_similarity(found.face.landmarks))))
    return np.array(smooth), np.array(raw)


def _shake(places: F64) -> float:
    """Root mean square of what a place does from frame to frame, pixels."""
    return float(np.sqrt((np.diff(places[SETTLE:], axis=0) ** 2).sum(1).mean()))


def _still(pool: TrackerPool, frames: int) -> dict[str, Any]:
    ratios = []
    for width_px, noise in itertools.product((80.0, 150.0, 260.0), (2.0, 6.0)):
        pictures = (
            scene(Pose(width_px=width_px), noise=noise, seed=index) for index in range(frames)
        )
        smooth, raw = _follow(pool, pictures)
        ratios.append(_shake(smooth) / _shake(raw))
    return {"jitter_ratio_worst": round(max(ratios), 3)}


def lag_frames(found: F64, true: F64) -> float:
    """By how many frames f64[N] is behind the truth: least squares along the true speed."""
    speed, error = np.gradient(true), found - true
    speed, error = speed - speed.mean(), error - error.mean()
    return float(-(error * speed).sum() / (speed**2).sum())


def _moving(pool: TrackerPool, frames: int) -> dict[str, Any]:
    time_s = np.arange(frames) / FPS
    lags = {}
    for name, hz, share in (("slow", 0.25, 0.35), ("walk", 0.5, 0.6), ("quick", 0.9, 0.4)):
        x = 320 + share * 150 * np.sin(2 * np.pi * hz * time_s)
        smooth, _ = _follow(
            pool, (scene(Pose(x=at, width_px=150.0), seed=i) for i, at in enumerate(x))
        )
        missed = frames - len(smooth)
        assert missed == 0, f"{missed} frames of a {name} head without a face"
        lags[name] = round(lag_frames(smooth[SETTLE:, 0], x[SETTLE:]), 2)
    roll_deg = 15 * np.sin(2 * np.pi * 0.5 * time_s)
    turned = [Pose(width_px=150.0, roll_deg=roll) for roll in roll_deg]
    smooth_roll = _rolls(pool, (scene(pose, seed=i) for i, pose in enumerate(turned)))
    lags["roll"] = round(lag_frames(smooth_roll[SETTLE:], roll_deg[SETTLE:]), 2)
    return {"crop_lag_frames": lags, "crop_lag_frames_worst": max(lags.values())}


def _rolls(pool: TrackerPool, pictures: Iterator[U8]) -> F64:
    """Roll of the crop in degrees, clockwise, f64[N]."""
    rolls = []
    with closing(FacePipeline(pool(), EngineConfig(), SPEC)) as pipeline:
        for index, image in enumerate(pictures):
            found = pipeline.find(image, index / FPS)
            assert isinstance(found, Aligned)
            rolls.append(-np.degrees(np.arctan2(*found.alignment.matrix[[1, 0], 0])))
    return np.array(rolls)


# --- coming and going ---


def _hidden(pool: TrackerPool, frames: int) -> dict[str, Any]:
    """A face that is gone for one second of five, through a whole session in virtual time."""
    config = EngineConfig(silence="generate")
    session = Session("hidden", pool, config, spec=SPEC)
    gone = [index % (5 * FPS) >= 4 * FPS for index in range(frames)]
    outcomes: list[Outcome] = []
    for index in range(frames):
        now = index / FPS
        image = scene([] if gone[index] else Pose(), seed=index)
        session.push_video(VideoFrame(image, index, Fraction(1, FPS)), now)
        job = session.jobs.begin(now)
        if job is not None:
            session.jobs.complete(job, job.crop, now)
        while (out := session.pop_video(now + config.delay_s)) is not None:
            outcomes.append(out.outcome)
    session.close()
    shown = [outcome is Outcome.GENERATED for outcome in outcomes]
    off, on = [], []
    for index in range(1, len(shown)):
        if gone[index] and not gone[index - 1]:
            still = (i for i in range(len(shown) - index) if not shown[index + i])
            off.append(next(still, len(shown)) + 1)
        if gone[index - 1] and not gone[index]:
            back = (i for i in range(len(shown) - index) if shown[index + i])
            on.append(next(back, len(shown)) + 1)
    return {
        "frames_to_pass_through": max(off),
        "frames_to_return": max(on),
        "frames_lost": frames - len(outcomes),
        "frames_painted_without_a_face": sum(g and s for g, s in zip(gone, shown, strict=False)),
    }


# --- covers ---


def _film(path: Path, frames: int) -> Iterator[U8]:
    return (frame.image for frame in itertools.islice(read_frames(path), frames))


def _covered(pool: TrackerPool, film: Callable[[], Iterator[U8]], kind: str) -> dict[str, Any]:
    """Bare and covered looks at the same film, and how many were said to be covered."""
    pictures = list(film())
    bare, faces = _says(pool, pictures)
    counts: dict[str, Any] = {
        f"{kind}_bare_frames": len(bare),
        f"{kind}_false_alarms": sum(said is Outcome.OCCLUDED for said in bare),
    }
    onset, rise = len(pictures) // 2, 5
    for what in ("hand", "microphone"):
        shown = [
            image
            if face is None or i < onset
            else cover(image, face.landmarks, what, min((i - onset) / rise, 1.0))
            for i, (image, face) in enumerate(zip(pictures, faces, strict=True))
        ]
        said, _ = _says(pool, shown)
        there = [s for s, f in zip(said[onset + rise :], faces[onset + rise :], strict=True) if f]
        counts[f"{kind}_{what}_frames"] = len(there)
        counts[f"{kind}_{what}_passed_through"] = sum(s is not Outcome.GENERATED for s in there)
    return counts


def _says(pool: TrackerPool, pictures: list[U8]) -> tuple[list[Outcome], list[Face | None]]:
    said: list[Outcome] = []
    faces: list[Face | None] = []
    with closing(FacePipeline(pool(), EngineConfig(), SPEC)) as pipeline:
        for index, image in enumerate(pictures):
            found = pipeline.find(image, index / FPS)
            said.append(found if isinstance(found, Outcome) else Outcome.GENERATED)
            faces.append(None if isinstance(found, Outcome) else found.face)
    return said, faces


def _sum(counts: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: sum(count[key] for count in counts) for key in counts[0]}
