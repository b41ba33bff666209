"""Sound on a session's clock: where each sample plays, and what is heard at any time.

Sample i of a line plays at i / rate seconds after the session began. Speech that arrives is given
a place far enough ahead that every mel window it belongs to can still be filled; what was pushed
without a pause stays without a pause.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from engine.config import EngineConfig
from engine.errors import BacklogFull, MediaError
from engine.mel import HOP, N_FFT, WINDOW_COLUMNS, MelStream, window_start_at
from engine.ring import Ring
from engine.types import F32, I16, PLAYOUT_RATE_HZ, SPEECH_RATE_HZ
from engine.vad import VoiceActivity

MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 192_000
FADE_OUT_S = 0.010  # of an interrupted voice: a hard cut clicks
PLAYED_KEPT_S = 4.0  # heard sound is kept this long, for frames that are still being made


class Sink(Protocol):
    """Something that lives along a sample timeline."""

    def append(self, samples: I16, /) -> None:
        """The next samples."""

    def append_silence(self, count: int, /) -> None:
        """The next samples are zeros."""

    def truncate(self, stop: int, /) -> None:
        """Take back what lies from absolute sample `stop` on."""


class PlayoutBuffer:
    """int16 sound kept for playing.

    Args:
        seconds: how much is kept.
        rate_hz: of the samples.
    """

    def __init__(self, seconds: float, rate_hz: int) -> None:
        self._ring = Ring(int(seconds * rate_hz), (), np.int16)

    def append(self, samples: I16) -> None:
        """The next samples."""
        self._ring.append(samples)

    def append_silence(self, count: int) -> None:
        """The next samples are zeros."""
        for done in range(0, count, PLAYOUT_RATE_HZ):
            self._ring.append(np.zeros(min(PLAYOUT_RATE_HZ, count - done), np.int16))

    def truncate(self, stop: int) -> None:
        """Take back what lies from absolute sample `stop` on, fading out before it."""
        if stop >= self._ring.stop:
            return
        self._ring.truncate(max(stop, self._ring.start))
        fade = min(int(FADE_OUT_S * PLAYOUT_RATE_HZ), len(self._ring))
        tail = self._ring.read(self._ring.stop - fade, self._ring.stop)
        tail[:] = (tail * np.linspace(1, 0, fade)).astype(np.int16)

    def read(self, start: int, stop: int) -> I16:
        """Samples [start, stop), zeros where nothing is known."""
        out = np.zeros(stop - start, np.int16)
        low, high = max(start, self._ring.start), min(stop, self._ring.stop)
        if low < high:
            out[low - start : high - start] = self._ring.read(low, high)
        return out


class Line:
    """One sample timeline at one rate, fed at any other rate.

    Args:
        rate_hz: of the timeline.
        *sinks: what receives it.
    """

    def __init__(self, rate_hz: int, *sinks: Sink) -> None:
        self.rate_hz = rate_hz
        self.stop = 0  # absolute index one past the newest sample
        self._sinks = sinks
        self._source_hz = 0
        self._resampler: object | None = None

    def append(self, samples: I16, rate_hz: int) -> None:
        """Add int16[N] at `rate_hz`; some of it may stay in the resampler until more comes."""
        import soxr

        if rate_hz != self._source_hz:
            self.finish()
            self._source_hz = rate_hz
            if rate_hz != self.rate_hz:
                self._resampler = soxr.ResampleStream(rate_hz, self.rate_hz, 1, dtype="int16")
        self._write(samples, last=False)

    def finish(self) -> None:
        """Push out what the resampler holds; the next samples start a new utterance."""
        if self._source_hz:
            self._write(np.zeros(0, np.int16), last=True)
        self._source_hz, self._resampler = 0, None

    def _write(self, samples: I16, last: bool) -> None:
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples, last=last)  # type: ignore[attr-defined]
        for sink in self._sinks:
            sink.append(samples)
        self.stop += len(samples)

    def silence_until(self, stop: int) -> None:
        """Fill with silence up to absolute index `stop`."""
        if stop > self.stop:
            for sink in self._sinks:
                sink.append_silence(stop - self.stop)
            self.stop = stop

    def truncate(self, stop: int) -> None:
        """Take back what lies from absolute index `stop` on, and what the resampler holds."""
        self._source_hz, self._resampler = 0, None
        if stop < self.stop:
            for sink in self._sinks:
                sink.truncate(stop)
            self.stop = stop


def check_sound(samples: I16, rate_hz: int) -> None:
    """Refuse what is not mono int16 at a sensible rate.

    Raises:
        MediaError: names what is wrong.
    """
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise MediaError(f"sound must be int16[N], mono; got {samples.dtype}{list(samples.shape)}")
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise MediaError(f"sample rate {rate_hz} Hz is outside {MIN_RATE_HZ}..{MAX_RATE_HZ} Hz")


class SpeechTimeline:
    """The new voice on the session's clock: to be played (48 kHz) and to be understood (16 kHz).

    Args:
        config: delays and margins.
        lookahead_s: how far past a picture's time the model listens.
    """

    def __init__(self, config: EngineConfig, lookahead_s: float) -> None:
        self._config = config
        self._lookahead_s = lookahead_s
        kept_s = config.speech_backlog_max_s + PLAYED_KEPT_S
        self._playout = PlayoutBuffer(kept_s, PLAYOUT_RATE_HZ)
        self._mel = MelStream(kept_s)
        self._vad = VoiceActivity(seconds=kept_s)
        self._heard = Line(PLAYOUT_RATE_HZ, self._playout)
        self._understood = Line(SPEECH_RATE_HZ, self._mel, self._vad)
        self._speech_stop_s = 0.0  # the end of the last thing pushed

    def push(self, samples: I16, rate_hz: int, time_s: float) -> float:
        """Schedule more voice; returns when its first sample plays.

        Args:
            samples: int16[N].
            rate_hz: their rate.
            time_s: the session's time now.

        Raises:
            MediaError: not mono int16, or an odd rate.
            BacklogFull: nothing was taken; push it again when some has played.
        """
        check_sound(samples, rate_hz)
        waiting = self.backlog_s(time_s) + len(samples) / rate_hz
        if waiting > self._config.speech_backlog_max_s:
            raise BacklogFull(
                f"{waiting:.1f} s of voice would wait, at most "
                f"{self._config.speech_backlog_max_s:.0f} s may"
            )
        needed_s = time_s + self._config.delay_s + self._lookahead_s
        if self._understood.stop / SPEECH_RATE_HZ < needed_s and not self._config.offline:
            # Too late to go on where the last piece ended: its windows may have been used already.
            self._silence_until(needed_s + self._config.speech_margin_s)
        start_s = self._heard.stop / PLAYOUT_RATE_HZ
        self._heard.append(samples, rate_hz)
        self._understood.append(samples, rate_hz)
        self._speech_stop_s = max(start_s, self._speech_stop_s) + len(samples) / rate_hz
        return start_s

    def flush(self) -> None:
        """The utterance is complete: play its last milliseconds too."""
        self._silence_until(0.0)

    def interrupt(self, time_s: float) -> float:
        """Drop what has not been played; returns when the voice now ends."""
        cut_s = time_s + 2 * FADE_OUT_S
        cut = int(cut_s * SPEECH_RATE_HZ)
        self._understood.truncate(cut)
        self._heard.truncate(cut * (PLAYOUT_RATE_HZ // SPEECH_RATE_HZ))
        self._silence_until(0.0)
        self._speech_stop_s = min(self._speech_stop_s, cut_s)
        return cut_s

    def mel_window(self, time_s: float) -> F32:
        """What the model hears for a picture shown at `time_s`, f32[80, 16]."""
        start = window_start_at(time_s)
        self._need((start + WINDOW_COLUMNS - 1) * HOP + N_FFT // 2)
        return self._mel.window(start)

    def speaking(self, time_s: float) -> bool:
        """Whether the voice speaks around `time_s`."""
        self._need(int((time_s + self._lookahead_s) * SPEECH_RATE_HZ))
        return self._vad.speaking(time_s)

    def read(self, start: int, stop: int) -> I16:
        """Samples [start, stop) at 48 kHz of what is heard."""
        return self._playout.read(start, stop)

    def backlog_s(self, time_s: float) -> float:
        """Seconds of voice that wait to be played."""
        return max(0.0, self._speech_stop_s - time_s)

    def _need(self, stop: int) -> None:
        """Sound up to 16 kHz index `stop` is wanted now; what has not come by now is silence."""
        if self._understood.stop < stop:
            self._silence_until(stop / SPEECH_RATE_HZ)

    def _silence_until(self, stop_s: float) -> None:
        """End the utterance and fill both lines with silence up to `stop_s`, equally long."""
        self._heard.finish()
        self._understood.finish()
        ratio = PLAYOUT_RATE_HZ // SPEECH_RATE_HZ
        stop = max(self._understood.stop, -(-self._heard.stop // ratio), int(stop_s * SPEECH_RATE_HZ))
        self._understood.silence_until(stop)
        self._heard.silence_until(stop * ratio)


class OriginalTimeline:
    """The original voice, kept to be heard under the new one in step with its own picture.

    Args:
        delay_s: a sample that arrives at t is heard at t + delay_s, as the picture is seen.
    """

    # How far the sound may wander from its place before it is put back. Smaller: every late
    # packet cuts; larger: lips and sound part visibly.
    SLACK_S = 0.080

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._playout = PlayoutBuffer(PLAYED_KEPT_S, PLAYOUT_RATE_HZ)
        self._line = Line(PLAYOUT_RATE_HZ, self._playout)

    def push(self, samples: I16, rate_hz: int, time_s: float) -> None:
        """Add int16[N] that has just arrived."""
        check_sound(samples, rate_hz)
        place_s = time_s + self._delay_s
        end_s = self._line.stop / PLAYOUT_RATE_HZ
        if end_s < place_s - self.SLACK_S or end_s > place_s + self.SLACK_S + len(samples) / rate_hz:
            self._line.finish()
            self._line.truncate(max(int(place_s * PLAYOUT_RATE_HZ), 0))
            self._line.silence_until(int(place_s * PLAYOUT_RATE_HZ))
        self._line.append(samples, rate_hz)

    def read(self, start: int, stop: int) -> I16:
        """Samples [start, stop) at 48 kHz."""
        return self._playout.read(start, stop)
