"""Phonemes -> visemes -> nominal mouth shapes.

A viseme is a class of sounds that look alike. The shapes are ours, estimated from what the
articulators must do (a [p] closes the lips, an [u] rounds and protrudes them), and serve to
pre-train what listens; how far a person's mouth really moves is learnt from pictures.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from engine.errors import ConfigError
from engine.types import F32, F64


class Viseme(IntEnum):
    """Fifteen classes of mouth."""

    SILENCE = 0
    BILABIAL = 1
    """p b m: lips shut"""
    LABIODENTAL = 2
    """f v: lower lip at the teeth"""
    DENTAL = 3
    """th: tongue between the teeth"""
    ALVEOLAR = 4
    """t d n l"""
    SIBILANT = 5
    """s z: teeth together"""
    POSTALVEOLAR = 6
    """sh zh: teeth together, lips forward"""
    VELAR = 7
    """k g ng h and what lies deeper: lips follow their neighbours"""
    RHOTIC = 8
    """r"""
    SPREAD = 9
    """i y-glide"""
    MID = 10
    """e"""
    OPEN = 11
    """a"""
    ROUND_MID = 12
    """o"""
    ROUND_CLOSE = 13
    """u w and front rounded vowels"""
    NEUTRAL = 14
    """schwa"""


@dataclass(frozen=True, slots=True)
class Shape:
    """Where a viseme wants the mouth, -1 to 1, and how strongly it insists, 0 to 1, on each."""

    opening: float
    """-1 lips shut, 0 slightly apart as in a schwa, 1 as open as speech gets"""
    width: float
    """-1 corners drawn in, 1 spread"""
    protrusion: float
    """-1 lips drawn back over the teeth, 1 pushed forward"""
    holds: tuple[float, float, float]
    """dominance over the neighbours, for opening, width and protrusion"""


SHAPES = {
    Viseme.SILENCE: Shape(-1.0, 0.0, 0.0, (0.6, 0.3, 0.3)),
    Viseme.BILABIAL: Shape(-1.0, 0.0, 0.0, (1.0, 0.15, 0.15)),
    Viseme.LABIODENTAL: Shape(-0.7, 0.1, -0.6, (0.9, 0.3, 0.7)),
    Viseme.DENTAL: Shape(-0.2, 0.1, 0.0, (0.5, 0.2, 0.2)),
    Viseme.ALVEOLAR: Shape(-0.3, 0.1, 0.0, (0.3, 0.1, 0.1)),
    Viseme.SIBILANT: Shape(-0.5, 0.4, -0.1, (0.6, 0.4, 0.2)),
    Viseme.POSTALVEOLAR: Shape(-0.3, -0.4, 0.7, (0.6, 0.6, 0.7)),
    Viseme.VELAR: Shape(-0.1, 0.0, 0.0, (0.1, 0.05, 0.05)),
    Viseme.RHOTIC: Shape(-0.2, -0.3, 0.4, (0.3, 0.3, 0.4)),
    Viseme.SPREAD: Shape(-0.2, 0.9, -0.3, (0.4, 0.8, 0.4)),
    Viseme.MID: Shape(0.3, 0.6, -0.2, (0.5, 0.6, 0.3)),
    Viseme.OPEN: Shape(1.0, 0.2, 0.0, (0.8, 0.3, 0.3)),
    Viseme.ROUND_MID: Shape(0.4, -0.6, 0.6, (0.7, 0.8, 0.8)),
    Viseme.ROUND_CLOSE: Shape(-0.3, -1.0, 1.0, (0.7, 1.0, 1.0)),
    Viseme.NEUTRAL: Shape(0.1, 0.0, 0.0, (0.3, 0.1, 0.1)),
}  # fmt: skip

_IPA = {
    Viseme.BILABIAL: "p b m ɓ ʙ ɸ β",
    Viseme.LABIODENTAL: "f v ʋ ɱ ⱱ",
    Viseme.DENTAL: "θ ð",
    Viseme.ALVEOLAR: "t d n l ɗ ɾ ɬ ɮ ʈ ɖ ɳ ɭ ɫ ǀ ǃ ɺ",
    Viseme.SIBILANT: "s z",
    Viseme.POSTALVEOLAR: "ʃ ʒ ɕ ʑ ʂ ʐ ɧ",
    Viseme.VELAR: "k ɡ g ŋ x ɣ χ ʁ q ɢ ʀ ħ ʕ h ɦ ʔ ɰ c ɟ ɲ ç ʝ ʎ ɴ ʟ ɠ",
    Viseme.RHOTIC: "r ɹ ɻ ɽ",
    Viseme.SPREAD: "i j ɪ",
    Viseme.MID: "e ɛ ε",
    Viseme.OPEN: "a æ ɑ ɒ",
    Viseme.ROUND_MID: "o ɔ œ ɶ ɵ",
    Viseme.ROUND_CLOSE: "u w ʊ y ʏ ø ʉ ɥ ʍ",
    Viseme.NEUTRAL: "ə ɐ ʌ ɜ ɘ ɤ ɨ ɯ ᵻ ɚ ɝ ɞ",
}  # fmt: skip
# The names that CMU's English synthesisers give their sounds (ARPAbet).
_ARPABET = {
    "pau": "", "aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "axr": "ɚ",
    "ay": "aɪ", "b": "b", "ch": "tʃ", "d": "d", "dh": "ð", "dx": "ɾ", "eh": "ɛ", "er": "ɝ",
    "ey": "eɪ", "f": "f", "g": "ɡ", "hh": "h", "hv": "ɦ", "ih": "ɪ", "iy": "i", "jh": "dʒ",
    "k": "k", "l": "l", "m": "m", "n": "n", "ng": "ŋ", "ow": "oʊ", "oy": "ɔɪ", "p": "p",
    "r": "ɹ", "s": "s", "sh": "ʃ", "t": "t", "th": "θ", "uh": "ʊ", "uw": "u", "v": "v",
    "w": "w", "y": "j", "z": "z", "zh": "ʒ", "em": "m", "en": "n", "el": "l",
}  # fmt: skip
_CLASS = {symbol: viseme for viseme, symbols in _IPA.items() for symbol in symbols.split()}
_LABIALISED = set("ʷᵝ")  # these round the lips of the sound before them


def from_arpabet(name: str) -> str:
    """The IPA of a sound in CMU's English notation.

    Raises:
        ConfigError: the name is not of that notation.
    """
    if name not in _ARPABET:
        raise ConfigError(f"{name!r} is not an English phoneme of CMU's notation")
    return _ARPABET[name]


def visemes_of(phoneme: str) -> tuple[Viseme, ...]:
    """The mouths that a phoneme in IPA passes through; a diphthong or an affricate has two.

    Raises:
        ConfigError: a symbol is not known.
    """
    found: list[Viseme] = []
    for symbol in unicodedata.normalize("NFD", phoneme):
        if symbol in _LABIALISED:
            # A labialised velar is seen as its rounding alone.
            found[-1:] = [Viseme.ROUND_CLOSE]
        elif unicodedata.category(symbol) in ("Ll", "Lo", "Lu"):
            # All else colours the sound (length, stress, tone, aspiration ...), not the mouth.
            if symbol not in _CLASS:
                raise ConfigError(f"phoneme {phoneme!r}: {symbol!r} is not known")
            if not found or found[-1] is not _CLASS[symbol]:
                found.append(_CLASS[symbol])
    return tuple(found) or (Viseme.SILENCE,)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech with one viseme."""

    viseme: Viseme
    start_s: float
    end_s: float


