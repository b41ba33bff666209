"""Clicks in a voice, by which a caller knows when it hears what it said."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, cycle

import numpy as np

from lipwire.benchmarks.rig.client import SPEECH_RATE_HZ
from lipwire.engine.types import F64, I16, PLAYOUT_RATE_HZ

CLICK_HZ, CLICK_S = 9000, 0.006  # above what the model hears (8 kHz) and below what Opus drops
CLICK_LEVEL = 9000
GAPS_S = (0.8, 1.1, 0.9, 1.3, 1.0, 1.2, 0.7)  # their distances repeat only after PATTERN_S
PATTERN_S = sum(GAPS_S)


def _clicked(sound: I16, rate_hz: int, times_s: Iterable[float]) -> I16:
    """Sound, int16[N], with clicks at some times."""
    mixed = sound.astype(np.float64)
    t = np.arange(int(CLICK_S * rate_hz)) / rate_hz
    click = np.sin(2 * np.pi * CLICK_HZ * t) * CLICK_LEVEL * np.hanning(len(t))
    for at_s in times_s:
        start = round(at_s * rate_hz)
        mixed[start : start + len(t)] += click
    return np.clip(mixed, -32768, 32767).astype(np.int16)


def with_clicks(voice: I16, rate_hz: int = SPEECH_RATE_HZ) -> I16:
    """A voice, int16[N], cut to whole seconds, with a click at the start of each."""
    seconds = len(voice) // rate_hz
    return _clicked(voice[: seconds * rate_hz], rate_hz, range(seconds))


def click_times(seconds: float) -> list[float]:
    """When clicks begin in so much sound, s."""
    times = []
    for at_s in accumulate(cycle(GAPS_S), initial=0.5):
        if at_s + CLICK_S > seconds:
            break
        times.append(at_s)
    return times


def clicking(voice: I16, seconds: float) -> I16:
    """A voice, int16[N] at 48 kHz, over and over for so long, with clicks in it."""
    sound = np.resize(voice, round(seconds * PLAYOUT_RATE_HZ))
    return _clicked(sound, PLAYOUT_RATE_HZ, click_times(seconds))


def clicks(levels: F64, times_s: F64) -> F64:
    """When clicks were heard, from loudness at CLICK_HZ, f64[N], and its times."""
    if not len(levels):
        return np.zeros(0)
    loud = np.flatnonzero(levels > 0.4 * np.percentile(levels, 99.8))
    groups = np.split(loud, np.flatnonzero(np.diff(times_s[loud]) > 0.5) + 1) if len(loud) else []
    return np.array([times_s[g[np.argmax(levels[g])]] for g in groups if len(g)])


def click_levels(samples: F64) -> F64:
    """Loudness at CLICK_HZ in each 5 ms of f64[N] at 48 kHz."""
    size = 240
    t = np.arange(size) / 48_000
    tone = np.exp(-2j * np.pi * CLICK_HZ * t) * np.hanning(size)
    return np.asarray(np.abs(samples[: len(samples) // size * size].reshape(-1, size) @ tone))
