"""RTCP sender reports: RTP time <-> wall clock, so that receivers align sound and picture.

A sender report says which RTP time belongs to which wall-clock time (RFC 3550 section 6.4.1). Both
of a call's tracks count places on the session's clock, so one line maps each of them, and what
encoding and queues cost either does not move its map. aiortc reports the time of sending instead:
a picture that took 30 ms longer to encode than its sound would be shown 30 ms late for ever.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

NTP_EPOCH_S = 2_208_988_800  # 1970 as NTP counts, from 1900 (RFC 868)

# The wall clock when this process began. Steps of it would tear sound and picture apart: the
# reports of the two tracks are sent at different times.
_STARTED_S = time.time() - time.monotonic()


def to_ntp(monotonic_s: float) -> int:
    """64-bit NTP time of a reading of `time.monotonic` (RFC 5905 section 6)."""
    return round((_STARTED_S + monotonic_s + NTP_EPOCH_S) * 2**32) & (2**64 - 1)


def ntp_seconds(ntp: int) -> float:
    """Seconds since 1900 of a 64-bit NTP time."""
    return ntp / 2**32


def rtp_at(origin: int, media_time_s: float, rate_hz: int) -> int:
    """The 32-bit RTP time of a place on the session's clock, given that of its zero."""
    return (origin + round(media_time_s * rate_hz)) & 0xFFFF_FFFF


@dataclass(slots=True)
class ClockMap:
    """A received stream's RTP time -> its sender's wall clock, from the last report.

    `learn` takes times as they travel; `seconds` takes RTP times near the last learned.
    """

    rate_hz: int
    rtp: int | None = None
    ntp_s: float = 0.0

    def learn(self, ntp: int, rtp: int) -> None:
        """Take a report; one without a wall clock (RFC 3550: zero) says nothing."""
        if ntp:
            self.rtp, self.ntp_s = rtp, ntp_seconds(ntp)

    def seconds(self, rtp: int) -> float | None:
        """When what bears this RTP time was captured or due, seconds since 1900."""
        if self.rtp is None:
            return None
        ahead = ((rtp - self.rtp + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000
        return self.ntp_s + ahead / self.rate_hz
