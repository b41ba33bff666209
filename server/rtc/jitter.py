"""Packets -> encoded frames, in order and in bounded time; pure: callers pass `now`.

Operations: add a packet; poll for gaps whose time is up; ask what to request from the sender.
Goals: a frame leaves with its last packet (the marker bit), not with the next frame's first; a
  packet that does not come costs HOLD_S of video or AUDIO_WAIT_S of sound, never "until the
  buffer is full"; memory is bounded whatever a sender does.
Plan: sequence numbers are unwrapped to integers that only grow; video waits for repeats and, after
  a while, for a key frame too: what comes first ends the wait; sound fills holes with concealment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lipwire.server.rtc.bitstream import EncodedFrame, h264_starts, is_key, vp8_starts

# A gap that is not filled after this makes us ask for a key frame as well. Shorter: key frames for
# gaps that one slow round trip fills; longer: where repeats fail, the picture stands still for it.
KEY_AFTER_S = 0.120
# A missing packet is asked for again after this: somewhat more than the round trip that was seen.
# Less: every repeat is sent twice; more: one that was lost again costs longer. On paths longer than
# that all are: two must have been tried before a key frame is asked for.
NACK_FACTOR, NACK_LEAST_S, NACK_MOST_S = 1.35, 0.020, 0.055
NACK_FIRST_S = 0.040  # before any was seen
# While no key frame comes: how often it is asked for, and how long pictures are held back for it.
# Longer: a sender that ignores requests freezes the picture; shorter: smears are shown that the
# key frame would have spared.
KEY_EVERY_S = 0.200
HOLD_S = 0.350
# Sound waits this long for a packet that is late. Shorter: reordered packets are lost; longer:
# each loss delays the voice, and receivers of it keep the delay.
AUDIO_WAIT_S = 0.060
# Lost packets that are concealed in a row; silence of the timeline takes over beyond it.
CONCEALED = 10
MAX_NACKS = 256  # of one request: 1 kB where every second packet is missing
MAX_PACKETS = 1024  # 1.3 MB: more waits only behind a gap that will not be filled
RESTART = 2000  # a jump of the sequence beyond this is a sender that began anew


class Packet(Protocol):
    """What is needed of an RTP packet (RFC 3550 section 5.1)."""

    sequence_number: int
    timestamp: int
    marker: int
    payload_type: int
    payload: bytes


def unwrap(value: int, last: int | None, bits: int) -> int:
    """The integer congruent to `value` modulo 2**bits that lies nearest to `last`.

    Unlike a count of wraps it also takes steps back: a reordered packet is not a jump of 2**bits.
    """
    if last is None:
        return value
    half = 1 << (bits - 1)
    return last + ((value - last + half) & ((1 << bits) - 1)) - half


@dataclass(slots=True)
class _Slot:
    data: bytes
    timestamp: int
    marker: bool
    payload_type: int
    starts: bool  # whether a frame certainly begins here


@dataclass(slots=True)
class _Hole:
    found_s: float
    ask_s: float  # when it may be asked for
    asked_s: float | None = None  # when it first was


@dataclass(slots=True)
class BufferCounts:
    """What a buffer has seen."""

    frames: int = 0
    recovered: int = 0  # packets that filled a gap
    lost: int = 0  # packets that never came
    late: int = 0  # packets that came after they were given up, or twice
    held: int = 0  # pictures not shown because they, or one before them, miss a packet
    gap_wait_max_s: float = 0.0  # longest time between finding a gap and asking for a key frame


class VideoBuffer:
    """Pictures from packets; see the head of the file."""

    def __init__(self, vp8_types: frozenset[int]) -> None:
        self._vp8_types = vp8_types
        self.counts = BufferCounts()
        self._slots: dict[int, _Slot] = {}
        self._next: int | None = None  # the sequence number that is due
        self._newest = 0
        self._time: int | None = None  # last unwrapped timestamp
        self._origin = 0
        self._missing: dict[int, _Hole] = {}  # by sequence number, which grows
        self._hold_s: float | None = None  # since when a key frame is waited for
        self._begun = False  # whether a key frame has been seen
        self._key_asked_s = -KEY_EVERY_S
        self._key_at: int | None = None  # a packet of the newest key frame, of its beginning
        self._round_s = NACK_FIRST_S / NACK_FACTOR  # from asking for a packet to its repeat

    @property
    def origin(self) -> int:
        """RTP time of the first packet, which frames count from."""
        return self._origin

    def add(self, packet: Packet, data: bytes, now: float) -> list[EncodedFrame]:
        """Take a packet and its depayloaded data; returns the pictures that are complete now."""
        number = self._place(packet, now)
        if number is None:
            return []
        time = unwrap(packet.timestamp, self._time, 32)
        if self._time is None:
            self._origin = time
        self._time = max(time, self._time or time)
        if (hole := self._missing.pop(number, None)) is not None:
            self._recover(hole, now)
        vp8 = packet.payload_type in self._vp8_types
        starts = vp8_starts(packet.payload) if vp8 else h264_starts(packet.payload)
        self._slots[number] = _Slot(
            data, time - self._origin, bool(packet.marker), packet.payload_type, starts
        )
        # Bytes that look like a key frame's first stand in the middle of others, too.
        if (starts or not vp8) and is_key(data, vp8):
            self._key_at = number
        while len(self._slots) > MAX_PACKETS:
            self._skip(now)
        return self._take(now)

    def _recover(self, hole: _Hole, now: float) -> None:
        self.counts.recovered += 1
        if hole.asked_s is not None:
            # Of the first request, though a later one may have brought it: too long, and rarely.
            self._round_s += 0.1 * (now - hole.asked_s - self._round_s)

    def poll(self, now: float) -> list[EncodedFrame]:
        """Give up on a gap whose time is over; returns the pictures that this sets free."""
        frames = self._take(now)
        while (found_s := self._gap_s) is not None and now - found_s >= HOLD_S:
            self._skip(now)
            frames += self._take(now)
        return frames

    def nacks(self, now: float) -> list[int]:
        """Sequence numbers to ask for again now, 16 bits each."""
        due = [number for number, hole in self._missing.items() if now >= hole.ask_s][:MAX_NACKS]
        again_s = min(max(NACK_FACTOR * self._round_s, NACK_LEAST_S), NACK_MOST_S)
        for number in due:
            hole = self._missing[number]
            hole.ask_s = now + again_s
            hole.asked_s = now if hole.asked_s is None else hole.asked_s
        return [number & 0xFFFF for number in due]

    def wants_key(self, now: float) -> bool:
        """Whether to ask for a key frame now; asking counts as asked."""
        since_s = self._hold_s
        if since_s is None and self._overdue(now):
            since_s = self._gap_s
        if since_s is None or now - self._key_asked_s < KEY_EVERY_S:
            return False
        if self._key_asked_s < since_s:  # the first time for this gap
            self.counts.gap_wait_max_s = max(self.counts.gap_wait_max_s, now - since_s)
        self._key_asked_s = now
        return True

    @property
    def next_s(self) -> float | None:
        """When `poll`, `nacks` or `wants_key` will have something to say; None: never."""
        times = [hole.ask_s for hole in self._missing.values()]
        again_s = self._key_asked_s + KEY_EVERY_S
        if (found_s := self._gap_s) is not None:
            times += [found_s + HOLD_S, max(found_s + KEY_AFTER_S, again_s)]
        if self._hold_s is not None:
            times.append(again_s)
        return min(times, default=None)

    def _overdue(self, now: float) -> bool:
        """Whether the foremost gap has been there for so long that a key frame may end it."""
        found_s = self._gap_s
        return found_s is not None and now - found_s >= KEY_AFTER_S

    @property
    def _gap_s(self) -> float | None:
        """When the foremost gap was found: it is what holds up everything after it."""
        return next((hole.found_s for hole in self._missing.values()), None)

    def _place(self, packet: Packet, now: float) -> int | None:
        """The packet's unwrapped number; None if it is of no use any more."""
        if self._next is None:
            self._next = self._newest = packet.sequence_number
            self._hold_s = now  # until the first key frame
            self._key_asked_s = now  # senders begin with one: give it time
            return packet.sequence_number
        number = unwrap(packet.sequence_number, self._newest, 16)
        if abs(number - self._newest) > RESTART:
            self._slots.clear()
            self._missing.clear()
            self._key_at = None
            self._next = self._newest = number
            self._wait_for_key(now)
            return number
        if number < self._next or number in self._slots:
            self.counts.late += 1
            return None
        for lost in range(self._newest + 1, number):
            self._missing[lost] = _Hole(now, now)
        self._newest = max(self._newest, number)
        return number

    def _take(self, now: float) -> list[EncodedFrame]:
        """Every picture that is complete, from the front."""
        frames = []
        while (stop := self._stop(now)) is not None:
            frame = self._cut(stop)
            if frame is not None and self._decodable(frame, now):
                frames.append(frame)
        self.counts.frames += len(frames)
        return frames

    def _stop(self, now: float) -> int | None:
        """Where the front picture ends, if all of it is here; a key frame may become the front."""
        if self._next is None:  # nothing has come yet
            return None
        stop = self._end_of(self._next)
        if stop is None and self._overdue(now) and (start := self._key_start()) is not None:
            stop = self._end_of(start)
            if stop is not None:
                self._drop(start)
        return stop

    def _end_of(self, number: int) -> int | None:
        """The number after a picture's last packet, if all of them from `number` on are here."""
        first = self._slots.get(number)
        if first is None:
            return None
        while (slot := self._slots.get(number)) is not None:
            if slot.timestamp != first.timestamp:
                return number  # a sender without marker bits, or padding after a picture
            number += 1
            if slot.marker:
                return number
        return None

    def _key_start(self) -> int | None:
        """The first packet of the newest key frame, if that is certain to be its first."""
        if self._key_at is None or self._key_at not in self._slots:
            return None
        number, time = self._key_at, self._slots[self._key_at].timestamp
        while (before := self._slots.get(number - 1)) is not None and before.timestamp == time:
            number -= 1
        return number if before is not None or self._slots[number].starts else None

    def _cut(self, stop: int) -> EncodedFrame | None:
        assert self._next is not None
        slots = [self._slots.pop(number) for number in range(self._next, stop)]
        self._next = stop
        data = b"".join(slot.data for slot in slots)
        if not data:
            return None  # padding: libwebrtc probes the path with empty packets
        vp8 = slots[0].payload_type in self._vp8_types
        return EncodedFrame(data, slots[0].timestamp, slots[0].payload_type, key=is_key(data, vp8))

    def _decodable(self, frame: EncodedFrame, now: float) -> bool:
        if frame.key:
            self._begun, self._hold_s = True, None
        elif self._hold_s is not None:
            # A sender that ignores the request: a smeared picture is better than a frozen one.
            if not self._begun or now - self._hold_s < HOLD_S:
                self.counts.held += 1
                return False
            self._hold_s = None
        return True

    def _wait_for_key(self, since_s: float) -> None:
        if self._hold_s is None:
            self._hold_s = since_s

    def _skip(self, now: float) -> None:
        """Drop the front up to the next packet with which a picture certainly begins."""
        assert self._next is not None
        self._wait_for_key(now if self._gap_s is None else self._gap_s)
        numbers = sorted(self._slots)
        gone = next((n for n in numbers if n - 1 not in self._slots and n > self._next), None)
        start = self._newest + 1
        if gone is not None:
            for number in (n for n in numbers if n >= gone):
                before = self._slots.get(number - 1) if number > gone else None
                slot = self._slots[number]
                if slot.starts or (
                    before is not None and (before.marker or before.timestamp != slot.timestamp)
                ):
                    start = number
                    break
        self._drop(start)

    def _drop(self, start: int) -> None:
        """Forget all before `start`, which is the front from now on."""
        for number in [n for n in self._slots if n < start]:
            self.counts.held += self._slots.pop(number).marker
        lost = [number for number in self._missing if number < start]
        for number in lost:
            del self._missing[number]
        self.counts.lost += len(lost)
        self._next = start


