"""How well a bundle lip-syncs, on clips of speakers that it has not seen.

own    a clip's frames with its own voice, the reference another frame: can be compared by pixel
cross  a clip's frames with another clip's voice, the reference the frame itself, as in use: the
       mouth must follow the voice's true speaker and no longer its own past
The mouths of generated pictures are measured by the face tracker, like anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.backends import Backend, load_backend
from engine.bundle import Bundle, open_bundle
from engine.face import CROP_SIZE, jaw_mask
from engine.tracker import MediaPipeTracker
from engine.types import F32, U8, Alignment, LipJob
from training.articulation import raw_codes
from training.data import ClipData, load_clips, mel_windows

_IDENTITY = Alignment(np.array([[1, 0, 0], [0, 1, 0]], np.float32), CROP_SIZE)
OPENING = 0  # the code that people see first


@dataclass(frozen=True, slots=True)
class Drive:
    """One clip's frames painted with one voice."""

    painted: list[U8]
    opening: F32
    """f32[T], measured on the result; NaN where no face was found"""


def drive(
    backend: Backend,
    frames: ClipData,
    voice: ClipData,
    steps: int,
    tracker: MediaPipeTracker,
    reference: str,
) -> Drive:
    """Paint `frames` with the voice of `voice`, as long as both last.

    Args:
        backend: paints.
        frames: whose face.
        voice: whose sound.
        steps: DDIM steps.
        tracker: measures the result; must treat pictures on their own.
        reference: "self" (each frame its own) or "other" (the frame half a clip away).
    """
    count = min(len(frames), len(voice))
    mels = mel_windows(voice)
    jobs = []
    for i in range(count):
        crop = np.ascontiguousarray(frames.crops[i])
        other = np.ascontiguousarray(frames.crops[(i + len(frames) // 2) % len(frames)])
        jobs.append(LipJob("evaluate", i, crop, (crop if reference == "self" else other)[None],
                           mels[i],
                           backend.manifest.noise_seed, steps, 0.0))  # fmt: skip
    painted: list[U8] = []
    for begin in range(0, count, 8):
        painted += backend.generate(jobs[begin : begin + 8])
    opening = np.full(count, np.nan, np.float32)
    for i, image in enumerate(painted):
        face = tracker.track(image)
        if face is not None:
            opening[i] = raw_codes(face.landmarks[None])[0, OPENING]
    return Drive(painted, opening)


def psnr_db(found: U8, wanted: U8, mask: F32) -> float:
    """Peak signal-to-noise ratio where the mask is, in decibels."""
    error = ((found.astype(np.float64) - wanted) ** 2).mean(axis=2)
    mean = float((error * mask).sum() / max(float(mask.sum()), 1e-9))
    return 10 * float(np.log10(255**2 / max(mean, 1e-9)))


def _correlation(pairs: list[tuple[F32, F32]]) -> float:
    """Pearson's r over all clips, each clip's own mean removed; NaN pairs left out."""
    a, b = [], []
    for x, y in pairs:
        known = np.isfinite(x) & np.isfinite(y)
        if known.sum() > 5:
            a.append(x[known] - x[known].mean())
            b.append(y[known] - y[known].mean())
    if not a:
        return float("nan")
    return float(np.corrcoef(np.concatenate(a), np.concatenate(b))[0, 1])


def evaluate(
    bundle: Bundle | Path, shards: Path, *, clips: int = 40, steps: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """Figures for the manifest, a set for each step count.

    Args:
        bundle: the model.
        shards: prepared clips; the `val` split is used.
        clips: how many at most.
        steps: step counts; None takes all that the bundle offers.
    """
    from rich.progress import track

    opened = open_bundle(bundle) if isinstance(bundle, Path) else bundle
    backend = load_backend(opened)
    held_out = load_clips(shards, "val")
    order = np.random.default_rng(0).permutation(len(held_out))[:clips]
    chosen = [held_out[i] for i in order]
    tracker = MediaPipeTracker(still=True)
    result: dict[str, Any] = {
        "clips": len(chosen),
        "frames": sum(map(len, chosen)),
        "speakers": len({c.speaker for c in chosen}),
    }
    try:
        for count in steps or opened.manifest.steps_offered:
            psnr, own, cross, kept, spread = [], [], [], [], []
            for number, clip in enumerate(track(chosen, f"{count} steps")):
                repainted = drive(backend, clip, clip, count, tracker, "other")
                truth = clip.codes[: len(repainted.painted), OPENING]
                own.append((repainted.opening, truth))
                for i, image in enumerate(repainted.painted):
                    mask = jaw_mask(clip.landmarks[i], _IDENTITY)
                    psnr.append(psnr_db(image, clip.crops[i], mask))
                voice = next(c for c in chosen[number + 1 :] + chosen if c.speaker != clip.speaker)
                dubbed = drive(backend, clip, voice, count, tracker, "self")
                wanted = voice.codes[: len(dubbed.painted), OPENING]
                cross.append((dubbed.opening, wanted))
                kept.append((dubbed.opening, clip.codes[: len(dubbed.painted), OPENING]))
                spread.append((np.nanstd(dubbed.opening), wanted.std()))
            moved = np.nanmean([a for a, _ in spread]) / np.mean([b for _, b in spread])
            result[f"steps_{count}"] = {
                "own_psnr_db": round(float(np.mean(psnr)), 2),
                "own_opening_r": round(_correlation(own), 3),
                "cross_opening_r": round(_correlation(cross), 3),
                "cross_old_mouth_r": round(_correlation(kept), 3),
                "cross_opening_spread": round(float(moved), 3),
            }
    finally:
        tracker.close()
        backend.close()
    return result