def segments_of(phones: list[tuple[str, float, float]]) -> list[Segment]:
    """(IPA, start, end) -> visemes in time; sounds with several share their time evenly."""
    out = []
    for phoneme, start_s, end_s in phones:
        visemes = visemes_of(phoneme)
        step_s = (end_s - start_s) / len(visemes)
        for number, viseme in enumerate(visemes):
            begin_s = start_s + number * step_s
            out.append(Segment(viseme, begin_s, begin_s + step_s))
    return out


def viseme_track(
    segments: list[Segment], times_s: F64
) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The viseme at each time, uint8[T]; silence before the first segment and after the last."""
    track = np.zeros(len(times_s), np.uint8)
    for segment in segments:
        track[(times_s >= segment.start_s) & (times_s < segment.end_s)] = segment.viseme
    return track


# How long before and after its segment a sound still bends the lips. Shorter: the mouth jumps from
# shape to shape; longer: closures no longer close. Lips move early rather than late.
ANTICIPATION_S, CARRY_OVER_S = 0.05, 0.035


def mouth_track(segments: list[Segment], times_s: F64) -> F32:
    """Opening, width and protrusion at each time, f32[T, 3] in ±1.

    Dominance functions (Cohen & Massaro, 1993): every segment pulls with a strength that decays
    exponentially before and after it; the shape is the weighted mean of all pulls.
    """
    total = np.zeros((len(times_s), 3))
    weight = np.full((len(times_s), 3), 1e-6)
    total[:, 0] -= 1e-6  # where nothing is said the mouth is shut
    for segment in segments:
        shape = SHAPES[segment.viseme]
        before = np.maximum(0, segment.start_s - times_s) / ANTICIPATION_S
        after = np.maximum(0, times_s - segment.end_s) / CARRY_OVER_S
        # The strength rises to its peak inside the segment, so that a closure really closes.
        half_s = max((segment.end_s - segment.start_s) / 2, 1e-3)
        middle_s = (segment.start_s + segment.end_s) / 2
        depth = np.clip(1 - np.abs(times_s - middle_s) / half_s, 0, 1)
        strength = np.exp(-(before + after)) * (1 + 4 * np.sqrt(depth))
        pull = strength[:, None] * np.asarray(shape.holds) ** 1.5
        total += pull * np.array([shape.opening, shape.width, shape.protrusion])
        weight += pull
    return (total / weight).astype(np.float32)
