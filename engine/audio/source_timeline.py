"""The original voice on a session's clock, heard under the new one."""

from __future__ import annotations

from statistics import fmean

from lipwire.engine.audio.drift import DriftEstimator, DriftResampler
from lipwire.engine.audio.sample_timeline import PlayoutBuffer, SampleTimeline
from lipwire.engine.audio.timeline import PLAYED_KEPT_S, check_sound
from lipwire.engine.types import I16, PLAYOUT_RATE_HZ


class SourceTimeline:
    """The original voice, kept to be heard under the new one in step with its own picture.

    Args:
        delay_s: a sample that arrives at t is heard at t + delay_s, as the picture is seen.
        kept_s: how much is kept until it is heard, and after.
        paced: it comes by a clock of its own, which is followed; else it lies where it is put.
    """

    # How far a stall or a burst may move the sound from its place before it is put back; drift is
    # made good long before. Smaller: every late packet cuts; larger: lips and sound part visibly.
    SLACK_S = 0.080

    def __init__(
        self, delay_s: float, kept_s: float = PLAYED_KEPT_S, *, paced: bool = True
    ) -> None:
        self._delay_s, self._kept_s, self._paced = delay_s, kept_s, paced
        # The middle of the jitter: pictures come through the same network.
        self._drift, self._stretch = DriftEstimator(0.0, fmean), DriftResampler()
        self._rate_hz = 0
        self._playout = PlayoutBuffer(kept_s, PLAYOUT_RATE_HZ)
        self._line = SampleTimeline(PLAYOUT_RATE_HZ, self._playout)
        self._begun = False

    def push(self, samples: I16, rate_hz: int, time_s: float) -> None:
        """Add int16[N] that has just arrived."""
        check_sound(samples, rate_hz)
        if rate_hz != self._rate_hz:
            self._append(self._stretch.finish())
            self._rate_hz = rate_hz
        place_s = max(time_s + self._delay_s, 0.0)
        ahead_s = self._line.end_s + self._stretch.held / rate_hz - place_s
        slack_s = self.SLACK_S if self._begun else 0.0
        if not -slack_s <= ahead_s <= slack_s + len(samples) / rate_hz:
            self._append(self._stretch.finish())
            self._line.finish()
            place = round(place_s * PLAYOUT_RATE_HZ)
            self._line.truncate(place)
            self._line.forget(place - round(self._kept_s * PLAYOUT_RATE_HZ))
            self._line.silence_until(place)
            self._drift.restart()
        elif self._paced:
            self._drift.record(ahead_s, time_s)
        self._begun = True
        # soxr would hold back 20 to 170 ms, which there is no time for.
        upwards = min(rate_hz / PLAYOUT_RATE_HZ, 1.0)
        self._stretch.ratio = (1.0 + self._drift.correction) * upwards
        self._append(self._stretch.push(samples))

    def _append(self, samples: I16) -> None:
        if len(samples):
            self._line.append(samples, max(self._rate_hz, PLAYOUT_RATE_HZ))

    @property
    def drift(self) -> float:
        """How much faster the original's clock is than ours, as a share."""
        return self._drift.drift

    def read(self, start: int, stop: int) -> I16:
        """Samples [start, stop) at 48 kHz."""
        return self._playout.read(start, stop)
