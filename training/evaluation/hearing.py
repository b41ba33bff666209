"""How well a bundle's voice knows what mouths do: its codes against those of held-out people.

    lipwire evaluate voice BUNDLE SHARDS [--against BUNDLE]

No picture is painted. Each way of hearing (as recorded, softer, by telephone, in noise) has
    r, r_long   correlation of the opening with the person's, median over clips; clips of 2 s on
    lag         frames by which it is late where r is highest, mean over those of 2 s
    movement    spread of the opening, of the person's, median
    closures    share of the lips' closures within speech that are shown within a frame
    false       share of the closures shown that were none
Intervals are 95 % by drawing speakers again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lipwire.engine.audio.mel import log_mel
from lipwire.engine.backends.articulation import Articulation, open_articulation
from lipwire.engine.errors import BundleError
from lipwire.engine.face.articulation import OPENING
from lipwire.engine.media.sound import as_float
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.types import F32, F64
from lipwire.training.data.augment_audio import (
    add_noise,
    band_limit,
    companded,
    gained,
    make_noise,
    speech_level,
)
from lipwire.training.data.dataset import ClipData, mel_windows
from lipwire.training.evaluation.measures import best_lag, correlation

LONG = 50  # frames: 2 s
# An opening in the person's own spreads, from the least one on: below, lips are shut; a closure
# lies between mouths that are open, at most so many frames away, and lasts no longer than a word's.
SHUT, OPEN, NEAR, LONGEST = 0.25, 0.6, 10, 8
DRAWS = 2000


def _softly(speech: F32) -> F32:
    return gained(speech, -30.0 - 20 * float(np.log10(max(speech_level(speech), 1e-6))))


def _in_noise(speech: F32) -> F32:
    return add_noise(speech, make_noise("pink", len(speech), np.random.default_rng(0)), 10.0)


def _by_telephone(speech: F32) -> F32:
    return companded(band_limit(speech, 300.0, 3400.0), 8)


WAYS: dict[str, Callable[[F32], F32]] = {
    "recorded": lambda speech: speech,
    "-30 dB": _softly,
    "telephone": _by_telephone,
    "noise 10 dB": _in_noise,
}


def closures(opening: F32) -> list[tuple[int, int]]:
    """First and last frame of each closure within speech, of f32[T] in spreads."""
    shut = np.flatnonzero(opening < SHUT)
    runs = np.split(shut, np.flatnonzero(np.diff(shut) > 1) + 1) if len(shut) else []
    found = []
    for run in runs:
        first, last = int(run[0]), int(run[-1])
        before, after = opening[max(0, first - NEAR) : first], opening[last + 1 :][:NEAR]
        opens = all(len(side) and side.max() > OPEN for side in (before, after))
        if opens and last - first < LONGEST:
            found.append((first, last))
    return found


def shown_within_a_frame(closures: Sequence[tuple[int, int]], opening: F32) -> int:
    """How many closures have a shut mouth in `opening`, f32[T], at most a frame beside them."""
    return sum(bool(opening[max(0, a - 1) : b + 2].min() < SHUT) for a, b in closures)


def _openings(clips: Sequence[ClipData], own: dict[str, tuple[float, float]]) -> list[F32]:
    return [(c.codes[:, OPENING] - own[c.speaker][0]) / own[c.speaker][1] for c in clips]


def _units(clips: Sequence[ClipData]) -> dict[str, tuple[float, float]]:
    """The least opening and the spread of every speaker, crop pixels."""
    found = {}
    everybody = float(np.concatenate([c.codes[:, OPENING] for c in clips]).std())
    for speaker in {c.speaker for c in clips}:
        opening = np.concatenate([c.codes[:, OPENING] for c in clips if c.speaker == speaker])
        found[speaker] = float(np.percentile(opening, 5)), float(opening.std()) + 0.15 * everybody
    return found


def said_openings(bundle: Bundle, hears: Articulation, mels: Sequence[F32]) -> F32:
    """What a typical speaker's mouth does, f32[T] in crop pixels, for windows f32[80, C]."""
    stats = bundle.manifest.job_spec.codes
    assert stats is not None
    codes = np.concatenate([hears([mel], None) for mel in mels])
    return np.asarray(codes[:, OPENING] * stats.spread[OPENING] + stats.mean[OPENING], np.float32)


