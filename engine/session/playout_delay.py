"""PlayoutDelay: how long after it came a picture is shown; as short as the machine keeps up with.

A playout buffer for pictures that are painted: its delay follows the 95th percentile of how long
they take, within bounds.
"""

from __future__ import annotations

# By so much a picture that is in time lowers the delay, seconds. Less: it stays long for a minute
# after one busy second; more: pictures come unevenly by what is seen.
FALL_S = 0.0002
# One that is late raises it by so many times as much: 19 balance at the 95th percentile.
RISES = 19.0


class PlayoutDelay:
    """Of one session; not locked, the session is.

    Args:
        least_s: where it begins.
        most_s: it never becomes longer.
    """

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s, self._most_s = least_s, most_s
        self.now_s = least_s
        """of the next picture"""

    def record(self, took_s: float) -> None:
        """A picture was painted, or given up, so long after it came."""
        change_s = RISES * FALL_S if took_s > self.now_s else -FALL_S
        self.now_s = min(max(self.now_s + change_s, self._least_s), self._most_s)
