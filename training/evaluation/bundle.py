"""How well a bundle lip-syncs, on clips of speakers it has not seen, beside what anyone can do.

reconstruction  the clip's first frame, as input and as reference, with the clip's own voice (paper,
                section 4): the mouth must move as the real one did
cross           the clip's frames with another clip's voice, references picked as a call picks them:
                the mouth must follow the voice's true speaker, and no longer its own past
In both the model knows nothing of how far the person's mouth goes but what these frames tell it so
far: nothing in reconstruction. A call is longer than a clip, so reconstruction is measured once
more with the reach known from other frames: the speaker's other clips and the clip's other half.
Baselines, measured in the same run: the same model fed silence, the same model fed another clip's
voice, and the first frame shown all the time; the perceptual distance stands beside that of one
real frame from the next. Mouths of painted pictures are measured by the face
tracker, like anybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lipwire.engine.audio.mel import SILENCE
from lipwire.engine.backends import load_backend
from lipwire.engine.face.alignment import jaw_mask
from lipwire.engine.face.articulation import OPENING
from lipwire.engine.model.bundle import Bundle, open_bundle
from lipwire.engine.types import F32
from lipwire.training.data.dataset import ClipData, load_clips, mel_windows
from lipwire.training.evaluation.drive import Drive, Measure, as_seen, reach_elsewhere
from lipwire.training.evaluation.measures import (
    HALF,
    IDENTITY,
    best_lag,
    border_gradient,
    correlation,
    lmd,
    psnr_db,
    ssim,
)

# Long clips count as this long, so that a figure is not the figure of one talk.
MAX_FRAMES = 100


def _median(values: Sequence[float]) -> float:
    return round(float(np.nanmedian(values)), 3) if len(values) else float("nan")


def _mean(values: Sequence[float], digits: int = 3) -> float:
    return round(float(np.nanmean(values)), digits) if len(values) else float("nan")


def _pictures(measure: Measure, drive: Drive, clip: ClipData) -> dict[str, float]:
    """Picture figures of a reconstruction against what was really there; every fifth frame.

    The first frame is left out: who copies it would be perfect there.
    """
    picks = range(1, len(drive.painted), 5)
    masks = [jaw_mask(clip.landmarks[i], IDENTITY) for i in picks]
    lower = [(drive.painted[i][HALF:], np.asarray(clip.crops[i])[HALF:]) for i in picks]
    return {
        "psnr_db": _mean([psnr_db(a, b, m[HALF:]) for (a, b), m in zip(lower, masks, strict=True)]),
        "ssim": _mean([ssim(a, b, gaussian=False) for a, b in lower]),
        "perceptual": measure.distance(*zip(*lower, strict=True)),
    }


def evaluate(
    bundle: Bundle | Path,
    shards: Path,
    *,
    clips: int = 0,
    steps: tuple[int, ...] | None = None,
    step_clips: int = 30,
) -> dict[str, Any]:
    """Figures for the manifest.

    Args:
        bundle: the model.
        shards: prepared clips; the `val` split is used.
        clips: how many at most, 0 = all.
        steps: step counts to compare; None takes all that the bundle offers.
        step_clips: clips on which step counts are compared.
    """
    from rich.progress import track

    opened = open_bundle(bundle) if isinstance(bundle, Path) else bundle
    backend = load_backend(opened)
    held_out = load_clips(shards, "val")
    seen = [as_seen(clip) for clip in held_out]
    order = np.random.default_rng(0).permutation(len(held_out))[: clips or None]
    chosen = [held_out[i] for i in order]
    measure = Measure(backend)
    default = opened.manifest.default_steps
    rows: list[dict[str, float]] = []
    by_steps: dict[int, list[float]] = {}
    try:
        for number, clip in enumerate(track(chosen, "evaluating")):
            told = None
            if measure.typical_px:
                frames = min(len(clip), MAX_FRAMES)
                told = reach_elsewhere(seen, order[number], frames, measure.typical_px)
            rows.append(_one_clip(measure, clip, _another(chosen, number), default, told))
            if number < step_clips:
                for count in steps or opened.manifest.steps_offered:
                    found = measure.reconstruction(clip, _mels(measure, clip), count).opening
                    by_steps.setdefault(count, []).append(
                        correlation(found, clip.codes[: len(found), OPENING])
                    )
    finally:
        measure.close()
        backend.close()
    return {
        "clips": len(chosen),
        "frames": sum(min(len(c), MAX_FRAMES) for c in chosen),
        "speakers": len({c.speaker for c in chosen}),
        "steps": default,
        "perceptual_measure": measure.perceptual.name,
        **_summary(rows),
        "r_by_steps": {str(count): _median(values) for count, values in by_steps.items()},
        "r_by_steps_clips": min(step_clips, len(chosen)),
    }


def _another(clips: Sequence[ClipData], number: int) -> ClipData:
    """The next clip of another speaker; the clip itself if there is none."""
    order = [*clips[number + 1 :], *clips[:number]]
    return next((c for c in order if c.speaker != clips[number].speaker), clips[number])


def _mels(measure: Measure, clip: ClipData) -> F32:
    return mel_windows(clip, measure.columns)[:MAX_FRAMES]


def _one_clip(
    measure: Measure, clip: ClipData, other: ClipData, steps: int, told: F32 | None
) -> dict[str, float]:
    own, foreign = _mels(measure, clip), _mels(measure, other)
    truth, others = clip.codes[: len(own), OPENING], other.codes[: len(foreign), OPENING]
    both = min(len(own), len(foreign))
    painted = measure.reconstruction(clip, own, steps)
    silent = measure.reconstruction(clip, np.full_like(own, SILENCE), steps)
    wrong = measure.reconstruction(clip, foreign, steps)
    dubbed = measure.cross(clip, foreign[:both], steps)
    quiet, settled = (
        measure.cross(clip, np.full_like(own[:both], SILENCE), steps, settled=known)
        for known in (False, True)
    )
    copied = np.stack([np.ascontiguousarray(clip.crops[0])] * len(own))
    still = Drive(list(copied), np.repeat(measure.landmarks(copied[:1]), len(own), axis=0))
    wanted = clip.landmarks[: len(own)]
    pictures, baseline = (_pictures(measure, drive, clip) for drive in (painted, still))
    known = {}
    if told is not None:
        drive = measure.reconstruction(clip, own, steps, told)
        known = {
            "r": correlation(drive.opening, truth),
            "spread": float(np.nanstd(drive.opening)) / max(float(truth.std()), 1e-6),
            "lmd_px": lmd(drive.landmarks, wanted),
            **_pictures(measure, drive, clip),
        }
    real = [np.asarray(crop)[HALF:] for crop in clip.crops[: len(own)]]
    spread, speaking = (max(float(np.nanstd(drive.opening)), 1e-6) for drive in (painted, dubbed))
    return {
        "r": correlation(painted.opening, truth),
        "lag": best_lag(painted.opening, truth),
        "r_silence": correlation(silent.opening, truth),
        "r_other_voice": correlation(wrong.opening[:both], truth[:both]),
        "r_other_voices_mouth": correlation(wrong.opening, others),
        "spread": spread / max(float(truth.std()), 1e-6),
        "silence_spread": float(np.nanstd(silent.opening)) / spread,
        "lmd_px": lmd(painted.landmarks, wanted),
        "lmd_copy_px": lmd(still.landmarks, wanted),
        **pictures,
        **{f"{name}_known": value for name, value in known.items()},
        **{f"{name}_copy": value for name, value in baseline.items()},
        "perceptual_frame_to_frame": measure.distance(real[1:], real[:-1]),
        "border": _mean(
            [border_gradient(p, copied[0], clip.landmarks[0]) for p in painted.painted[::5]]
        ),
        "upper_half_equal": float(
            all(np.array_equal(p[:HALF], copied[0][:HALF]) for p in painted.painted)
        ),
        "cross_r": correlation(dubbed.opening, others[:both]),
        "cross_r_old_mouth": correlation(dubbed.opening, truth[:both]),
        "cross_spread": speaking / max(float(others[:both].std()), 1e-6),
        "cross_silence_spread": float(np.nanstd(quiet.opening)) / speaking,
        "settled_silence_spread": float(np.nanstd(settled.opening)) / speaking,
    }


def _summary(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    def column(name: str) -> list[float]:
        return [row[name] for row in rows]

    lags = np.array(column("lag"))
    rng = np.random.default_rng(0)
    r = np.array(column("r"))
    draws = [np.nanmedian(rng.choice(r, len(r))) for _ in range(2000)]
    known = {}
    if "r_known" in rows[0]:
        known = {
            "reconstruction_reach_known": {
                "r": _median(column("r_known")),
                "spread": _median(column("spread_known")),
                "lmd_px": _mean(column("lmd_px_known")),
                "psnr_db": _mean(column("psnr_db_known")),
                "ssim": _mean(column("ssim_known")),
                "perceptual": _mean(column("perceptual_known"), 4),
            }
        }
    return {
        "reconstruction": {
            "r": _median(r.tolist()),
            "r_95": [round(float(q), 3) for q in np.quantile(draws, (0.025, 0.975))],
            "lag_frames": _median(lags.tolist()),
            "lag_within_1": round(float((np.abs(lags) <= 1).mean()), 3),
            "spread": _median(column("spread")),
            "lmd_px": _mean(column("lmd_px")),
            "psnr_db": _mean(column("psnr_db")),
            "ssim": _mean(column("ssim")),
            "perceptual": _mean(column("perceptual"), 4),
            "border_gradient_ratio": _mean(column("border")),
            "upper_half_equal": _mean(column("upper_half_equal")),
        },
        **known,
        "baselines": {
            "r_silence": _median(column("r_silence")),
            "r_other_voice": _median(column("r_other_voice")),
            "lmd_copy_px": _mean(column("lmd_copy_px")),
            "psnr_copy_db": _mean(column("psnr_db_copy")),
            "ssim_copy": _mean(column("ssim_copy")),
            "perceptual_copy": _mean(column("perceptual_copy"), 4),
            "perceptual_frame_to_frame": _mean(column("perceptual_frame_to_frame"), 4),
        },
        "other_voice": {"r_that_voices_mouth": _median(column("r_other_voices_mouth"))},
        "silence": {
            "spread_of_speaking": _mean(column("silence_spread")),
            # Medians: of those who hardly move their lips, the tracker's own jitter is half.
            "live_spread_of_speaking": _median(column("cross_silence_spread")),
            "settled_spread_of_speaking": _median(column("settled_silence_spread")),
        },
        "cross": {
            "r": _median(column("cross_r")),
            "r_old_mouth": _median(column("cross_r_old_mouth")),
            "spread": _median(column("cross_spread")),
        },
    }
