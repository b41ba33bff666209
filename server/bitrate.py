"""What the network's wishes do to an encoder: rates, key frames and repeats; pure, `now` is passed.

Receivers' estimates swing and their requests come in bursts. Followed literally, each would cost
a key frame: 5 to 10 times a picture's bits, just when there is no room for them.
"""

from __future__ import annotations

from collections import deque

# A drop of the estimate beyond this is followed at once. Smaller: noise costs key frames; larger:
# the path is overfull for as long as the estimate is ignored.
DROP = 0.15
# A rise is followed when every estimate of the last RISE_S allowed it. Smaller or shorter: an
# estimate that swings takes the encoder with it; larger: a face stays blurred on a good path.
RISE = 0.25
RISE_S = 3.0
# Two rebuilds of an encoder are at least so far apart, unless the estimate halves.
REST_S = 1.0
# Key frames asked for are at least so far apart. Shorter: one lossy receiver makes every picture
# a key frame; longer: the picture that repairs a loss comes later.
KEY_REST_S = 0.25
# Packets repeated a second, and how many at once. Fewer: losses on a bad path stay; more: a
# receiver that asks for everything gets an amplifier.
REPEATS_PER_S = 300
REPEATS_BURST = 128
REPEAT_EVERY_S = 0.010  # the same packet


class Governor:
    """An encoder's bit rate from a receiver's estimates (REMB), with hysteresis.

    A new rate means a new encoder and so a key frame: libvpx takes none while it runs, and x264
    takes one only while rate and ceiling are equal, which PyAV cannot keep so.

    Args:
        start: bits a second to begin with.
        lowest: never less: below it a face cannot be made out.
        highest: never more.
    """

    def __init__(self, start: int, lowest: int, highest: int) -> None:
        self._lowest, self._highest = lowest, highest
        self.rate = self._clamp(start)
        """bits a second"""
        self._estimates: deque[tuple[float, int]] = deque()
        self._changed_s = float("-inf")

    def estimate(self, bits_per_s: int, now: float) -> bool:
        """Take an estimate; whether `rate` has changed."""
        wanted = self._clamp(bits_per_s)
        self._estimates.append((now, wanted))
        while self._estimates[0][0] < now - RISE_S:
            self._estimates.popleft()
        steady = min(rate for _, rate in self._estimates)
        rested = now - self._changed_s >= REST_S
        halved = wanted < 0.5 * self.rate
        if wanted < (1 - DROP) * self.rate and (rested or halved):
            return self._change(wanted, now)
        long_enough = now - self._changed_s >= RISE_S
        if steady > (1 + RISE) * self.rate and long_enough:
            return self._change(steady, now)
        return False

    def _change(self, rate: int, now: float) -> bool:
        self.rate, self._changed_s = rate, now
        return True

    def _clamp(self, rate: int) -> int:
        return max(self._lowest, min(rate, self._highest))


class KeyThrottle:
    """Requests for key frames (PLI, FIR), at most one of them answered in KEY_REST_S."""

    def __init__(self) -> None:
        self._wanted = False
        self._sent_s = float("-inf")
        self.asked = 0
        self.sent = 0

    def ask(self) -> None:
        """Somebody lost a picture."""
        self.asked += 1
        self._wanted = True

    def take(self, now: float) -> bool:
        """Whether the picture to be encoded now shall be a key frame."""
        if not self._wanted or now - self._sent_s < KEY_REST_S:
            return False
        self.note(now)
        return True

    def note(self, now: float) -> None:
        """A key frame is sent now, for whatever reason."""
        self._wanted, self._sent_s = False, now
        self.sent += 1


class RepeatBudget:
    """Which repeats that a receiver asks for (NACK) it gets."""

    def __init__(self) -> None:
        self._tokens, self._filled_s = float(REPEATS_BURST), 0.0
        self._last: dict[int, float] = {}
        self.refused = 0

    def take(self, sequence_number: int, now: float) -> bool:
        """Whether to repeat this packet now."""
        self._tokens = min(REPEATS_BURST, self._tokens + (now - self._filled_s) * REPEATS_PER_S)
        self._filled_s = now
        recent = now - self._last.get(sequence_number, float("-inf")) < REPEAT_EVERY_S
        if recent or self._tokens < 1:
            self.refused += 1
            return False
        self._tokens -= 1
        if len(self._last) >= 4 * REPEATS_BURST:
            self._last.clear()
        self._last[sequence_number] = now
        return True
