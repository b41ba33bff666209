"""How loud a voice is, and how to keep it even: BS.1770 loudness, a slow gain, a limiter.

ITU-R BS.1770-4: K-weighting, mean square over 400 ms every 100 ms, gates at -70 LUFS and 10 LU
below the mean of the rest. The weights are applied to the spectrum of each 100 ms, so that no
filter has a state to carry.
"""

from __future__ import annotations

from collections import deque
from functools import cache

import numpy as np

from lipwire.engine.types import F32, F64, PLAYOUT_RATE_HZ

BLOCK = PLAYOUT_RATE_HZ // 100  # 10 ms: gains are straight lines over one
STEP = PLAYOUT_RATE_HZ // 10  # 100 ms
STEPS = 4  # of them make a gating block
ABSOLUTE_GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
# Loudness is that of the last so much of speech. Less: the gain follows phrases and pumps; more:
# another speaker keeps the gain of the last one.
MEMORY_S = 10.0
SLEW_DB_S = 3.0  # faster is heard as pumping; slower leaves a whole sentence too loud
# More gain would raise the noise of a bad recording to the level of speech.
MAX_GAIN_DB = 12.0
CEILING = 10 ** (-1 / 20)  # of full scale: -1 dBTP, EBU R 128's limit
LOOKAHEAD = PLAYOUT_RATE_HZ // 200  # 5 ms: shorter distorts low voices, longer is heard before
TAPS = 8  # on either side of a point between samples
CONTEXT = LOOKAHEAD + TAPS
"""samples that `limit` must see before and after those that it returns"""


@cache
def _weights() -> F64:
    """Power response of the K-weighting (BS.1770-4, tables 1 and 2) at a step's bins, f64[2401]."""
    z = np.exp(-2j * np.pi * np.arange(STEP // 2 + 1) / STEP)
    shelf = (1.53512485958697 - 2.69169618940638 * z + 1.19839281085285 * z**2) / (
        1 - 1.69065929318241 * z + 0.73248077421585 * z**2
    )
    highpass = (1 - z) ** 2 / (1 - 1.99004745483398 * z + 0.99007225036621 * z**2)
    sides = np.full(len(z), 2.0)  # the spectrum's other half
    sides[[0, -1]] = 1.0
    return np.asarray(sides * np.abs(shelf * highpass) ** 2 / STEP**2)


def power(step: F32) -> float:
    """K-weighted mean square of f32[4800] in ±1 at 48 kHz."""
    return float((np.abs(np.fft.rfft(step)) ** 2 * _weights()).sum())


def lufs(power: float) -> float:
    """Loudness of a mean square, BS.1770-4 eq. 2 for one channel."""
    return -0.691 + 10 * float(np.log10(max(power, 1e-12)))


def gated(blocks: F64) -> float:
    """Loudness of gating blocks' mean squares, f64[N]: BS.1770-4 eq. 7; -inf if all are silent."""
    loud = blocks[blocks > 10 ** ((ABSOLUTE_GATE_LUFS + 0.691) / 10)]
    if not len(loud):
        return float("-inf")
    return lufs(float(loud[loud >= loud.mean() * 10 ** (RELATIVE_GATE_LU / 10)].mean()))


class LoudnessNormalizer:
    """A gain that brings a voice slowly to a loudness; it rests while the voice does.

    Args:
        target_lufs: of the voice; None returns it to how it comes.
    """

    def __init__(self, target_lufs: float | None) -> None:
        self.target_lufs = target_lufs
        """may be changed at any time"""
        self._step = np.zeros(STEP, np.float32)
        self._filled = 0
        self._powers: deque[float] = deque(maxlen=STEPS)
        self._blocks: deque[float] = deque(maxlen=round(MEMORY_S * PLAYOUT_RATE_HZ / STEP))
        self._found_lufs: float | None = None
        self.gain_db = 0.0

    @property
    def resting(self) -> bool:
        """Whether the voice passes as it comes."""
        return self.target_lufs is None and self.gain_db == 0.0

    def apply(self, block: F32) -> F32:
        """The next f32[480] of the voice in ±1, with the gain that what came before asks for."""
        before_db = self.gain_db
        if np.abs(block).max() > 1e-3:  # the gain moves under a voice only, not in its pauses
            most = SLEW_DB_S * BLOCK / PLAYOUT_RATE_HZ
            goal_db = 0.0 if self.target_lufs is None else self._goal_db(self.target_lufs)
            self.gain_db += float(np.clip(goal_db - self.gain_db, -most, most))
        if self.target_lufs is not None:
            self._listen(block)
        if before_db == self.gain_db == 0.0:
            return block
        ramp_db = np.linspace(before_db, self.gain_db, BLOCK + 1)[1:]
        return np.asarray(block * 10 ** (ramp_db / 20), np.float32)

    def _listen(self, block: F32) -> None:
        self._step[self._filled : self._filled + BLOCK] = block
        self._filled = (self._filled + BLOCK) % STEP
        if self._filled:
            return
        self._powers.append(power(self._step) if self._step.any() else 0.0)
        if len(self._powers) == STEPS:
            mean = sum(self._powers) / STEPS
            if lufs(mean) > ABSOLUTE_GATE_LUFS:
                self._blocks.append(mean)
                self._found_lufs = gated(np.array(self._blocks))

    def _goal_db(self, target_lufs: float) -> float:
        if self._found_lufs is None:
            return 0.0
        return float(np.clip(target_lufs - self._found_lufs, -MAX_GAIN_DB, MAX_GAIN_DB))


@cache
def _between() -> F32:
    """Interpolation at a quarter, half and three quarters of a sample, f32[3, 16]."""
    at = np.array([0.25, 0.5, 0.75])[:, None] - np.arange(1 - TAPS, TAPS + 1)
    return np.asarray(np.sinc(at) * np.cos(np.pi * at / (2 * TAPS + 1)) ** 2, np.float32)


def true_peaks(sound: F32) -> F32:
    """The largest magnitude around each sample, f32[N] -> f32[N - 16] (BS.1770-4, annex 2)."""
    windows = np.lib.stride_tricks.sliding_window_view(sound, 2 * TAPS)
    points = np.abs(np.einsum("nk,pk->pn", windows, _between())).max(0)  # after sample n + 7
    here = np.abs(sound[TAPS:-TAPS])
    return np.maximum(here, np.maximum(points[:-1], points[1:]))


def limit(sound: F32) -> F32:
    """Keep true peaks below the ceiling, the gain falling and rising over 5 ms.

    Args:
        sound: f32[CONTEXT + N + CONTEXT].

    Returns:
        f32[N]; each sample depends on its context alone, so that pieces equal the whole.
    """
    middle = sound[CONTEXT:-CONTEXT]
    if np.abs(sound).max(initial=0.0) < CEILING / 2:  # points between cannot be twice as high
        return middle
    peaks = true_peaks(sound)  # from LOOKAHEAD before the first sample
    if peaks.max() <= CEILING:
        return middle
    wanted = np.minimum(1.0, CEILING / np.maximum(peaks, 1e-9))
    window = np.lib.stride_tricks.sliding_window_view
    lowest = window(wanted, LOOKAHEAD).min(axis=1)  # of what comes in 5 ms
    # Of 5 ms up to each sample: at a peak all of them are as low as it asks.
    gain = window(lowest, LOOKAHEAD).mean(axis=1)[1 : len(middle) + 1]
    return np.asarray(middle * gain, np.float32)
