"""Sound on a session's clock, for tests of the engine: a call's hours, and the same by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soxr

from lipwire.engine.audio.mel import LOOKAHEAD_S, log_mel, window, window_start_at
from lipwire.engine.audio.timeline import SpeechTimeline
from lipwire.engine.config import EngineConfig
from lipwire.engine.types import F32, I16

CONFIG = EngineConfig()


RATES = (8_000, 16_000, 24_000, 44_100, 48_000)


class Call:
    """A session's hours in milliseconds: pictures at 25 fps, sound in blocks of 20 ms."""

    def __init__(self, config: EngineConfig = CONFIG, pictures: bool = True) -> None:
        self.config, self.pictures = config, pictures
        self.speech = SpeechTimeline(config, LOOKAHEAD_S)
        self.now = 0.0
        self.blocks: list[I16] = []
        self.windows: list[tuple[float, F32]] = []
        self.speaking: list[bool] = []
        self._frames = 0

    def until(self, now: float) -> None:
        """Let time pass; everything that is due by then happens in order."""
        while True:
            audio_s, video_s = len(self.blocks) * 0.02, self._frames * 0.04
            if min(audio_s, video_s) > now + 1e-9:
                break
            if video_s <= audio_s:
                self._frames += 1
                if self.pictures:
                    shown_s = video_s + self.config.delay_s
                    self.windows.append((shown_s, self.speech.mel_window(shown_s)))
                    self.speaking.append(self.speech.speaking(shown_s))
            else:
                start = len(self.blocks) * 960
                self.blocks.append(self.speech.read(start, start + 960))
        self.now = max(self.now, now)

    def push(self, samples: I16, rate_hz: int) -> float:
        return self.speech.push(samples, rate_hz, self.now)

    @property
    def heard(self) -> I16:
        return np.concatenate(self.blocks)


class ByHand:
    """The same sound resampled whole and laid down where it should be."""

    def __init__(self, seconds: float) -> None:
        self.heard = np.zeros(round(seconds * 48_000), np.int16)
        self.understood = np.zeros(round(seconds * 16_000), np.int16)

    def place(self, samples: I16, rate_hz: int, start_s: float) -> None:
        for line, line_hz in ((self.heard, 48_000), (self.understood, 16_000)):
            sound = soxr.resample(samples.astype(np.float32), rate_hz, line_hz)
            start = round(start_s * line_hz)
            stop = min(start + len(sound), len(line))
            line[start:stop] = np.clip(np.rint(sound[: stop - start]), -32768, 32767)

    def check(self, call: Call) -> None:
        """Heard and understood within rounding, which a shift of one sample is far beyond."""
        heard = call.heard.astype(int)
        assert np.abs(heard - self.heard[: len(heard)]).max() <= 2
        mel = log_mel(self.understood.astype(np.float32) / 32768)
        for shown_s, found in call.windows:
            wanted = window(mel, window_start_at(shown_s))
            # Where a band is all but empty, one bit of rounding is worth a few decibels.
            close = np.abs(found - wanted) < 0.02
            assert close[wanted > -2].all(), f"the window at {shown_s} s"
            assert close.mean() > 0.9


def in_pieces(samples: I16, seed: int, largest: int = 4000) -> Iterator[I16]:
    rng = np.random.default_rng(seed)
    start = 0
    while start < len(samples):
        size = int(rng.integers(1, largest))
        yield samples[start : start + size]
        start += size


USUAL_S = CONFIG.delay_s + LOOKAHEAD_S + CONFIG.speech_margin_s
