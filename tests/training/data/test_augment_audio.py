from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lipwire.engine.types import F32, SPEECH_RATE_HZ
from lipwire.training.data.augment_audio import (
    NOISES,
    add_noise,
    band_limit,
    companded,
    degrade,
    gained,
    losses,
    low_bitrate,
    make_noise,
    room,
    speech_level,
)


def _rng() -> np.random.Generator:
    return np.random.default_rng(3)


def _voice(seconds: float = 2.0) -> F32:
    """Bursts of a buzzing vowel with pauses between, f32[N]."""
    times_s = np.arange(int(seconds * SPEECH_RATE_HZ)) / SPEECH_RATE_HZ
    buzz = sum(np.sin(2 * np.pi * 140 * n * times_s) / n for n in range(1, 40))
    gate = (times_s % 0.5 < 0.3).astype(np.float64)
    return (0.2 * np.asarray(buzz) * gate).astype(np.float32)


def _rms(sound: F32) -> float:
    return float(np.sqrt(np.mean(np.square(sound))))


@pytest.mark.parametrize("kind", NOISES)
def test_noises_have_unit_level_and_a_seed(kind: str) -> None:
    a, b = (make_noise(kind, 16_000, _rng()) for _ in range(2))
    assert a.dtype == np.float32 and np.array_equal(a, b)
    assert _rms(a) == pytest.approx(1, abs=1e-3)


def test_unknown_noise() -> None:
    with pytest.raises(ValueError, match="'whale'"):
        make_noise("whale", 10, _rng())


def test_pink_falls_by_ten_decibels_a_decade() -> None:
    power = np.abs(np.fft.rfft(make_noise("pink", 160_000, _rng()))) ** 2
    low, high = power[1000:2000].mean(), power[10_000:20_000].mean()
    assert 10 * np.log10(low / high) == pytest.approx(10, abs=0.5)


def test_noise_lies_where_it_was_asked_for() -> None:
    voice = _voice()
    noisy = add_noise(voice, make_noise("white", len(voice), _rng()), snr_db=12)
    snr_db = 20 * np.log10(speech_level(voice) / _rms(noisy - voice))
    assert snr_db == pytest.approx(12, abs=0.1)


def test_a_room_rings_after_the_voice_and_delays_nothing() -> None:
    click = np.zeros(16_000, np.float32)
    click[1000] = 0.5
    wet = room(click, _rng(), rt60_s=0.5, reverberant_db=-3)
    assert np.abs(wet[:1000]).max() < 1e-4 and np.abs(wet).argmax() == 1000
    early, late = _rms(wet[1100:2100]), _rms(wet[5000:6000])
    assert 20 * np.log10(early / late) == pytest.approx(60 * 3900 / 8000, abs=4)


def test_a_telephone_keeps_its_band_alone() -> None:
    white = make_noise("white", 32_000, _rng())
    power = np.abs(np.fft.rfft(band_limit(white, 300, 3400))) ** 2
    hz = np.fft.rfftfreq(32_000, 1 / SPEECH_RATE_HZ)
    inside = power[(hz > 600) & (hz < 2500)].mean()
    assert power[hz < 100].mean() < 0.01 * inside and power[hz > 6000].mean() < 0.01 * inside


def test_companding_is_coarser_with_fewer_bits() -> None:
    voice = _voice()
    errors = [_rms(companded(voice, bits) - voice) for bits in (6, 8)]
    assert 0 < errors[1] < errors[0] / 2 < 0.05


def test_low_bitrate_is_exact_with_all_bins_and_lossy_with_few() -> None:
    voice = _voice()
    assert np.abs(low_bitrate(voice, 1.0) - voice).max() < 1e-5
    assert 0.01 < _rms(low_bitrate(voice, 0.05) - voice) / _rms(voice) < 0.7


def test_lost_packets_are_silent() -> None:
    ones = np.ones(160_000, np.float32)
    assert losses(ones, _rng(), 0.2).mean() == pytest.approx(0.8, abs=0.05)


def test_gain_saturates_softly() -> None:
    loud = gained(np.linspace(-1, 1, 1001, dtype=np.float32), 12)
    assert np.abs(loud).max() <= 1 and (np.diff(loud) >= 0).all()
    assert gained(np.full(4, 0.01, np.float32), 20) == pytest.approx(0.1)


@pytest.mark.parametrize("seed", range(12))
def test_degraded_voices_keep_length_timing_and_seed(seed: int) -> None:
    voice = _voice()
    draw: Callable[[], F32] = lambda: degrade(voice, np.random.default_rng(seed), (voice[::-1],))  # noqa: E731
    out = draw()
    assert out.shape == voice.shape and out.dtype == np.float32 and np.isfinite(out).all()
    assert np.array_equal(out, draw())
    # Where the voice is loudest the result is, too: nothing was moved by as much as a frame.
    spectrum = np.fft.rfft(out, 65536) * np.conj(np.fft.rfft(voice, 65536))
    lag = int(np.fft.irfft(spectrum).argmax())
    assert min(lag, 65536 - lag) < 16
