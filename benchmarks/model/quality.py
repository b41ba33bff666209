"""`lipwire bench quality`: what viewers see, in figures, each beside its target.

A portrait that is in the public domain is made to sway and given a camera's grain; where a corpus
is at hand, people speak as well. All goes through sessions in virtual time with the real tracker
and model, so that the figures do not depend on how fast the machine is.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lipwire.benchmarks.harness.record import describe_bundle, judged
from lipwire.benchmarks.model import tracking
from lipwire.benchmarks.rig.fixture import (
    FPS,
    LIPS,
    Painted,
    Take,
    clip,
    opening_px,
    play,
    portrait,
    voice,
)
from lipwire.engine import EngineConfig
from lipwire.engine.backends import Backend
from lipwire.engine.compositing.blend import SHARP_ROWS, SIDES
from lipwire.engine.compositing.harmonize import blurred
from lipwire.engine.errors import ConfigError
from lipwire.engine.face.alignment import CROP_SIZE, align, jaw_mask, lips_mask
from lipwire.engine.face.tracker import MeshTracker, TrackerPool
from lipwire.engine.media.planes import paint_image
from lipwire.engine.types import F32, PLAYOUT_RATE_HZ, U8, Outcome

SETTLE = 8  # pictures before anything counts: the mouth fades in
PEOPLE = 3  # of the corpus
# At which frame rates the voice is interrupted, and when: at pictures and between them.
MOMENTS = ((10, (0.93,)), (25, (0.90, 0.913, 0.931)), (30, (0.91,)), (60, (0.9,)))
TARGETS = {
    "changed_outside_mask": 0.0,
    "border_gradient_off": 0.10,
    "colour_off_levels": 3.0,
    "grain_off": 0.35,
    "sharpness_ratio": 0.6,
    "jitter_ratio": 1.2,
    "silence_movement_ratio": 0.2,
    "interrupted_mouth_ms": 100.0,
    "voice_end_to_original_s": 0.6,
    "shut_after_end_ratio": 1.25,
    "crop_lag_frames": 0.5,
    "frames_to_pass_through": 1.0,
    "frames_to_return": 5.0,
    "frames_lost": 0.0,
}
AT_LEAST = ("sharpness_ratio",)


@dataclass(frozen=True, slots=True)
class Stage:
    """What every part works with."""

    backend: Backend
    pool: TrackerPool
    corpus: Path | None
    seconds: float  # of each clip

    def play(self, images: list[U8], speech: Any, config: EngineConfig, **how: Any) -> Take:
        """See `lipwire.benchmarks.rig.fixture.play`."""
        return play(self.backend, self.pool, images, speech, config, **how)

    @property
    def frames(self) -> int:
        return max(round(self.seconds * FPS), SETTLE + 8)


def picture(stage: Stage) -> dict[str, float]:
    """What is painted beside what is not: the worst of all clips, each by its median."""
    rows = []
    for images in _clips(stage):
        # Generated all through: pauses of the voice would leave too few pictures.
        take = stage.play(images, voice(stage.seconds), EngineConfig(silence="generate"))
        rows.append(alike(take.painted[SETTLE:]))
    return {
        name: min(r[name] for r in rows) if name in AT_LEAST else max(r[name] for r in rows)
        for name in rows[0]
    }


def _clips(stage: Stage) -> Iterator[list[U8]]:
    yield portrait(stage.frames, sway_px=6, grain=3)
    if stage.corpus is not None:
        for path in people(stage.corpus)[:PEOPLE]:
            yield clip(path, stage.frames)


def people(corpus: Path) -> list[Path]:
    """A clip of each unseen speaker of a corpus, the largest faces first."""
    try:
        with (corpus / "manifest.csv").open() as file:
            rows = [r for r in csv.DictReader(file) if r["kind"] == "talking"]
    except OSError as error:
        raise ConfigError(f"{corpus} is no corpus: {error}") from None
    rows = [r for r in rows if r["split"] == "val" and float(r["seconds"]) >= 2]
    rows.sort(key=lambda r: -float(r["face_px"]))
    first = {r["speaker"]: corpus / r["file"] for r in reversed(rows)}
    return [corpus / r["file"] for r in rows if first[r["speaker"]] == corpus / r["file"]]


def alike(painted: list[Painted]) -> dict[str, float]:
    """How far painted pixels are from those around them; medians of pictures."""
    outside = 0
    border: list[float] = []
    colour: list[float] = []
    sharp: list[float] = []
    for mouth in painted:
        image, alignment = mouth.aligned.image, mouth.aligned.alignment
        unit = alignment.size / CROP_SIZE
        out = paint_image(image, mouth.patch)
        mask = jaw_mask(mouth.aligned.face.landmarks, alignment)
        there = _in_frame(mask, mouth.aligned.alignment.matrix, image)
        outside += int(((out != image).any(2) & (there == 0)).sum())
        rim = (there > 0.02) & (there < 0.5)
        if rim.any():
            border.append(_steepness(out, rim) / max(_steepness(image, rim), 1e-6))
            near = blurred((out.astype(np.float32) - image), 2.0)
            colour.append(float(np.abs(near[rim].mean(0)).max()))
        new, old = (align(p, alignment).astype(np.float32)[..., 1] for p in (out, image))
        lips = lips_mask(mouth.aligned.face.landmarks, alignment)
        eyes = np.zeros(mask.shape, np.bool_)
        eyes[_part(SHARP_ROWS, unit), _part(SIDES, unit)] = True
        seen, wanted = _sharpness(new, lips > 0.5, unit), _sharpness(old, eyes, unit)
        sharp.append(seen / max(wanted, 1e-6))
    return {
        "changed_outside_mask": float(outside),
        "border_gradient_off": abs(_median(border) - 1),
        "colour_off_levels": _median(colour),
        "sharpness_ratio": _median(sharp),
    }


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else float("nan")


def _part(rows: slice, unit: float) -> slice:
    return slice(round(rows.start * unit), round(rows.stop * unit))


def _in_frame(mask: F32, matrix: F32, image: U8) -> F32:
    """A crop's mask where the frame has it; 0 only where it is surely 0."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(mask, matrix, image.shape[1::-1], flags=flags), np.float32)


