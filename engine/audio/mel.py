"""The paper's log-mel, whole and streaming; the two are equal by test.

16 kHz mono -> pre-emphasis -> STFT (800, hop 200, centred, Hann) -> 80 Slaney bands, 55-7600 Hz
-> decibels -> ±4. 80 columns a second; column c is centred on sample 200 * c.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from lipwire.engine.audio.ring import Ring
from lipwire.engine.types import F32, F64, I16, SPEECH_RATE_HZ

N_FFT = 800  # samples: 50 ms
HOP = 200  # samples: 12.5 ms
HALF = N_FFT // 2  # what a centred column needs on either side
N_MELS = 80
MEL_RATE_HZ, _remainder = divmod(SPEECH_RATE_HZ, HOP)
assert _remainder == 0
F_MIN_HZ, F_MAX_HZ = 55.0, 7600.0
PREEMPHASIS = 0.97
WINDOW_COLUMNS = 16  # 200 ms: what the model hears for one frame
MIN_LEVEL_DB, REF_LEVEL_DB = -100.0, 20.0
MAX_ABS = 4.0

# A frame shown at t uses columns from int(80 * (t - 1/25)) on, so the sound that it needs ends
# at most (16 - 1 - 80 / 25) columns plus half an STFT window after t.
PAPER_FPS = 25
LOOKAHEAD_S = ((WINDOW_COLUMNS - 1) / MEL_RATE_HZ) - 1 / PAPER_FPS + HALF / SPEECH_RATE_HZ


def _hz_to_mel(hz: F64) -> F64:
    """Slaney's scale: linear to 1 kHz, logarithmic above."""
    linear = hz / (200.0 / 3)
    logarithmic = 15.0 + np.log(np.maximum(hz, 1.0) / 1000.0) * 27 / np.log(6.4)
    return np.where(hz < 1000.0, linear, logarithmic)


def _mel_to_hz(mel: F64) -> F64:
    return np.where(mel < 15.0, mel * (200.0 / 3), 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27))


@cache
def mel_filters() -> F32:
    """Of this log-mel, f32[80, 401]."""
    return slaney_filters(N_FFT, N_MELS, F_MIN_HZ, F_MAX_HZ)


def slaney_filters(n_fft: int, bands: int, low_hz: float, high_hz: float) -> F32:
    """Triangular filters of unit area (Slaney, 1998) at 16 kHz, f32[bands, n_fft // 2 + 1]."""
    low, high = (float(mel) for mel in _hz_to_mel(np.array([low_hz, high_hz])))
    edges = _mel_to_hz(np.linspace(low, high, bands + 2))
    bins = np.fft.rfftfreq(n_fft, 1 / SPEECH_RATE_HZ)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    return (np.maximum(0, np.minimum(rising, falling)) * area[:, None]).astype(np.float32)


