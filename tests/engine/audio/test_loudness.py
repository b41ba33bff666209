"""Loudness as BS.1770 has it, a gain that is gentle, peaks that stay below the ceiling."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from fakes import voiced
from hypothesis import given, settings
from hypothesis import strategies as st

from lipwire.engine.audio.loudness import (
    BLOCK,
    CEILING,
    CONTEXT,
    MAX_GAIN_DB,
    SLEW_DB_S,
    STEP,
    LoudnessNormalizer,
    gated,
    limit,
    lufs,
    power,
)
from lipwire.engine.types import F32


def sine(hz: float, level_db: float, seconds: float = 1.0) -> F32:
    t = np.arange(round(seconds * 48_000)) / 48_000
    return np.asarray(10 ** (level_db / 20) * np.sin(2 * np.pi * hz * t), np.float32)


def loudness(sound: F32) -> float:
    """Of all of it, in gating blocks of 400 ms."""
    powers = np.array([power(s) for s in sound[: len(sound) // STEP * STEP].reshape(-1, STEP)])
    return gated(np.convolve(powers, np.ones(4) / 4, "valid"))


def test_a_full_scale_tone_of_997_hz_is_minus_3_01_lufs() -> None:
    """BS.1770-4: the one value that it states."""
    assert loudness(sine(997, 0.0)) == pytest.approx(-3.01, abs=0.02)
    assert loudness(sine(997, -20.0)) == pytest.approx(-23.01, abs=0.02)


def test_low_sound_counts_less_and_high_sound_more() -> None:
    assert loudness(sine(40, -20)) < -28
    assert loudness(sine(8_000, -20)) == pytest.approx(-20.0 - 3.01 + 3.3, abs=0.4)


def test_pauses_do_not_count() -> None:
    sound = np.concatenate([sine(997, -20, 5), np.zeros(48_000 * 20, np.float32)])
    assert loudness(sound) == pytest.approx(-23.01, abs=0.6)
    assert loudness(np.zeros(48_000, np.float32)) == float("-inf")


def levelled(sound: F32, target_lufs: float) -> F32:
    levelling = LoudnessNormalizer(target_lufs)
    return np.concatenate([levelling.apply(b) for b in sound.reshape(-1, BLOCK)])


@pytest.mark.parametrize("level_db", [-30, -18, -6])
def test_a_voice_is_brought_to_its_loudness_slowly(level_db: float) -> None:
    sound = voiced(20.0, 48_000).astype(np.float32) / 32768
    sound *= 10 ** ((level_db - loudness(sound)) / 20)
    out = levelled(sound, -20.0)
    wanted = float(np.clip(-20.0, level_db - MAX_GAIN_DB, level_db + MAX_GAIN_DB))
    assert loudness(out[-48_000 * 5 :]) == pytest.approx(wanted, abs=0.7)
    gain_db = 20 * np.log10(np.maximum(np.abs(out), 1e-9) / np.maximum(np.abs(sound), 1e-9))
    steady = gain_db[np.abs(sound) > 0.01]
    assert np.abs(np.diff(steady)).max() < 0.05
    assert np.abs(steady[: BLOCK * 30]).max() < SLEW_DB_S * 0.5


def test_another_target_or_none_is_reached_without_a_step() -> None:
    sound = 0.4 * voiced(20.0, 48_000).astype(np.float32) / 32768
    levelling, gains_db = LoudnessNormalizer(-20.0), []
    for index, block in enumerate(sound.reshape(-1, BLOCK)):
        if index in (700, 1_200):
            levelling.target_lufs = -26.0 if index == 700 else None
        levelling.apply(block)
        gains_db.append(levelling.gain_db)
    assert np.abs(np.diff(gains_db)).max() <= SLEW_DB_S / 100 + 1e-6
    assert gains_db[600] - gains_db[1_100] == pytest.approx(6.0, abs=1.0)
    assert gains_db[-1] == 0.0 and levelling.resting


def test_silence_and_hiss_are_not_turned_up() -> None:
    rng = np.random.default_rng(0)
    hiss = rng.normal(0, 1e-4, 48_000 * 5).astype(np.float32)
    assert np.array_equal(levelled(hiss, -20.0), hiss)


def true_peak(sound: F32) -> float:
    return float(np.abs(soxr.resample(sound, 48_000, 384_000)).max())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), gain=st.floats(0.1, 4.0))
def test_nothing_is_above_the_ceiling_even_between_samples(seed: int, gain: float) -> None:
    rng = np.random.default_rng(seed)
    sound = voiced(0.5, 48_000, seed % 5).astype(np.float32) / 20_000 * np.float32(gain)
    sound *= rng.choice([0.2, 1.0], 25).repeat(960)
    padded = np.pad(sound, CONTEXT)
    whole = limit(padded)
    assert np.abs(whole).max() <= CEILING + 1e-6
    assert true_peak(whole) <= 10 ** (-0.5 / 20)  # half a decibel of the one that is kept
    # In any pieces the same.
    cuts = np.sort(rng.integers(0, len(sound), 9))
    pieces = [
        limit(padded[a : b + 2 * CONTEXT])
        for a, b in zip([0, *cuts], [*cuts, len(sound)], strict=True)
        if b > a
    ]
    assert np.allclose(np.concatenate(pieces), whole, atol=2e-6)


def test_a_peak_between_samples_is_found() -> None:
    """A tone at a quarter of the rate, sampled 45 degrees off its crests, hides 3 dB."""
    t = np.arange(4_800)
    tone = np.asarray(1.2 * np.sin(np.pi / 2 * t + np.pi / 4), np.float32)
    assert np.abs(tone).max() < CEILING
    assert true_peak(limit(np.pad(tone, CONTEXT))[400:-400]) < 10 ** (-0.8 / 20)


def test_quiet_sound_passes_bit_by_bit() -> None:
    sound = sine(440, -8)
    assert np.array_equal(limit(sound), sound[CONTEXT:-CONTEXT])


def test_loudness_of_nothing() -> None:
    assert lufs(0.0) < -100
