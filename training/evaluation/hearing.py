"""How well a bundle's voice knows what mouths do: its codes against those of held-out people.

    lipwire evaluate voice BUNDLE SHARDS [--against BUNDLE]

No picture is painted. Each way of hearing (as recorded, softer, by telephone, in noise) has
    r, r_long   correlation of the opening with the person's, median over clips; clips of 2 s on
    r_best      the same of all clips, each at its best lag within five frames
    lag         frames by which it is late where r is highest, mean over those of 2 s
    movement    spread of the opening, of the person's, median
    closures    share of the lips' closures within speech that are shown within a frame
    false       share of the closures shown that were none
as recorded also by language and by speaker. What lips do when the voice is over (LipLeak: Bigata et
al., KeySync, 2025, measure it in pictures), followed by silence of each kind:
    leak        spread of the opening once none of the voice is heard, of that in speech, median
    open        share of those frames in which the lips are apart
    shut_s      from the voice's end until the lips are shut for good, median; clips that never shut
                count as long as they were watched
Intervals are 95 % by drawing speakers again; null: what a single speaker has, or nothing was seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lipwire.engine.audio.mel import (
    LOOKAHEAD_S,
    MEL_RATE_HZ,
    PAPER_FPS,
    WINDOW_COLUMNS,
    log_mel,
    window,
    window_start,
)
from lipwire.engine.backends.articulation import Articulation, open_articulation
from lipwire.engine.errors import BundleError
from lipwire.engine.face.articulation import OPENING
from lipwire.engine.media.sound import as_float
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.types import F32, F64, SPEECH_RATE_HZ
from lipwire.training.data.augment_audio import (
    add_noise,
    band_limit,
    companded,
    gained,
    make_noise,
    speech_level,
)
from lipwire.training.data.dataset import ClipData
from lipwire.training.evaluation.closures import Closures, count_closures, shares
from lipwire.training.evaluation.measures import Rows, best_lag, correlation, known, over_speakers
from lipwire.training.lite.lips import SHUT

LONG = 50  # frames: 2 s
AFTER_S = 3.0  # so long the lips are watched after a voice


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


def _room(speech: F32) -> F32:
    """A quiet room's noise under it, 50 dB below full scale."""
    noise = make_noise("pink", len(speech), np.random.default_rng(0))
    return speech + noise * np.float32(10 ** (-50 / 20) / max(float(noise.std()), 1e-9))


SILENCES: dict[str, Callable[[F32], F32]] = {"digital zero": lambda speech: speech, "room": _room}


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


class Heard(NamedTuple):
    """Of one clip, heard in one way."""

    speaker: str
    language: str
    long: bool
    r: float
    r_best: float
    lag: int
    moved: float
    """spread of the opening, of the person's"""
    closures: Closures


