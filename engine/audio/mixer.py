"""Mixer: what is heard. The new voice at an even loudness over the original, ducked and limited."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np

from lipwire.engine.audio.loudness import BLOCK, CONTEXT, LoudnessNormalizer, limit
from lipwire.engine.audio.source_timeline import SourceTimeline
from lipwire.engine.audio.timeline import SpeechTimeline
from lipwire.engine.config import EngineConfig
from lipwire.engine.types import F32, PLAYOUT_RATE_HZ, AudioChunk

BLOCK_S = BLOCK / PLAYOUT_RATE_HZ
SETTLED = 1e-4  # -80 dB: a gain so near its goal is there


class Mixer:
    """Reads both voices in order and gives the sound that leaves.

    Blocks of 10 ms lie at fixed places in time, so it does not matter in what pieces it is read.
    Where neither the original nor a loudness is asked for, the voice leaves bit by bit as it came:
    off-line all of it, live what of it is below the limiter's ceiling.

    Args:
        speech: the new voice.
        original: the one underneath.
        config: levels, which `change` changes.
    """

    def __init__(
        self, speech: SpeechTimeline, original: SourceTimeline, config: EngineConfig
    ) -> None:
        self._speech, self._original, self._config = speech, original, config
        self._levelling = LoudnessNormalizer(config.loudness_lufs)
        self._gain: float | None = None  # of the original, now
        self._next = 0  # 48 kHz sample that `read` returns next
        self._mixed = np.zeros(CONTEXT, np.float32)  # from CONTEXT before that on, in ±1
        self._stop = 0  # one past the last mixed

    @property
    def place(self) -> int:
        """The 48 kHz sample that leaves next."""
        return self._next

    @property
    def wants_original(self) -> bool:
        """Whether the original can be heard at all."""
        return self._config.original_level > 0 or self._config.ducking

    @property
    def settings(self) -> dict[str, float | bool | None]:
        """What `change` has set."""
        config = self._config
        return {
            "original_level": config.original_level,
            "ducking": config.ducking,
            "loudness_lufs": config.loudness_lufs,
        }

    def change(
        self,
        original_level: float | None = None,
        ducking: bool | None = None,
        loudness_lufs: float | Literal["off"] | None = None,
    ) -> None:
        """Change what is heard from now on, smoothly; None leaves a thing as it is.

        Args:
            original_level: of the original voice under the new one, 0 (not heard) to 1.
            ducking: whether the original is heard in full while the new voice is silent.
            loudness_lufs: what the new voice is brought to, or "off".

        Raises:
            ConfigError: out of range; nothing is changed.
        """
        wanted = self.settings
        if original_level is not None:
            wanted["original_level"] = original_level
        if ducking is not None:
            wanted["ducking"] = ducking
        if loudness_lufs is not None:
            wanted["loudness_lufs"] = None if loudness_lufs == "off" else loudness_lufs
        config = replace(self._config, **wanted)  # type: ignore[arg-type]  # checks the ranges
        self._levelling.target_lufs = config.loudness_lufs
        self._config = config

    def read(self, count: int) -> AudioChunk:
        """The next `count` samples."""
        start = self._next
        live = not self._config.offline  # a stranger's stream may be noise at full scale
        limited = live or self.wants_original or not self._levelling.resting or self._gain
        while self._stop < start + count + (CONTEXT if limited else 0):
            self._mixed = np.concatenate([self._mixed, self._mix_block()])
        if limited:
            sound = limit(self._mixed[: count + 2 * CONTEXT])
        else:
            sound = self._mixed[CONTEXT : CONTEXT + count]
        self._mixed = self._mixed[count:]
        self._next += count
        samples = np.clip(np.rint(sound * 32768.0), -32768, 32767).astype(np.int16)
        return AudioChunk(samples, start, PLAYOUT_RATE_HZ)

    def _mix_block(self) -> F32:
        start, stop = self._stop, self._stop + BLOCK
        self._stop = stop
        mixed = self._speech.read(start, stop).astype(np.float32) / np.float32(32768.0)
        if not self._levelling.resting:
            mixed = self._levelling.apply(mixed)
        before, after = self._glide(start / PLAYOUT_RATE_HZ)
        if before > 0 or after > 0:
            gain = np.linspace(before, after, BLOCK + 1, dtype=np.float32)[1:] / 32768
            mixed = mixed + gain * self._original.read(start, stop)
        return mixed

    def _glide(self, time_s: float) -> tuple[float, float]:
        """The original's gain at both ends of the block at `time_s`."""
        config = self._config
        loud = config.ducking and not self._speech.speaking(time_s)
        goal = 1.0 if loud else config.original_level
        if self._gain is None:
            self._gain = goal
        before = self._gain
        falls = goal < before or not config.ducking
        tau_s = config.duck_attack_s if falls else config.duck_release_s
        share = 1 - math.exp(-BLOCK_S / tau_s) if tau_s > 0 else 1.0
        after = before + share * (goal - before)
        self._gain = goal if abs(after - goal) < SETTLED else after
        return before, self._gain
