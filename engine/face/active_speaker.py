"""Lips: how far they are open, and whose of several move with the original voice."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np

from lipwire.engine.face.alignment import face_width_px
from lipwire.engine.types import F32, F64, I16, Face

UPPER_LIP, LOWER_LIP = 13, 14  # their inner edges, in the middle

BLOCK_S = 0.02  # of the envelope
MEMORY_S = 4.0  # of lips and voice that are compared; shorter: a smile decides, longer: it lags
LEAST_S = 1.5  # of both, before anybody is judged
# Sound may be taken so much before or after the picture it belongs to.
LAGS_S = (-0.12, -0.04, 0.04, 0.12, 0.2)
# Lips that open so many thousandths of the face's width per decibel speak. Lower: landmark noise
# does; higher: who mumbles does not.
LEAST_SLOPE = 2e-4
# Somebody else's must open so many times as far with the voice, and for so long.
CLEARLY = 1.6
FOR_S = 0.6
FLOOR_DB = -50.0  # of full scale: below it is silence, whatever the microphone hisses


def opening(landmarks: F32) -> float:
    """Gap between the lips as a share of the face's width, from f32[468, 2]."""
    gap_px = float(np.hypot(*(landmarks[LOWER_LIP] - landmarks[UPPER_LIP])))
    return gap_px / max(face_width_px(landmarks), 1.0)


class Envelope:
    """Loudness of a voice by time, of the last few seconds; may be used from two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: deque[tuple[float, float]] = deque(maxlen=round(3 * MEMORY_S / BLOCK_S))
        self._end_s = float("-inf")

    def hear(self, samples: I16, rate_hz: int, time_s: float) -> None:
        """Take int16[N] mono that begins at `time_s`, or follows what came before."""
        block = max(1, round(BLOCK_S * rate_hz))
        # Packets jitter; the voice itself goes on without a gap.
        begin_s = self._end_s if abs(time_s - self._end_s) < 0.2 else time_s
        parts = [samples[i : i + block] for i in range(0, len(samples), block)]
        with self._lock:
            for i, part in enumerate(parts):
                power = float(np.mean((part.astype(np.float32) / 32768) ** 2))
                level_db = max(FLOOR_DB, 10 * float(np.log10(power + 1e-12)))
                self._levels.append((begin_s + i * block / rate_hz, level_db))
            self._end_s = begin_s + len(samples) / rate_hz

    def at(self, times_s: F64) -> F64:
        """Level in dB of full scale at f64[N]; silence where nothing is known."""
        with self._lock:
            levels = np.array(self._levels)
        if len(levels) < 2:
            return np.full(len(times_s), FLOOR_DB)
        # Lips are slower than syllables' edges: 100 ms.
        smooth = np.convolve(np.pad(levels[:, 1], 2, mode="edge"), np.full(5, 0.2), mode="valid")
        return np.interp(times_s, levels[:, 0], smooth, FLOOR_DB, FLOOR_DB)


class ActiveSpeakerDetector:
    """Which of several faces opens its lips with a voice."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._seen: deque[tuple[float, list[float]]] = deque()
        self._since_s: float | None = None  # another one has spoken more clearly
        self._whom = 0

    def forget(self) -> None:
        """Other faces come, or in another order."""
        self._seen.clear()
        self._since_s = None

    def update(self, faces: Sequence[Face | None], time_s: float) -> None:
        """Take the faces of one picture, always in the same order."""
        if self._seen and (len(self._seen[-1][1]) != len(faces) or time_s <= self._seen[-1][0]):
            self.forget()
        self._seen.append(
            (time_s, [np.nan if face is None else opening(face.landmarks) for face in faces])
        )
        while self._seen[0][0] < time_s - MEMORY_S:
            self._seen.popleft()

    def slopes(self) -> F64:
        """f64[N]: how far each face's lips open with the voice, shares of its width per dB."""
        times_s = np.array([time_s for time_s, _ in self._seen])
        opened = np.array([openings for _, openings in self._seen])
        found = np.zeros(opened.shape[1])
        for lag_s in LAGS_S:
            level = self._envelope.at(times_s + lag_s)
            for i, column in enumerate(opened.T):
                known = ~np.isnan(column)
                if known.sum() < 8 or level[known].std() < 1.0:
                    continue
                # Regression of the opening on the level: what does not move, or moves without
                # the voice, has no slope.
                heard = level[known] - level[known].mean()
                slope = float((heard * column[known]).sum() / (heard**2).sum())
                found[i] = max(found[i], slope)
        return found

    def speaker(self, time_s: float) -> int:
        """Who speaks: 0 for the first face unless another has clearly done so for a while."""
        if not self._seen or time_s - self._seen[0][0] < LEAST_S:
            return 0
        slopes = self.slopes()
        best = int(np.argmax(slopes))
        clear = slopes[best] > max(LEAST_SLOPE, CLEARLY * slopes[0])
        if best == 0 or not clear or (self._since_s is not None and best != self._whom):
            self._since_s = None
            return 0
        self._whom = best
        if self._since_s is None:
            self._since_s = time_s
        return best if time_s - self._since_s >= FOR_S else 0
