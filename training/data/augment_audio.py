"""Voices as microphones, rooms and networks deliver them.

All but the last take and give f32[N] in ±1 at 16 kHz, of the same length and without delay (what
moves a mouth must stay where it is); all draw from the generator that they are given.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.audio.mel import MAX_ABS
from lipwire.engine.types import F32, SPEECH_RATE_HZ

NOISES = ("white", "pink", "brown", "hum", "clicks", "chord", "breath")


def _shaped(count: int, gain: F32, rng: np.random.Generator) -> F32:
    """Gaussian noise with an amplitude spectrum, f32[count // 2 + 1]."""
    spectrum = np.fft.rfft(rng.standard_normal(count)) * gain
    return np.fft.irfft(spectrum, count).astype(np.float32)


def _normalised(sound: F32) -> F32:
    return np.asarray(sound / (np.sqrt(np.mean(np.square(sound))) + 1e-9), np.float32)


def make_noise(kind: str, count: int, rng: np.random.Generator) -> F32:
    """Something that is not a voice, f32[count] with a root mean square of 1.

    Raises:
        ValueError: the kind is not one of `NOISES`.
    """
    hz = np.fft.rfftfreq(count, 1 / SPEECH_RATE_HZ)
    times_s = np.arange(count) / SPEECH_RATE_HZ
    if kind in ("white", "pink", "brown"):
        slope = {"white": 0.0, "pink": 0.5, "brown": 1.0}[kind]
        sound = _shaped(count, (np.maximum(hz, 20) ** -slope).astype(np.float32), rng)
    elif kind == "hum":
        base = rng.choice([50.0, 60.0])
        sound = np.zeros(count, np.float32)
        for harmonic in range(1, 12):
            phase, level = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1) / harmonic
            sound += (level * np.sin(2 * np.pi * base * harmonic * times_s + phase)).astype("f4")
    elif kind == "clicks":  # keys, knocks, cutlery
        sound = np.zeros(count, np.float32)
        for start in rng.integers(
            0, count, max(1, int(count / SPEECH_RATE_HZ * rng.uniform(1, 6)))
        ):
            length = min(count - start, int(rng.uniform(0.005, 0.06) * SPEECH_RATE_HZ))
            decay = np.exp(-np.arange(length) / max(1, length / 6))
            sound[start : start + length] += (
                rng.standard_normal(length) * decay * rng.uniform(0.3, 1)
            )
    elif kind == "chord":  # music that swells
        sound = np.zeros(count, np.float32)
        root = rng.uniform(80, 400)
        for ratio in rng.choice([1, 1.2, 1.25, 1.5, 2, 2.5, 3], 4):
            tone = np.sin(2 * np.pi * root * ratio * times_s + rng.uniform(0, 6))
            swell = 1 + 0.6 * np.sin(2 * np.pi * rng.uniform(0.2, 3) * times_s + rng.uniform(0, 6))
            sound += (tone * swell).astype(np.float32)
    elif kind == "breath":
        band = np.exp(-(((hz - rng.uniform(800, 2500)) / 1200) ** 2)).astype(np.float32)
        rise = np.clip(
            np.sin(2 * np.pi * rng.uniform(0.25, 0.6) * times_s + rng.uniform(0, 6)), 0, 1
        )
        sound = _shaped(count, band, rng) * (rise + 0.01).astype(np.float32)
    else:
        raise ValueError(f"{kind!r} is not a noise: {', '.join(NOISES)}")
    return _normalised(sound)