def _steepness(image: U8, where: Any) -> float:
    grey = blurred(image.astype(np.float32).mean(2), 1.0)
    return float(np.hypot(*np.gradient(grey))[where].mean())


def _sharpness(grey: F32, where: Any, unit: float) -> float:
    """The finest octave's share in the next."""
    soft = blurred(grey, unit)
    fine, coarse = grey - soft, soft - blurred(soft, 2 * unit)
    return float(fine[where].std() / max(coarse[where].std(), 1e-6))


def still(stage: Stage) -> dict[str, float]:
    """A mouth that says nothing: does it shake, and has it the picture's grain?"""
    config = EngineConfig(silence="generate")
    silent = np.zeros(round(stage.seconds * PLAYOUT_RATE_HZ), np.int16)
    take = stage.play(portrait(stage.frames, grain=3), silent, config)
    before, after = ([np.asarray(p) for p in zip(*_lips(take), strict=True)][k] for k in (0, 1))

    def shake(points: Any) -> float:
        return float(np.diff(points[SETTLE:], axis=0).std())

    return {
        "jitter_ratio": shake(after) / max(shake(before), 1e-6),
        "grain_off": abs(_median(_grain(take)) - 1),
    }


def _grain(take: Take) -> list[float]:
    """What flickers in painted pixels over what flickered there in the still picture."""
    ratios = []
    shown = {out.index: out.image for out in take.shown}
    for index, mouth in enumerate(take.painted[SETTLE:-1], SETTLE):
        alignment = mouth.aligned.alignment
        shape = lips_mask(mouth.aligned.face.landmarks, alignment)
        lips = _in_frame(shape, alignment.matrix, mouth.aligned.image) > 0.9
        after, before = (
            (two[index + 1].astype(np.float32) - two[index])[..., 1] for two in (shown, take.images)
        )
        new, old = ((part - blurred(part, 1.5))[lips].std() for part in (after, before))
        ratios.append(float(new / max(old, 1e-6)))
    return ratios