@cache
def _hann() -> F32:
    """Periodic Hann window, f32[800]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


def preemphasise(samples: F32, previous: float = 0.0) -> F32:
    """y[n] = x[n] - 0.97 x[n - 1]; `previous` is the sample before the first."""
    shifted = np.concatenate([np.array([previous], np.float32), samples[:-1]])
    return (samples - np.float32(PREEMPHASIS) * shifted).astype(np.float32)


def _columns(emphasised: F32) -> F32:
    """Log-mel of every full STFT window: f32[n] -> f32[80, (n - 800) // 200 + 1]."""
    windows = np.lib.stride_tricks.sliding_window_view(emphasised, N_FFT)[::HOP]
    magnitude = np.abs(np.fft.rfft(windows * _hann(), axis=1)).astype(np.float32)
    # Not `@`: its BLAS threads spin for a while after every call, on the core that paints mouths.
    mel = np.einsum("bf,cf->bc", mel_filters(), magnitude)
    decibels = 20.0 * np.log10(np.maximum(1e-5, mel)) - REF_LEVEL_DB
    scaled = (decibels - MIN_LEVEL_DB) / -MIN_LEVEL_DB * (2 * MAX_ABS) - MAX_ABS
    return np.clip(scaled, -MAX_ABS, MAX_ABS).astype(np.float32)


# Columns that are kept once they are final: windows go forth, to what is heard next, and back.
KEPT_COLUMNS = 128
SILENCE = -MAX_ABS  # the value of every band when nothing sounds


def log_mel(samples: F32) -> F32:
    """Log-mel of a whole recording.

    Args:
        samples: f32[N] in ±1 at 16 kHz; what lies before and after counts as silence.

    Returns:
        f32[80, N // 200 + 1] in ±4.
    """
    padded = np.pad(preemphasise(np.asarray(samples, np.float32)), HALF)
    return _columns(padded)


def window_start(frame: int) -> int:
    """First mel column of the window of frame `frame` at 25 fps (the paper's rule)."""
    return int(MEL_RATE_HZ * max(frame - 1, 0) / PAPER_FPS)


def window_start_at(time_s: float, columns: int = WINDOW_COLUMNS) -> int:
    """First mel column for a picture shown at `time_s`; from frame 1 on `window_start` at 25 fps.

    More columns than the paper's 16 are more past: where the window ends stays the same.

    Before 0.04 s it is negative: the paper hears frame 0 as frame 1, we hear the silence before.
    """
    # The small number keeps 3.2 * 5 = 15.999… on the right side of the floor.
    first = int(np.floor(MEL_RATE_HZ * (time_s - 1 / PAPER_FPS) + 1e-6))
    return first + WINDOW_COLUMNS - columns


def window(mel: F32, start: int, columns: int = WINDOW_COLUMNS) -> F32:
    """Columns [start, start + C) of a whole recording, silence beyond its ends; f32[80, C]."""
    out = np.full((N_MELS, columns), SILENCE, np.float32)
    low, high = max(start, 0), min(start + columns, mel.shape[1])
    if low < high:
        out[:, low - start : high - start] = mel[:, low:high]
    return out


class MelStream:
    """The streaming twin of `log_mel`: append sound in any pieces, read any recent window.

    Sound lives at absolute sample indices from 0; a range that was never written is silence to
    the one who writes it (`append_silence`). `truncate` takes back what has not been heard yet.

    Args:
        seconds: how much sound is remembered.
    """

    def __init__(self, seconds: float = 4.0) -> None:
        self._samples = Ring(int(seconds * SPEECH_RATE_HZ) + N_FFT, (), np.int16)
        # The half window of silence that a centred STFT sees before the first sample, and the
        # sample before it that the pre-emphasis sees.
        self._lead = HALF + 1
        self._samples.append(np.zeros(self._lead, np.int16))
        # Of the last windows: the next ones share most of them.
        self._known, self._known_from = np.zeros((N_MELS, 0), np.float32), 0

    @property
    def stop(self) -> int:
        """Absolute index one past the newest sample."""
        return self._samples.stop - self._lead

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._samples.nbytes

    @property
    def columns(self) -> int:
        """How many columns are final: no sound still to come can change them."""
        return max(0, (self.stop - HALF) // HOP + 1)

    def append(self, samples: I16) -> None:
        """Add sound, int16[N] at 16 kHz."""
        self._samples.append(samples)

    def append_silence(self, count: int) -> None:
        """Add `count` samples of silence."""
        for done in range(0, count, SPEECH_RATE_HZ):
            self._samples.append(np.zeros(min(SPEECH_RATE_HZ, count - done), np.int16))

    def truncate(self, stop: int) -> None:
        """Forget the sound from absolute sample `stop` on."""
        self._samples.truncate(stop + self._lead)
        self._known = self._known[:, :0]

    def forget(self, start: int) -> None:
        """Forget the sound before absolute sample `start`; what is missing up to it is silence."""
        self._samples.forget(start)  # the lead of a window at `start` stays
        self.append_silence(max(0, start - self.stop))

    def window(self, start: int, columns: int = WINDOW_COLUMNS) -> F32:
        """Columns [start, start + C), f32[80, C]; columns before 0 are silence.

        Raises:
            IndexError: the sound of some column has not come yet or is forgotten.
        """
        out = np.full((N_MELS, columns), SILENCE, np.float32)
        first = max(start, 0)
        count = start + columns - first
        if count > 0:
            # Column c spans [200 c - 400, 200 c + 400), one sample earlier for the pre-emphasis.
            begin = first * HOP - HALF - 1 + self._lead
            sound = self._samples.read(begin, begin + 1 + (count - 1) * HOP + N_FFT)
            if not self._known_from <= first <= self._known_from + self._known.shape[1]:
                self._known, self._known_from = self._known[:, :0], first
            ready = self._known_from + self._known.shape[1] - first  # columns of this window
            if ready < count:
                rest = preemphasise(sound[ready * HOP :].astype(np.float32) / 32768.0)[1:]
                known = np.concatenate([self._known, _columns(rest)], axis=1)
                old = max(known.shape[1] - max(KEPT_COLUMNS, count), 0)
                self._known, self._known_from = known[:, old:], self._known_from + old
            left = first - self._known_from
            out[:, -count:] = self._known[:, left : left + count]
        return out
