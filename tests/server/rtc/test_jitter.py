"""Packets in, frames out, on a clock that the test moves."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from fakes import Packet
from hypothesis import given
from hypothesis import strategies as st

from lipwire.server.rtc import jitter
from lipwire.server.rtc.bitstream import EncodedFrame
from lipwire.server.rtc.jitter import AudioBuffer, VideoBuffer, unwrap

VP8, H264, OPUS = 97, 99, 96
FIRST = 65_500  # sequence numbers wrap early in every test


def key_data(size: int = 40) -> bytes:
    return b"\x10\x02\x00\x9d\x01\x2a\x40\x00\x40\x00" + bytes(size)


def delta_data(size: int = 40) -> bytes:
    return b"\x11\x02\x00" + bytes(size)


def stream(
    pictures: int, packets: int = 3, keys: tuple[int, ...] = (0,), marker: bool = True
) -> Iterator[tuple[float, Packet, bytes]]:
    """Packets of VP8 pictures at 25 fps: when each is sent, itself, its data."""
    number = FIRST
    for picture in range(pictures):
        data = key_data() if picture in keys else delta_data()
        size = -(-len(data) // packets)
        for part in range(packets):
            piece = data[part * size : (part + 1) * size]
            header = b"\x10" if part == 0 else b"\x00"
            time = (4_294_960_000 + picture * 3600) & 0xFFFF_FFFF
            last = marker and part == packets - 1
            yield picture * 0.04, Packet(number & 0xFFFF, time, last, header + piece), piece
            number += 1


def video() -> VideoBuffer:
    return VideoBuffer(frozenset({VP8}))


def run(
    buffer: VideoBuffer, packets: Iterator[tuple[float, Packet, bytes]], lose: set[int]
) -> list[tuple[float, EncodedFrame]]:
    """Feed all but some packets, polling every 10 ms as a timer would."""
    out: list[tuple[float, EncodedFrame]] = []
    now = 0.0
    for index, (at_s, packet, data) in enumerate(packets):
        while now + 0.01 < at_s:
            now += 0.01
            out += [(now, frame) for frame in buffer.poll(now)]
        now = max(now, at_s)
        if index not in lose:
            out += [(now, frame) for frame in buffer.add(packet, data, now)]
            out += [(now, frame) for frame in buffer.poll(now)]
    return out


@pytest.mark.parametrize(
    "value, last, whole",
    [(5, None, 5), (3, 65_535, 65_539), (65_535, 65_539, 65_535), (0, 131_072, 131_072)],
)
def test_numbers_are_unwrapped_both_ways(value: int, last: int | None, whole: int) -> None:
    assert unwrap(value, last, 16) == whole


def test_a_buffer_that_is_asked_before_anything_came_has_nothing() -> None:
    """A timer may be faster than the first packet."""
    assert video().poll(0.0) == []


def test_a_picture_leaves_with_its_last_packet() -> None:
    frames = run(video(), stream(5), set())
    assert [at_s for at_s, _ in frames] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert [f.timestamp for _, f in frames] == [0, 3600, 7200, 10_800, 14_400]  # past the wrap
    assert [f.key for _, f in frames] == [True, False, False, False, False]
    assert frames[0][1].data == key_data()


def test_a_sender_without_marker_bits_is_understood() -> None:
    frames = run(video(), stream(5, marker=False), set())
    assert [f.timestamp for _, f in frames] == [0, 3600, 7200, 10_800]  # the last is still open


def test_padding_is_no_picture_and_no_loss() -> None:
    buffer = video()
    packets = [packet for _, packet, _ in stream(2, packets=1)]
    padding = Packet((FIRST + 1) & 0xFFFF, packets[0].timestamp, 0, b"")
    packets[1].sequence_number += 1
    got = buffer.add(packets[0], key_data(), 0.0) + buffer.add(padding, b"", 0.01)
    got += buffer.add(packets[1], delta_data(), 0.04)
    assert len(got) == 2 and buffer.nacks(0.04) == [] and not buffer.wants_key(1.0)


def test_a_reordered_packet_costs_nothing() -> None:
    buffer = video()
    items = list(stream(4))
    items[4], items[5] = items[5], items[4]
    frames = run(buffer, iter(items), set())
    assert len(frames) == 4 and buffer.counts.lost == 0


def test_a_missing_packet_is_asked_for_at_once_and_again_until_it_comes() -> None:
    buffer = video()
    items = list(stream(3))
    for _, packet, data in items[:4] + items[5:6]:
        buffer.add(packet, data, 0.04)
    number = items[4][1].sequence_number
    assert buffer.nacks(0.04) == [number] and buffer.nacks(0.05) == []
    assert buffer.next_s == pytest.approx(0.04 + jitter.NACK_FIRST_S)
    assert buffer.nacks(0.09) == [number]
    (frame,) = buffer.add(items[4][1], items[4][2], 0.1)
    assert frame.timestamp == 3600 and buffer.counts.recovered == 1
    assert buffer.nacks(0.5) == [] and not buffer.wants_key(0.5)


def test_an_unrecovered_gap_asks_for_a_key_frame_within_200_ms_and_goes_on_with_it() -> None:
    buffer = video()
    items = list(stream(20, keys=(0, 8)))
    shown, asked = [], None
    for index, (at_s, packet, data) in enumerate(items):
        if index == 4:  # of picture 1
            continue
        shown += [f.timestamp // 3600 for f in buffer.add(packet, data, at_s) + buffer.poll(at_s)]
        if buffer.wants_key(at_s):
            asked = asked or at_s
    assert asked is not None and 0.04 < asked <= 0.24
    assert shown == [0, *range(8, 20)]  # nothing that would be smeared
    assert buffer.counts.lost == 1 and buffer.counts.held == 7


@pytest.mark.parametrize("comes_s", [0.21, 0.26, 0.34])
def test_a_repeat_that_comes_before_the_key_frame_ends_the_wait(comes_s: float) -> None:
    buffer = video()
    items = list(stream(9))
    late, shown, asked = items.pop(4), [], 0
    for at_s, packet, data in items:
        shown += buffer.add(packet, data, at_s) + buffer.poll(at_s)
        if at_s >= comes_s - 0.02 and late is not None:
            asked += buffer.wants_key(comes_s)
            got = buffer.add(late[1], late[2], comes_s)
            assert len(got) == round(at_s / 0.04) - 1, "all that waited for it"
            shown, late = shown + got, None
    assert asked == 1, "whatever came first would have done"
    assert [frame.timestamp // 3600 for frame in shown] == list(range(9))
    assert buffer.counts.lost == buffer.counts.held == 0
    assert not buffer.wants_key(1.0) and buffer.next_s is None


def test_a_key_frame_with_a_hole_of_its_own_waits_for_its_repeat() -> None:
    buffer = video()
    items = list(stream(9, keys=(0, 5)))
    hole = items[16]  # the second packet of picture 5
    shown = []
    for index, (at_s, packet, data) in enumerate(items[:21]):
        if index not in (4, 16):
            shown += buffer.add(packet, data, at_s) + buffer.poll(at_s)
    assert [frame.timestamp // 3600 for frame in shown] == [0]
    shown += buffer.add(hole[1], hole[2], 0.26)
    assert [frame.timestamp // 3600 for frame in shown] == [0, 5, 6]


def test_an_h264_key_frame_is_found_by_its_parameter_sets() -> None:
    buffer = VideoBuffer(frozenset({VP8}))
    sets, first, rest = b"\0\0\0\1\x67a\0\0\0\1\x68b", b"\0\0\0\1\x65c", b"d"
    delta = b"\0\0\0\1\x41e"
    packets = [
        (0, 0, b"\x67", sets),
        (1, 0, b"\x7c", first),
        (2, 0, b"\x7c", rest),
        # 3 is lost
        (4, 3600, b"\x41", delta),
        (5, 7200, b"\x09", b"\0\0\0\1\x09f"),
        (6, 7200, b"\x67", sets),
        (7, 7200, b"\x7c", first),
        (8, 7200, b"\x7c", rest),
    ]
    shown = []
    for number, time, payload, data in packets:
        marker = int(number in (2, 4, 8))
        packet = Packet(number, time, marker, payload, H264)
        shown += buffer.add(packet, data, 0.04 * number)
    assert [frame.timestamp for frame in shown] == [0, 7200]  # 0.04 * 8 is later than KEY_AFTER_S
    assert shown[1].data.startswith(b"\0\0\0\1\x09f") and shown[1].key


@pytest.mark.parametrize("round_s", [0.005, 0.04])
def test_repeats_are_asked_for_again_after_somewhat_more_than_a_round_trip(round_s: float) -> None:
    buffer, asked = video(), 0
    coming: list[tuple[float, Packet, bytes]] = []
    for index, (at_s, packet, data) in enumerate(stream(400, packets=1)):
        if index % 4 == 2:
            coming.append((at_s + 0.04 + round_s, packet, data))
        else:
            buffer.add(packet, data, at_s)
        for step in range(40):
            now = at_s + step * 0.001
            while coming and coming[0][0] <= now:
                buffer.add(coming[0][1], coming[0][2], coming.pop(0)[0])
            asked += len(buffer.nacks(now)) * (at_s > 8.0)
    assert asked == 50, "each was asked for once in the second half"
    assert buffer.counts.recovered >= 99 and buffer.counts.lost == 0


def test_a_sender_that_ignores_requests_is_shown_smeared_rather_than_frozen() -> None:
    buffer = video()
    frames = run(buffer, stream(30), {4})
    gaps = [b - a for (a, _), (b, _) in zip(frames, frames[1:], strict=False)]
    assert max(gaps) <= jitter.HOLD_S + 0.08
    assert frames[-1][1].timestamp == 29 * 3600


def test_nothing_is_shown_before_the_first_key_frame() -> None:
    buffer = video()
    frames = run(buffer, stream(40, keys=(30,)), set())
    assert [f.timestamp // 3600 for _, f in frames] == list(range(30, 40))
    assert buffer.wants_key(100.0) is False


def test_a_request_for_a_key_frame_is_repeated_but_not_with_every_packet() -> None:
    buffer = video()
    asked = 0
    for at_s, packet, data in stream(50, keys=()):
        buffer.add(packet, data, at_s)
        asked += buffer.wants_key(at_s)
    assert 7 <= asked <= 10  # two seconds, every 200 ms


def test_a_sender_that_begins_anew_is_followed() -> None:
    buffer = video()
    first = run(buffer, stream(3), set())
    items = list(stream(3))
    for _, packet, _ in items:
        packet.sequence_number = (packet.sequence_number + 30_000) & 0xFFFF
    again = run(buffer, iter(items), set())
    assert len(first) == 3 and len(again) == 3


def test_memory_is_bounded_whatever_comes() -> None:
    buffer = video()
    buffer.add(Packet(0, 0, 0, b"\x10"), b"x", 0.0)
    for number in range(1, 5000):  # one endless picture
        buffer.add(Packet(number, 0, 0, b"\x00"), b"x", 0.0)
        assert len(buffer._slots) <= jitter.MAX_PACKETS
    scattered = video()
    for number in range(0, 60_000, 1999):
        scattered.add(Packet(number, number, 1, b"\x10"), b"x", 0.0)
        assert len(scattered.nacks(0.0)) <= jitter.MAX_NACKS


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.02, 0.1, 0.2])
@pytest.mark.parametrize("seed", range(12))
def test_no_loss_freezes_the_picture(seed: int, loss: float) -> None:
    """Without any repeats: the sender answers each request for a key frame in 80 ms."""
    rng, buffer = random.Random(seed), video()
    number, shown, now = FIRST, [0.0], 0.0
    key_at: float | None = 0.0
    for picture in range(150):
        now = picture * 0.04
        key = key_at is not None and now >= key_at
        key_at = None if key else key_at
        data = key_data() if key else delta_data()
        for part in range(2):
            packet = Packet(number & 0xFFFF, picture * 3600, part, b"\x10" if not part else b"\0")
            number += 1
            if rng.random() >= loss:
                piece = data[part * 20 : part * 20 + 20]
                shown += [now] * len(buffer.add(packet, piece, now))
        for step in range(4):
            tick = now + step * 0.01
            shown += [tick] * len(buffer.poll(tick))
            if buffer.wants_key(tick):
                key_at = tick + 0.08
    if loss <= 0.02:
        assert max(b - a for a, b in zip(shown, shown[1:], strict=False)) <= 0.5
    assert buffer.counts.gap_wait_max_s <= 0.2
    assert shown[-1] > now - 3.0


# --- sound ---


def sound(number: int, step: int = 1) -> Packet:
    time = (4_294_967_000 + number * 960 * step) & 0xFFFF_FFFF
    return Packet((FIRST + number) & 0xFFFF, time, 0, b"s", OPUS)


def test_sound_leaves_at_once_and_in_order() -> None:
    buffer = AudioBuffer()
    out = []
    for number in (0, 1, 3, 2, 4):
        out += buffer.add(sound(number), bytes([number]), number * 0.02)
    assert [block.data[0] for block in out] == [0, 1, 2, 3, 4]
    assert [block.timestamp for block in out] == [0, 960, 1920, 2880, 3840]
    assert buffer.next_s is None and buffer.counts.recovered == 1


def test_one_lost_packet_costs_itself_and_a_bounded_wait() -> None:
    buffer = AudioBuffer()
    out: list[tuple[float, EncodedFrame]] = []
    for number in range(40):
        now = number * 0.02
        if number != 20:
            out += [(now, b) for b in buffer.add(sound(number), b"x", now)]
        out += [(now, b) for b in buffer.poll(now)]
    assert [block.timestamp // 960 for _, block in out] == list(range(40))
    assert [block.timestamp // 960 for _, block in out if block.lost] == [20]
    delays = [at_s - block.timestamp / 48_000 for at_s, block in out]
    assert max(delays) <= jitter.AUDIO_WAIT_S + 0.04
    assert delays[-1] < 0.001  # the delay does not stay


def test_long_holes_are_not_filled_with_invented_sound() -> None:
    buffer = AudioBuffer()
    buffer.add(sound(0), b"x", 0.0)
    buffer.add(sound(101), b"x", 2.0)
    blocks = buffer.poll(2.0 + jitter.AUDIO_WAIT_S)
    assert sum(block.lost for block in blocks) == jitter.CONCEALED
    assert blocks[-1].timestamp == 101 * 960 and buffer.counts.lost == 100


def test_repeated_and_late_sound_is_dropped() -> None:
    buffer = AudioBuffer()
    for number in (0, 1, 1, 0, 2):
        buffer.add(sound(number), b"x", 0.0)
    assert buffer.counts.frames == 3 and buffer.counts.late == 2


@given(st.lists(st.integers(0, 0xFFFF), max_size=200), st.integers(0, 2**32 - 1))
def test_sound_survives_any_sequence(numbers: list[int], time: int) -> None:
    buffer, now = AudioBuffer(), 0.0
    for number in numbers:
        now += 0.005
        buffer.add(Packet(number, time ^ number << 16 & 0xFFFF_FFFF, 0, b"", OPUS), b"x", now)
        buffer.poll(now)
        assert len(buffer._waiting) <= jitter.RESTART
    buffer.poll(now + 1)
    assert not buffer._waiting
