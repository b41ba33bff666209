"""Pictures over a path that loses packets both ways, repeats and key frames on request: virtual."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from fakes import Packet

from lipwire.benchmarks.rig.network import Impairment
from lipwire.server.rtc.jitter import VideoBuffer
from lipwire.server.rtc.rate_control import KeyThrottle, RetransmissionBudget

VP8, EVERY_S, SECONDS = 97, 0.04, 20.0
HISTORY = 128  # packets that aiortc can repeat
KEY_PACKETS, DELTA_PACKETS = 36, 6  # 640x480 at 1.5 Mbit/s


class Path:
    """A sender, a receiver's buffer, and what lies between them.

    Args:
        seed: of what is lost.
        delay_s: one way.
        lag_s: how late either side wakes, on average.
    """

    def __init__(self, seed: int, delay_s: float, lag_s: float) -> None:
        self._up = Impairment(0.02, 0.01, delay_s=delay_s, seed=2 * seed)
        self._down = Impairment(0.02, 0.01, delay_s=delay_s, seed=2 * seed + 1)
        self._lag_s, self._random = lag_s, random.Random(seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order, self._alarm_s = itertools.count(), 0.0
        self.buffer, self.keys = VideoBuffer(frozenset({VP8})), KeyThrottle()
        self._repeats, self._sent = RetransmissionBudget(), list[Packet]()
        self.shown: list[tuple[float, int]] = []

    def run(self) -> None:
        self.keys.ask()
        self._at(0.0, self._picture, 0)
        while self._events and self._events[0][0] < SECONDS + 0.5:
            now, _, work, arguments = heapq.heappop(self._events)
            work(now, *arguments)

    def freezes(self) -> list[float]:
        """Seconds between pictures that were shown."""
        return [b - a for (a, _), (b, _) in itertools.pairwise(self.shown)]

    def _at(self, at_s: float, work: Callable[..., None], *arguments: Any) -> None:
        late_s = self._random.expovariate(1 / self._lag_s) if self._lag_s else 0.0
        heapq.heappush(self._events, (at_s + late_s, next(self._order), work, arguments))

    # --- the sender ---

    def _picture(self, now: float, number: int) -> None:
        key = self.keys.take(now)
        count = KEY_PACKETS if key else DELTA_PACKETS
        head = b"\x10\x02\0\x9d\x01\x2a\x80\x02\xe0\x01" if key else b"\x11\x02\0" + bytes(7)
        for part in range(count):
            payload, data = (b"\x10", head) if part == 0 else (b"\0", b"x")
            place, time = len(self._sent) & 0xFFFF, number * 3600
            self._sent.append(Packet(place, time, part == count - 1, payload, VP8, data))
            self._carry(now, self._sent[-1])
        if (following_s := (number + 1) * EVERY_S) < SECONDS:
            self._at(following_s, self._picture, number + 1)

    def _carry(self, now: float, packet: Packet) -> None:
        if not self._up.lose():
            self._at(now + self._up.wait_s(), self._arrive, packet)

    def _repeat(self, now: float, numbers: list[int]) -> None:
        kept = {packet.sequence_number: packet for packet in self._sent[-HISTORY:]}
        for number in numbers:
            if number in kept and self._repeats.take(number, now):
                self._carry(now, kept[number])

    # --- the receiver ---

    def _arrive(self, now: float, packet: Packet) -> None:
        frames = self.buffer.add(packet, packet.data, now)
        self.shown += [(now, frame.timestamp // 3600) for frame in frames]
        self._ask(now)

    def _ask(self, now: float) -> None:
        self.shown += [(now, frame.timestamp // 3600) for frame in self.buffer.poll(now)]
        if (numbers := self.buffer.nacks(now)) and not self._down.lose():
            self._at(now + self._down.wait_s(), self._repeat, numbers)
        if self.buffer.wants_key(now) and not self._down.lose():
            self._at(now + self._down.wait_s(), lambda _: self.keys.ask())
        if (alarm_s := self.buffer.next_s) is not None:
            self._alarm_s = alarm_s
            self._at(max(alarm_s, now + 0.001), self._ring, alarm_s)

    def _ring(self, now: float, alarm_s: float) -> None:
        if alarm_s == self._alarm_s:
            self._ask(now)


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("delay_s, lag_s", [(0.002, 0.0), (0.02, 0.0), (0.02, 0.008), (0.05, 0.0)])
def test_losses_neither_freeze_nor_cost_pictures(seed: int, delay_s: float, lag_s: float) -> None:
    path = Path(seed, delay_s, lag_s)
    path.run()
    assert max(path.freezes()) <= 0.5
    numbers = [number for _, number in path.shown]
    assert numbers == sorted(set(numbers)) and len(numbers) >= 0.98 * SECONDS / EVERY_S
    assert path.buffer.counts.recovered > 50
    # Asked for after 120 ms, at most 80 more for the request before it, and waking late.
    assert path.buffer.counts.gap_wait_max_s <= 0.2 + 10 * lag_s