def measure_voice(
    bundle: Bundle, clips: Sequence[ClipData], against: Bundle | None = None
) -> dict[str, dict[str, Any]]:
    """The figures of each way of hearing; see the module.

    Args:
        bundle: whose voice is measured.
        clips: with their sound.
        against: another, whose r is compared, speakers drawn alike.

    Raises:
        BundleError: a bundle has no voice.
    """
    own = _units(clips)
    wanted = _openings(clips, own)
    typical = np.median(list(own.values()), axis=0)
    speakers = [clip.speaker for clip in clips]
    long = np.array([len(clip) >= LONG for clip in clips])
    report = {}
    for way, degraded in WAYS.items():
        heard = [log_mel(degraded(as_float(np.asarray(clip.speech)))) for clip in clips]
        said = _said(bundle, clips, heard, typical)
        r = np.array([correlation(f, w) for f, w in zip(said, wanted, strict=True)])
        row: dict[str, Any] = {
            "r": drawn(r, speakers),
            "r_long": drawn(r[long], _of(speakers, long)),
        }
        if against is not None:
            others = _said(against, clips, heard, typical)
            other = np.array([correlation(f, w) for f, w in zip(others, wanted, strict=True)])
            row["r_more"] = drawn(r, speakers, other)
            row["r_long_more"] = drawn(r[long], _of(speakers, long), other[long])
        lags = [best_lag(f, w) for f, w, kept in zip(said, wanted, long, strict=True) if kept]
        row["lag"] = round(float(np.mean(lags)), 2) if lags else float("nan")
        moved = [f.std() / max(w.std(), 1e-3) for f, w in zip(said, wanted, strict=True)]
        row["movement"] = round(float(np.median(moved)), 3)
        true, shown = [closures(w) for w in wanted], [closures(f) for f in said]
        hit = sum(shown_within_a_frame(c, f) for c, f in zip(true, said, strict=True))
        right = sum(shown_within_a_frame(c, w) for c, w in zip(shown, wanted, strict=True))
        count, alarms = sum(map(len, true)), sum(map(len, shown))
        row["closures"] = [hit, count]
        row["false"] = [alarms - right, alarms]
        report[way] = row
    return report


def _said(
    bundle: Bundle, clips: Sequence[ClipData], heard: Sequence[F32], typical: F64
) -> list[F32]:
    hears = open_articulation(bundle)
    if hears is None:
        raise BundleError(f"{bundle.path}: has no voice of its own")
    columns = bundle.manifest.job_spec.mel_columns
    found = []
    for clip, mel in zip(clips, heard, strict=True):
        windows = mel_windows(replace(clip, mel=mel), columns)
        found.append((said_openings(bundle, hears, list(windows)) - typical[0]) / typical[1])
    return [np.asarray(opening, np.float32) for opening in found]


def _of(names: Sequence[str], kept: npt.NDArray[np.bool_]) -> list[str]:
    return [name for name, keep in zip(names, kept, strict=True) if keep]


def drawn(values: F64, speakers: Sequence[str], less: F64 | None = None) -> list[float]:
    """The median over clips and its 95 % interval over speakers; with `less`, of the difference."""
    names = np.array(speakers)
    places = [np.flatnonzero(names == name) for name in sorted(set(speakers))]
    rng = np.random.default_rng(0)

    def median(rows: npt.NDArray[np.intp]) -> float:
        middle = float(np.nanmedian(values[rows]))
        return middle - (0.0 if less is None else float(np.nanmedian(less[rows])))

    if not places:
        return [float("nan")] * 3
    draws = [
        median(np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))]))
        for _ in range(DRAWS)
    ]
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return [round(float(v), 3) for v in (median(np.arange(len(values))), low, high)]