class AudioBuffer:
    """Blocks of sound from packets, holes marked `lost` so that a decoder can conceal them."""

    def __init__(self) -> None:
        self.counts = BufferCounts()
        self._waiting: dict[int, EncodedFrame] = {}
        self._next: int | None = None
        self._newest = 0
        self._time: int | None = None
        self._origin = 0
        self._gap_s: float | None = None
        self._last: EncodedFrame | None = None

    @property
    def origin(self) -> int:
        """RTP time of the first packet, which blocks count from."""
        return self._origin

    def add(self, packet: Packet, data: bytes, now: float) -> list[EncodedFrame]:
        """Take a packet; returns the blocks that are in order now."""
        time = unwrap(packet.timestamp, self._time, 32)
        if self._time is None:
            self._origin = time
        number = packet.sequence_number
        if self._next is not None:
            number = unwrap(number, self._newest, 16)
        if self._next is None or abs(number - self._newest) > RESTART:
            self._waiting.clear()
            self._next = self._newest = number
            self._gap_s = self._last = None
        if number < self._next or number in self._waiting:
            self.counts.late += 1
            return []
        self.counts.recovered += number < self._newest
        self._newest = max(self._newest, number)
        self._time = max(time, self._time or time)
        self._waiting[number] = EncodedFrame(data, time - self._origin, packet.payload_type)
        blocks = self._in_order()
        if not self._waiting:
            self._gap_s = None
        elif self._gap_s is None or blocks:
            self._gap_s = now
        return blocks

    def poll(self, now: float) -> list[EncodedFrame]:
        """Conceal a hole whose time is over; returns what this sets free."""
        blocks: list[EncodedFrame] = []
        while self._gap_s is not None and now - self._gap_s >= AUDIO_WAIT_S:
            blocks += self._conceal() + self._in_order()
            if not self._waiting:
                self._gap_s = None
        return blocks

    @property
    def next_s(self) -> float | None:
        """When `poll` will have something to say; None: never."""
        return None if self._gap_s is None else self._gap_s + AUDIO_WAIT_S

    def _in_order(self) -> list[EncodedFrame]:
        assert self._next is not None
        blocks = []
        while (block := self._waiting.pop(self._next, None)) is not None:
            blocks.append(block)
            self._last = block
            self._next += 1
        self.counts.frames += len(blocks)
        return blocks

    def _conceal(self) -> list[EncodedFrame]:
        """One `lost` block for each packet of the hole in front, CONCEALED at most."""
        assert self._next is not None
        first = min(self._waiting)
        hole, after, last = first - self._next, self._waiting[first], self._last
        self._next = first
        self.counts.lost += hole
        if last is None:
            return []
        step = (after.timestamp - last.timestamp) // (hole + 1)
        return [
            EncodedFrame(b"", last.timestamp + step * (k + 1), last.payload_type, lost=True)
            for k in range(min(hole, CONCEALED))
        ]