def speech_level(speech: F32) -> float:
    """Root mean square of the loud parts: pauses must not make a voice count as quiet."""
    frames = speech[: len(speech) // 320 * 320].reshape(-1, 320)
    if not len(frames):
        return float(np.sqrt(np.mean(np.square(speech)))) if len(speech) else 0.0
    power = np.square(frames).mean(1)
    return float(np.sqrt(power[power >= 0.05 * power.max()].mean()))


def add_noise(speech: F32, noise: F32, snr_db: float) -> F32:
    """The voice with a noise of root mean square 1 under it, `snr_db` below its own level."""
    level = speech_level(speech) * 10 ** (-snr_db / 20)
    return np.asarray(speech + noise[: len(speech)] * np.float32(level), np.float32)


def room(speech: F32, rng: np.random.Generator, rt60_s: float, reverberant_db: float) -> F32:
    """Reverberation: the direct sound, then noise that decays by 60 dB in `rt60_s`.

    Args:
        speech: f32[N].
        rng: draws the room.
        rt60_s: 0.2 is an office, 0.8 a hall.
        reverberant_db: energy of the tail against the direct sound.
    """
    length = int(rt60_s * SPEECH_RATE_HZ)
    tail = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    tail[: int(0.002 * SPEECH_RATE_HZ)] = 0  # the nearest wall is a foot away
    tail *= 10 ** (reverberant_db / 20) / np.sqrt(np.square(tail).sum())
    tail[0] = 1  # the direct sound: no delay
    size = 1 << (len(speech) + length - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(tail, size), size)[
        : len(speech)
    ].astype(np.float32)
    return np.asarray(wet * (speech_level(speech) / (speech_level(wet) + 1e-9)), np.float32)


def band_limit(speech: F32, low_hz: float, high_hz: float) -> F32:
    """Without what lies below and above, with slopes of a third of an octave and zero phase."""
    hz = np.maximum(np.fft.rfftfreq(len(speech), 1 / SPEECH_RATE_HZ), 1e-3)
    slope = 3.0  # per octave
    gain = 1 / (1 + 2.0 ** (-slope * 4 * np.log2(hz / low_hz)))
    gain /= 1 + 2.0 ** (slope * 4 * np.log2(hz / high_hz))
    return np.fft.irfft(np.fft.rfft(speech) * gain, len(speech)).astype(np.float32)


def companded(speech: F32, bits: int) -> F32:
    """Quantised as in telephony (G.711's mu-law curve), 8 bits or coarser."""
    mu, steps = 255.0, 2.0 ** (bits - 1)
    curve = np.sign(speech) * np.log1p(mu * np.minimum(np.abs(speech), 1)) / np.log1p(mu)
    curve = np.round(curve * steps) / steps
    return (np.sign(curve) * np.expm1(np.abs(curve) * np.log1p(mu)) / mu).astype(np.float32)


def low_bitrate(speech: F32, kept: float) -> F32:
    """As a transform codec short of bits: of every block only the strongest bins are kept.

    Args:
        speech: f32[N].
        kept: share of the bins that survive, 0 to 1.
    """
    size, hop = 512, 256
    window = np.sqrt(np.hanning(size + 1)[:-1])  # squared and overlapped by half it sums to one
    padded = np.pad(speech, (hop, size))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    spectra = np.fft.rfft(blocks * window, axis=1)
    strength = np.abs(spectra)
    floor = np.quantile(strength, 1 - kept, axis=1, keepdims=True)
    blocks = np.fft.irfft(np.where(strength >= floor, spectra, 0), size, axis=1) * window
    out = np.zeros(len(padded))
    for phase in range(2):  # blocks two apart do not overlap
        part = blocks[phase::2].reshape(-1)
        out[phase * hop : phase * hop + len(part)] += part
    return out[hop : hop + len(speech)].astype(np.float32)


def losses(speech: F32, rng: np.random.Generator, share: float) -> F32:
    """Packets of 20 ms that never came, `share` of them, faded out and in over 2 ms."""
    size, fade = 320, 32
    lost = np.repeat(rng.random(-(-len(speech) // size)) < share, size)[: len(speech)]
    gain = np.convolve(1.0 - lost, np.ones(fade) / fade, "same")
    return np.asarray(speech * gain, np.float32)


def gained(speech: F32, db: float) -> F32:
    """Louder or softer; what would leave ±1 saturates softly, as preamplifiers do."""
    loud = speech * np.float32(10 ** (db / 20))
    over = np.abs(loud) > 0.8
    loud[over] = np.sign(loud[over]) * (0.8 + 0.2 * np.tanh((np.abs(loud[over]) - 0.8) / 0.2))
    return np.asarray(loud, np.float32)


def degrade(speech: F32, rng: np.random.Generator, others: tuple[F32, ...] = ()) -> F32:
    """One draw of everything: room, noise or people behind, band, codec, losses, gain.

    About a quarter of the draws change nothing but the loudness.

    Args:
        speech: f32[N].
        rng: draws it all.
        others: voices to murmur in the background, any length.
    """
    out = speech.astype(np.float32)
    if rng.random() < 0.45:
        out = room(out, rng, rt60_s=rng.uniform(0.12, 0.9), reverberant_db=rng.uniform(-18, 0))
    if rng.random() < 0.5:
        noise = make_noise(str(rng.choice(NOISES)), len(out), rng)
        out = add_noise(out, noise, snr_db=rng.uniform(3, 35))
    if others and rng.random() < 0.15:
        murmur = sum(np.resize(other, len(out)) for other in others)
        out = add_noise(out, _normalised(np.asarray(murmur, np.float32)), rng.uniform(10, 30))
    if rng.random() < 0.25:
        out = band_limit(out, rng.uniform(50, 350), rng.uniform(3000, 7500))
    kind = rng.random()
    if kind < 0.1:
        out = companded(out, int(rng.integers(6, 9)))
    elif kind < 0.25:
        out = low_bitrate(out, rng.uniform(0.08, 0.4))
    if rng.random() < 0.05:
        out = losses(out, rng, rng.uniform(0.01, 0.08))
    return gained(out, rng.uniform(-18, 6))


def louder_or_noisier(mel: F32, gain_db: float, rng: np.random.Generator) -> F32:
    """A log-mel spectrogram at another loudness, and for one in five over a noise floor.

    Args:
        mel: f32[80, C] in ±4.
        gain_db: loudness is uniform from -1.2 to 0.8 of it: recordings clip sooner than they fade.
        rng: draws both.
    """
    db = MAX_ABS / 50  # mel units a decibel: 100 dB span ±4
    mel = mel + np.float32(rng.uniform(-1.2 * gain_db, 0.8 * gain_db) * db)
    if rng.random() < 0.2:
        mel = np.maximum(mel, np.float32(rng.uniform(-MAX_ABS, -1.5)))
    return np.clip(mel, -MAX_ABS, MAX_ABS).astype(np.float32)
