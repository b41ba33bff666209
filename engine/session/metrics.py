"""What became of a session's frames: counts, delays and the rate at which they leave."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np

from lipwire.engine.types import Outcome, SessionStats

DELAYS_KEPT = 1500  # a minute at 25 fps
TIMES_KEPT = 250
RATE_S = 2.0  # the rate is that of the last two seconds; shorter, and it jumps with every hiccup


class SessionMetrics:
    """Counts frames as they leave; not locked, the session is."""

    def __init__(self) -> None:
        self._outcomes: Counter[Outcome] = Counter()
        self._delays_s: deque[float] = deque(maxlen=DELAYS_KEPT)
        self._left_s: deque[float] = deque(maxlen=TIMES_KEPT)
        self._frames_out = 0

    def record(self, outcome: Outcome, delay_s: float, time_s: float) -> None:
        """A frame went out at `time_s`, `delay_s` after it had come."""
        self._outcomes[outcome] += 1
        self._frames_out += 1
        self._delays_s.append(delay_s)
        self._left_s.append(time_s)

    def record_abandoned(self, outcome: Outcome, count: int) -> None:
        """Frames were dropped because nobody fetched them."""
        if count:
            self._outcomes[outcome] += count

    def stats(
        self, time_s: float, *, frames_in: int, speech_backlog_s: float, speaking: bool, steps: int
    ) -> SessionStats:
        """A snapshot, with what others know of the session."""
        delays_s = np.array(self._delays_s or [0.0])
        recent = [left_s for left_s in self._left_s if left_s > time_s - RATE_S]
        span_s = recent[-1] - recent[0] if len(recent) > 1 else 0.0
        return SessionStats(
            frames_in=frames_in,
            frames_out=self._frames_out,
            outcomes=dict(self._outcomes),
            fps=(len(recent) - 1) / span_s if span_s > 0 else 0.0,
            delay_p50_s=float(np.percentile(delays_s, 50)),
            delay_p95_s=float(np.percentile(delays_s, 95)),
            speech_backlog_s=speech_backlog_s,
            speaking=speaking,
            steps=steps,
        )
