"""What the network's wishes do to an encoder: rates, key frames and repeats; pure, `now` is passed.

Receivers' estimates swing and their requests come in bursts. Followed literally, each would cost
a key frame: 5 to 10 times a picture's bits, just when there is no room for them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

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
# So long after a viewer came or climbed, his estimate says what he was sent before, and moves
# nobody else's rate. Shorter: a newcomer's first guess blurs all others; longer: they are sent too
# much for a path that is wide enough for their rung, but not for their rate.
TRIAL_S = 3.0
# How long a path must look wider than what it is sent before a climb is tried, and the most that
# failed climbs make of it. Shorter: a path at its limit freezes often; longer: a face stays
# blurred.
CLIMB_S, CLIMB_MAX_S = 5.0, 60.0
# An encoder that spends by the picture is told another rate, for a key frame, where the one that it
# was told is off by this factor. Smaller: 24 or 25 pictures a second cost one in every call, where
# they are given a fifth less than they may have; larger: 20 and 40 are blurred or clog the path.
USUAL_FPS, RATE_OFF = 30.0, 1.3
# Rates are those of so long, half of it at first. Shorter: a hiccup looks like a camera that has
# changed; longer: 60 pictures a second overfill the path for as long.
RATE_SPAN_S = 2.0
RATE_REST_S = 5.0  # two such changes are at least so far apart: a camera may waver
RATE_PAUSE_S = 0.5  # a gap this long says nothing about the rate


class RateController:
    """An encoder's bit rate from a receiver's estimates (REMB), with hysteresis.

    A new rate means a new encoder and so a key frame: libvpx takes none while it runs, and x264
    takes one only while rate and ceiling are equal, which PyAV cannot keep so.
    """

    def __init__(self, start: int, lowest: int, highest: int) -> None:
        self._lowest, self._highest = lowest, highest
        self.rate = self._clamp(start)  # bits a second
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
    """Requests for key frames (PLI, FIR), one of them answered in KEY_REST_S or so."""

    def __init__(self) -> None:
        self._wanted = False
        self._sent_s = float("-inf")
        self.asked = 0
        self.sent = 0

    def ask(self) -> None:
        """Somebody lost a picture."""
        self.asked += 1
        self._wanted = True

    def take(self, now: float, rest_s: float | None = None) -> bool:
        """Whether the picture to be encoded now shall be a key frame.

        Args:
            now: seconds.
            rest_s: since the last one, instead of KEY_REST_S.
        """
        rest_s = KEY_REST_S if rest_s is None else rest_s
        if not self._wanted or now - self._sent_s < rest_s:
            return False
        self.record(now)
        return True

    def record(self, now: float) -> None:
        """A key frame is sent now, for whatever reason."""
        self._wanted, self._sent_s = False, now
        self.sent += 1


class RetransmissionBudget:
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


@dataclass(frozen=True, slots=True)
class Rung:
    """One class of bit rates; all who watch in it share an encode."""

    floor: int  # bits a second; whose path carries less belongs to the rung below
    ceiling: int
    shrink: int  # the picture's sides are divided by it


def make_ladder(lowest: int, highest: int) -> tuple[Rung, ...]:
    """Rungs from the best down, each from 40 or 50 % of its ceiling on.

    Narrower rungs: more encodes at the same time; wider ones: the slowest viewer of a rung costs
    the others more. The last one has half the width and height: below 0.5 Mbit/s a face at 640x480
    is made of blocks, one at 320x240 is not.

    Args:
        lowest: bits a second that are sent to everybody.
        highest: bits a second that are sent to nobody.
    """
    rungs: list[Rung] = []
    ceiling = highest
    for share, shrink in ((0.4, 1), (0.2, 1), (0.0, 2)):
        floor = max(lowest, int(share * highest))
        if rungs and ceiling <= lowest:
            break  # no room left for a rung of its own
        rungs.append(Rung(min(floor, ceiling), ceiling, shrink))
        ceiling = floor
    return tuple(rungs)


class LayerSelector:
    """Which rung of a ladder one viewer belongs to, from his estimates; with hysteresis.

    Receivers do not claim much more than what they are sent, so a viewer on a low rung cannot show
    what his path carries. A climb is therefore a trial: until it is over his estimate counts for
    nobody else, and one that fails doubles the wait before the next.
    """

    def __init__(self, ladder: tuple[Rung, ...], start: int, now: float) -> None:
        self._ladder = ladder
        self.rung = self._below(start)  # place in the ladder
        self.bits_per_s: int | None = None  # the last estimate
        self._moved_s = now
        self._wide_since_s: float | None = None
        self._wait_s = CLIMB_S
        self._trying, self._climbed = True, False
        self._before = ladder[self.rung].floor  # what the trial must not fall behind

    def settled(self, now: float) -> bool:
        """Whether his estimate says what his path carries at this rung."""
        return self.bits_per_s is not None and not self._tries(now)

    def _tries(self, now: float) -> bool:
        return self._trying and now - self._moved_s < TRIAL_S

    def _below(self, bits_per_s: float) -> int:
        """The best rung that a path of this width carries."""
        fitting = (i for i, rung in enumerate(self._ladder) if rung.floor <= bits_per_s)
        return next(fitting, len(self._ladder) - 1)

    def estimate(self, bits_per_s: int, sent: int, now: float) -> bool:
        """Take an estimate; whether `rung` has changed.

        Args:
            bits_per_s: what the receiver thinks that its path carries.
            sent: the rate of the encode that it gets.
            now: seconds.
        """
        self.bits_per_s = bits_per_s
        if self._tries(now):
            if bits_per_s >= (1 - DROP) * self._before:
                return False
        elif bits_per_s >= self._ladder[self.rung].floor:
            # Once a climb has lasted as long as the wait before it, it has not failed.
            if now - self._moved_s > self._wait_s + TRIAL_S:
                self._wait_s = CLIMB_S
        if bits_per_s < (1 - DROP) * self._ladder[self.rung].floor:
            return self._fall(bits_per_s, now)
        return self._climb(bits_per_s, sent, now)

    def _fall(self, bits_per_s: int, now: float) -> bool:
        self._wide_since_s = None
        place = self._below(bits_per_s)
        if place <= self.rung:
            return False  # there is none below
        if self._climbed:
            self._wait_s = min(2 * self._wait_s, CLIMB_MAX_S)
        self.rung, self._moved_s = place, now
        self._trying = self._climbed = False
        return True

    def _climb(self, bits_per_s: int, sent: int, now: float) -> bool:
        if self.rung == 0 or bits_per_s < (1 + RISE) * sent:
            self._wide_since_s = None
            return False
        if self._wide_since_s is None:
            self._wide_since_s = now
        if now - max(self._wide_since_s, self._moved_s) < self._wait_s:
            return False
        # Not past what the estimate reaches, and at least one up.
        self.rung = min(self.rung - 1, self._below(bits_per_s))
        self._moved_s, self._before = now, bits_per_s
        self._trying = self._climbed = True
        self._wide_since_s = None
        return True


class PictureRate:
    """How many pictures a second come, by their times; for an encoder that must be told."""

    def __init__(self) -> None:
        self.fps = USUAL_FPS  # what the encoder is told
        self._times_s: deque[float] = deque()  # of the last RATE_SPAN_S
        self._changed_s = float("-inf")

    def record(self, time_s: float) -> bool:
        """Take a picture's time; True if `fps` was wrong, and is changed."""
        times_s = self._times_s
        if times_s and not 0 < time_s - times_s[-1] < RATE_PAUSE_S:
            times_s.clear()
        times_s.append(time_s)
        while time_s - times_s[0] > RATE_SPAN_S:
            times_s.popleft()
        span_s = time_s - times_s[0]
        if span_s < RATE_SPAN_S / 2 or time_s - self._changed_s < RATE_REST_S:
            return False
        found = (len(times_s) - 1) / span_s
        if 1 / RATE_OFF <= found / self.fps <= RATE_OFF:
            return False
        self.fps, self._changed_s = found, time_s
        return True