def measure_voice(
    bundle: Bundle, clips: Sequence[ClipData], against: Bundle | None = None
) -> dict[str, Any]:
    """The figures of the module: `heard` by way, `languages`, `speakers` and `silence`.

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
    voices = [as_float(np.asarray(clip.speech)) for clip in clips]
    counts = [len(clip) for clip in clips]
    report: dict[str, Any] = {"heard": {}}
    for way, degraded in WAYS.items():
        mels = [log_mel(degraded(speech)) for speech in voices]
        said = _said(bundle, mels, counts, typical)
        found = [_heard(*each) for each in zip(clips, said, wanted, strict=True)]
        row = _row(found)
        if against is not None:
            others = _said(against, mels, counts, typical)
            other = [_heard(*each) for each in zip(clips, others, wanted, strict=True)]
            long, other_long = ([each for each in of if each.long] for of in (found, other))
            for name, a, b in (("r_more", found, other), ("r_long_more", long, other_long)):
                row[name] = drawn(_column(a, "r"), _speakers(a), _column(b, "r"))
        report["heard"][way] = row
        if way == "recorded":
            spread = [float(opening.std()) for opening in said]
            for name in ("language", "speaker"):
                groups: dict[str, list[Heard]] = defaultdict(list)
                for each in found:
                    groups[getattr(each, name) or "?"].append(each)
                report[f"{name}s"] = {group: _row(of) for group, of in sorted(groups.items())}
    report["silence"] = {
        kind: _leak(bundle, [quiet(_followed(speech)) for speech in voices], spread, typical)
        for kind, quiet in SILENCES.items()
    }
    return report


def _heard(clip: ClipData, said: F32, wanted: F32) -> Heard:
    lag = best_lag(said, wanted)
    return Heard(
        clip.speaker,
        clip.language,
        len(clip) >= LONG,
        correlation(said, wanted),
        correlation(said, wanted, lag),
        lag,
        float(said.std()) / max(float(wanted.std()), 1e-3),
        count_closures(said, wanted),
    )


def _row(found: Sequence[Heard]) -> dict[str, Any]:
    """The figures of some clips."""
    speakers, long = _speakers(found), [each for each in found if each.long]
    return {
        "clips": len(found),
        "speakers": len(set(speakers)),
        "r": drawn(_column(found, "r"), speakers),
        "r_long": drawn(_column(long, "r"), _speakers(long)),
        "r_best": drawn(_column(found, "r_best"), speakers),
        "lag": known(float(np.mean(_column(long, "lag")))) if long else None,
        "movement": known(float(np.median(_column(found, "moved")))),
        **shares([each.closures for each in found], speakers),
    }


def _column(found: Sequence[Heard], name: str) -> F64:
    return np.array([getattr(each, name) for each in found], np.float64)


def _speakers(found: Sequence[Heard]) -> list[str]:
    return [each.speaker for each in found]


def _followed(speech: F32) -> F32:
    """By silence."""
    return np.pad(speech, (0, round((AFTER_S + LOOKAHEAD_S) * SPEECH_RATE_HZ)))


def _leak(
    bundle: Bundle, sounds: Sequence[F32], spread: Sequence[float], typical: F64
) -> dict[str, float | None]:
    """What the lips do in the silence that sounds end with; see the module.

    Args:
        bundle: whose voice is measured.
        sounds: f32[N] each, ending as `_followed` does.
        spread: of the opening in each voice.
        typical: least and spread of a typical speaker's opening, crop pixels.
    """
    counts = [round(len(sound) / SPEECH_RATE_HZ * PAPER_FPS) for sound in sounds]
    after = round(AFTER_S * PAPER_FPS)
    said = _said(bundle, [log_mel(sound) for sound in sounds], counts, typical)
    ends = [
        opening[count - round(LOOKAHEAD_S * PAPER_FPS) - after :][:after]
        for opening, count in zip(said, counts, strict=True)
    ]
    columns = bundle.manifest.job_spec.mel_columns
    gone = -(-columns * PAPER_FPS // MEL_RATE_HZ)  # frames until a window holds none of the voice
    apart = [end >= SHUT for end in ends]
    shut = [
        (int(np.flatnonzero(open_)[-1]) + 1 if open_.any() else 0) / PAPER_FPS for open_ in apart
    ]
    moved = [end[gone:].std() / max(of, 1e-3) for end, of in zip(ends, spread, strict=True)]
    return {
        "leak": known(float(np.median(moved))),
        "open": known(float(np.mean([open_[gone:].mean() for open_ in apart]))),
        "shut_s": known(float(np.median(shut))),
    }


def _said(bundle: Bundle, mels: Sequence[F32], counts: Sequence[int], typical: F64) -> list[F32]:
    """The openings of so many frames of each sound, in a typical speaker's spreads."""
    hears = open_articulation(bundle)
    if hears is None:
        raise BundleError(f"{bundle.path}: has no voice of its own")
    columns = bundle.manifest.job_spec.mel_columns
    more = columns - WINDOW_COLUMNS
    found = []
    for mel, count in zip(mels, counts, strict=True):
        windows = [window(mel, window_start(i) - more, columns) for i in range(count)]
        opening = (said_openings(bundle, hears, windows) - typical[0]) / typical[1]
        found.append(np.asarray(opening, np.float32))
    return found


def drawn(values: F64, speakers: Sequence[str], less: F64 | None = None) -> list[float | None]:
    """The median over clips and its 95 % interval over speakers; with `less`, of the difference."""

    def median(rows: Rows) -> float:
        known = values[rows][np.isfinite(values[rows])]
        middle = float(np.median(known)) if len(known) else float("nan")
        return middle - (0.0 if less is None else float(np.nanmedian(less[rows])))

    return over_speakers(median, speakers)
