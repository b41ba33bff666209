"""The log-mel: against reference numbers, and streaming against offline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipwire.engine.audio.mel import (
    HALF,
    HOP,
    LOOKAHEAD_S,
    MEL_RATE_HZ,
    N_MELS,
    SILENCE,
    WINDOW_COLUMNS,
    MelStream,
    log_mel,
    mel_filters,
    window,
    window_start,
    window_start_at,
)
from lipwire.engine.types import F32, I16, SPEECH_RATE_HZ


def sound(count: int, seed: int = 0) -> I16:
    """Noise with a beat, so that no two stretches are alike."""
    rng = np.random.default_rng(seed)
    level = 9000 * (1.1 + np.sin(np.arange(count) / 700))
    return np.asarray(rng.normal(0, 0.3, count) * level, np.int16)


def as_float(samples: I16) -> F32:
    return samples.astype(np.float32) / 32768.0


def test_equals_the_reference(shared_dir: Path) -> None:
    with np.load(shared_dir / "goldens" / "mel.npz") as golden:
        found = log_mel(golden["wave"])
        assert found.shape == golden["mel"].shape
        assert np.abs(found - golden["mel"]).max() < 1e-3


def test_constants_are_the_papers() -> None:
    assert MEL_RATE_HZ == 80
    assert pytest.approx(0.1725) == LOOKAHEAD_S
    assert mel_filters().shape == (80, 401)
    assert np.all(mel_filters().sum(1) > 0)  # no band falls between two bins


def test_a_tone_lands_in_its_band_and_levels_follow_decibels() -> None:
    time_s = np.arange(16_000) / SPEECH_RATE_HZ
    tone = np.asarray(0.1 * np.sin(2 * np.pi * 1000 * time_s), np.float32)
    middle = log_mel(tone)[:, 40]
    bins = np.fft.rfftfreq(800, 1 / SPEECH_RATE_HZ)
    centre_hz = (mel_filters() * bins).sum(1) / mel_filters().sum(1)
    assert abs(centre_hz[middle.argmax()] - 1000) < 60
    louder = log_mel(tone * np.float32(2))[:, 40]
    # 6.02 dB of 100 dB that span ±4
    assert louder.max() - middle.max() == pytest.approx(20 * np.log10(2) / 100 * 8, abs=1e-4)


def test_silence_is_the_floor_and_nothing_leaves_the_range() -> None:
    assert np.all(log_mel(np.zeros(4000, np.float32)) == SILENCE)
    loud = log_mel(np.sign(np.sin(np.arange(16_000) / 9)).astype(np.float32))
    assert np.abs(loud).max() <= 4.0
    assert log_mel(np.zeros(0, np.float32)).shape == (N_MELS, 1)


def test_window_start_follows_the_papers_rule() -> None:
    for frame in range(1, 100_000, 7):
        assert window_start(frame) == int(80 * max(frame - 1, 0) / 25)
        assert window_start_at(frame / 25) == window_start(frame)
    assert window_start(0) == 0


@given(time_s=st.floats(0, 36_000))
def test_no_window_reaches_past_the_lookahead(time_s: float) -> None:
    last = window_start_at(time_s) + WINDOW_COLUMNS - 1
    assert last * HOP + HALF <= (time_s + LOOKAHEAD_S) * SPEECH_RATE_HZ + 1e-3


def pieces(samples: I16, seed: int) -> list[I16]:
    """The same sound in random pieces, some of a single sample and some empty."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, len(samples) + 1, int(rng.integers(1, 60))))
    return list(np.split(samples, cuts))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(3200, 30_000),
    start=st.integers(-20, 200),
    columns=st.sampled_from((WINDOW_COLUMNS, 24, 40)),
)
def test_streaming_equals_offline(seed: int, count: int, start: int, columns: int) -> None:
    samples = sound(count, seed)
    stream = MelStream(seconds=2.0)
    for piece in pieces(samples, seed):
        stream.append(piece)
    stop = (start + columns - 1) * HOP + HALF
    if start * HOP - HALF < stream.stop - 2 * SPEECH_RATE_HZ and start > 0:
        return  # forgotten by now; another test asks for that
    if stop > count:
        stream.append_silence(stop - count)
        samples = np.concatenate([samples, np.zeros(stop - count, np.int16)])
    whole = log_mel(as_float(samples))
    if stop >= 0:
        found = stream.window(start, columns)
        assert found.shape == (N_MELS, columns)
        assert np.abs(found - window(whole, start, columns)).max() < 1e-6