def _lips(take: Take) -> list[tuple[F32, F32]]:
    """Landmarks of the lips as they came in and went out, each followed by a tracker of its own."""
    found = []
    with closing(MeshTracker()) as one, closing(MeshTracker()) as other:
        for image, out in take.pairs():
            before, after = one.track(image), other.track(out.image)
            if before is not None and after is not None:
                found.append((before.landmarks[list(LIPS)], after.landmarks[list(LIPS)]))
    return found


def silence(stage: Stage) -> dict[str, float]:
    """A generated mouth moves while the voice speaks, and neither in its silence nor after it."""
    speech = voice(stage.seconds)
    after = stage.frames // 2
    images = portrait(2 * stage.frames, grain=2)
    take = stage.play(images, speech, EngineConfig(silence="generate"))
    openings = []
    with closing(MeshTracker()) as tracker:
        for _, out in take.pairs():
            face = tracker.track(out.image)
            openings.append(np.nan if face is None else opening_px(face.landmarks))
    speaking, silent = openings[SETTLE : stage.frames], openings[-after:]
    shut_px = float(np.nanquantile(speaking, 0.1))
    return {
        "silence_movement_ratio": float(np.nanstd(silent)) / max(float(np.nanstd(speaking)), 1e-6),
        "shut_after_end_ratio": float(np.nanmedian(silent)) / max(shut_px, 1.0),
    }


def interruption(stage: Stage) -> dict[str, float]:
    """How long after an interruption the last picture with another mouth comes."""
    speech, worst_s = voice(2.0), 0.0
    for fps, moments_s in MOMENTS:
        images = portrait(round(1.4 * fps))
        for moment_s in moments_s:
            take = stage.play(images, speech, EngineConfig(), fps=fps, interrupt_s=moment_s)
            changed = [out.playout_s for image, out in take.pairs() if (out.image != image).any()]
            if not changed or max(changed) < moment_s - 0.2:
                raise ConfigError("the voice does not speak when it is interrupted")
            worst_s = max(worst_s, max(changed) - moment_s)
    return {"interrupted_mouth_ms": 1000 * worst_s}


def ending(stage: Stage) -> dict[str, float]:
    """How long after its end a voice's mouth is gone."""
    length_s = min(stage.seconds, 1.2)
    take = stage.play(portrait(round((length_s + 1.6) * FPS)), voice(length_s), EngineConfig())
    last_s = max(out.playout_s for image, out in take.pairs() if (out.image != image).any())
    first_s = next(out.playout_s for out in take.shown if out.outcome is Outcome.GENERATED)
    # The mouth opens before the sound; whatever of that is left is to the voice's credit.
    return {"voice_end_to_original_s": last_s - first_s - length_s}


def tracked(stage: Stage) -> dict[str, float]:
    """A head that moves, and a face that is hidden for a second now and then."""
    found = tracking.run(stage.seconds)
    return {"crop_lag_frames": found["crop_lag_frames_worst"]} | {
        name: found[name] for name in ("frames_to_pass_through", "frames_to_return", "frames_lost")
    }


PARTS: tuple[tuple[str, Callable[[Stage], dict[str, float]]], ...] = (
    ("picture", picture),
    ("still head", still),
    ("silence", silence),
    ("interruption", interruption),
    ("end of speech", ending),
    ("tracking", tracked),
)


def run(
    *,
    corpus: Path | None = None,
    bundle: Path | None = None,
    seconds: float = 3.0,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """All figures.

    Args:
        corpus: folder of clips with a manifest.csv.
        bundle: the model; None takes the one that ships.
        seconds: of each clip.
        progress: told what is going on.
    """
    from lipwire.engine import open_engine

    figures: dict[str, float] = {}
    described = describe_bundle(bundle)
    with open_engine(bundle) as engine, closing(TrackerPool()) as pool:
        stage = Stage(engine.backend, pool, corpus, seconds)
        for number, (name, part) in enumerate(PARTS, 1):
            progress(f"{number} of {len(PARTS)}: {name}")
            figures |= part(stage)
    return {
        "bundle": described,
        "clips": "made" if corpus is None else f"made and {PEOPLE} unseen speakers",
        "figures": figures,
        "targets": TARGETS,
        "met": judged(figures, TARGETS, AT_LEAST),
    }
