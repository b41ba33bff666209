"""What encoded frames are, read from their bytes."""

from __future__ import annotations

import pytest

from lipwire.server.rtc.bitstream import h264_starts, is_key, vp8_starts

VP8_KEY, VP8_DELTA = b"\x10\x02\x00\x9d\x01\x2a\x40\x00\x40\x00", b"\x11\x02\x00" + bytes(40)
START = b"\0\0\0\1"


def test_vp8_key_frames_are_told_by_their_tag() -> None:
    assert is_key(VP8_KEY, vp8=True)
    assert not is_key(VP8_DELTA, vp8=True)
    assert not is_key(VP8_KEY[:9], vp8=True), "a torn one has no size to decode with"


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (START + b"\x67abc" + START + b"\x68d" + START + b"\x65efg", True),
        (START + b"\x06sei\0\0\1\x65efg", True),  # a message before the IDR slice
        (START + b"\x41efg", False),
        (START + b"\x41efg" + START + b"\x65", False),  # the first slice decides
        (START, False),
        (b"", False),
    ],
)
def test_h264_key_frames_are_told_by_their_first_slice(data: bytes, key: bool) -> None:
    assert is_key(data, vp8=False) is key


@pytest.mark.parametrize(
    ("payload", "starts"),
    [
        (b"\x67abc", True),  # a sequence parameter set
        (b"\x09\xf0", True),  # an access unit delimiter
        (b"\x78\x00\x04\x67abc", True),  # STAP-A, its first unit a parameter set
        (b"\x78\x00\x04\x41abc", False),
        (b"\x78\x00", False),  # torn
        (b"\x7c\x85abc", False),  # FU-A
        (b"", False),
    ],
)
def test_where_an_h264_picture_certainly_begins(payload: bytes, starts: bool) -> None:
    assert h264_starts(payload) is starts


@pytest.mark.parametrize(
    ("payload", "starts"),
    [(b"\x10abc", True), (b"\x00abc", False), (b"\x11abc", False), (b"", False)],
)
def test_where_a_vp8_picture_begins(payload: bytes, starts: bool) -> None:
    assert vp8_starts(payload) is starts, "the S bit of partition 0, RFC 7741 section 4.2"