def test_more_columns_are_more_past() -> None:
    whole = log_mel(as_float(sound(32_000)))
    paper = window(whole, window_start_at(1.0))
    longer = window(whole, window_start_at(1.0, 24), 24)
    assert np.array_equal(longer[:, 8:], paper)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), cut=st.integers(0, 16_000), back=st.integers(0, 9000))
def test_what_is_taken_back_and_rewritten_leaves_no_trace(seed: int, cut: int, back: int) -> None:
    first, second = sound(cut, seed), sound(16_000, seed + 1)
    stop = max(0, cut - back)
    stream = MelStream(seconds=4.0)
    for piece in pieces(first, seed):
        stream.append(piece)
    stream.truncate(stop)
    assert stream.stop == stop
    for piece in pieces(second, seed):
        stream.append(piece)
    whole = log_mel(as_float(np.concatenate([first[:stop], second])))
    for start in range(0, stream.columns - WINDOW_COLUMNS + 1, 7):
        assert np.abs(stream.window(start) - window(whole, start)).max() < 1e-6


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), columns=st.sampled_from((WINDOW_COLUMNS, 24)))
def test_a_window_does_not_depend_on_the_windows_before_it(seed: int, columns: int) -> None:
    rng, stream = np.random.default_rng(seed), MelStream(seconds=4.0)
    samples = sound(24_000, seed)
    stream.append(samples)
    for turn in range(12):
        start = int(rng.integers(-30, stream.columns - columns + 1))
        alone = MelStream(seconds=4.0)
        alone.append(samples)
        assert np.array_equal(stream.window(start, columns), alone.window(start, columns))
        if turn % 4 == 3:  # what was taken back is heard no more
            cut = int(rng.integers(12_000, 24_000))
            stream.truncate(cut)
            samples = np.concatenate([samples[:cut], sound(24_000 - cut, seed + turn)])
            stream.append(samples[cut:])


def test_final_columns_do_not_change_with_what_comes() -> None:
    samples = sound(8000)
    stream = MelStream()
    assert stream.columns == 0
    stream.append(samples[:6000])
    final = stream.columns
    assert final == (6000 - HALF) // HOP + 1
    before = stream.window(final - WINDOW_COLUMNS)
    with pytest.raises(IndexError):
        stream.window(final - WINDOW_COLUMNS + 1)
    stream.append(samples[6000:])
    assert np.array_equal(stream.window(final - WINDOW_COLUMNS), before)


def test_forgotten_and_missing_sound_is_an_error() -> None:
    stream = MelStream(seconds=1.0)
    stream.append(sound(64_000))
    with pytest.raises(IndexError):
        stream.window(0)
    with pytest.raises(IndexError):
        stream.window(64_000 // HOP)


def test_forgetting_keeps_the_windows_after_it_and_may_leap_ahead() -> None:
    samples = sound(40_000)
    stream = MelStream(seconds=60.0)
    stream.append(samples)
    whole = window(log_mel(as_float(samples)), 82)
    stream.forget(80 * HOP)
    assert np.abs(stream.window(82) - whole).max() < 1e-6
    with pytest.raises(IndexError):
        stream.window(70)
    stream.forget(10_000_000)
    assert stream.stop == 10_000_000
    stream.append(samples)
    later = np.concatenate([np.zeros(20_000, np.int16), samples])
    assert stream.nbytes < 300_000
    start = 10_000_000 // HOP
    found = stream.window(start + 3)
    assert np.abs(found - window(log_mel(as_float(later)), 103)).max() < 1e-6


def test_windows_before_the_beginning_are_silence() -> None:
    stream = MelStream()
    stream.append(sound(4000))
    assert np.all(stream.window(-16) == SILENCE)
    assert np.all(stream.window(-100) == SILENCE)
    half = stream.window(-8)
    assert np.all(half[:, :8] == SILENCE)
    assert np.any(half[:, 8:] > SILENCE)
