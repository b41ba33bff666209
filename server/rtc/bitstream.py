"""Encoded frames, after the packets and before a decoder: what they are, read from their bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class EncodedFrame:
    """What a decoder gets: one picture, or one block of sound."""

    data: bytes
    timestamp: int  # RTP time, unwrapped, from the stream's first packet on
    payload_type: int
    key: bool = False  # decodable without what came before
    lost: bool = False  # nothing came: conceal it
    complete_s: float = 0.0  # when its last packet had come
    on_size: Callable[[tuple[int, int], bool], None] | None = None
    """told the size that a key picture claims and whether it is decoded, on the decoder's thread"""


def vp8_starts(payload: bytes) -> bool:
    """Whether a VP8 payload begins a picture: S bit set, partition 0 (RFC 7741 section 4.2)."""
    return bool(payload) and payload[0] & 0x1F == 0x10


def h264_starts(payload: bytes) -> bool:
    """Whether an H.264 payload begins with parameter sets or a delimiter (RFC 6184 section 5.2)."""
    if not payload:
        return False
    kind = payload[0] & 0x1F
    if kind == 24 and len(payload) > 3:  # STAP-A: the first unit in it
        kind = payload[3] & 0x1F
    return kind in (7, 9)


def is_key(data: bytes, vp8: bool) -> bool:
    """Whether a whole encoded picture can be decoded by itself.

    VP8: the frame tag's lowest bit (RFC 6386 section 9.1); H.264: an IDR slice in Annex B form.
    """
    if vp8:
        return len(data) >= 10 and not data[0] & 1
    place = data.find(b"\x00\x00\x01")
    while 0 <= place < len(data) - 3:
        kind = data[place + 3] & 0x1F
        if kind in (5, 7):  # parameter sets without an IDR slice begin an intra refresh
            return True
        if kind == 1:
            return False
        place = data.find(b"\x00\x00\x01", place + 3)
    return False


def vp8_key_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a VP8 key frame claims (RFC 6386 section 9.1); None for others."""
    if len(data) < 10 or data[0] & 1 or data[3:6] != b"\x9d\x01\x2a":
        return None
    # The upper two bits of each are a scale that decoders leave to the player.
    return (
        int.from_bytes(data[6:8], "little") & 0x3FFF,
        int.from_bytes(data[8:10], "little") & 0x3FFF,
    )


def h264_key_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that H.264's sequence parameters in Annex B form claim; None without any.

    ITU-T H.264 section 7.3.2.1.1; in whole macroblocks, before cropping.
    """
    place = data.find(b"\x00\x00\x01")
    while 0 <= place < len(data) - 3:
        if data[place + 3] & 0x1F == 7:
            stop = data.find(b"\x00\x00\x01", place + 3)
            unit = data[place + 4 : stop if stop > 0 else len(data)][:256]
            try:
                return _sps_size(unit.replace(b"\x00\x00\x03", b"\x00\x00"))
            except IndexError:
                return None
        place = data.find(b"\x00\x00\x01", place + 3)
    return None


class _Bits:
    """Reads bits, and Exp-Golomb codes (section 9.1)."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def bits(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self._data[self._at >> 3] >> (7 - (self._at & 7)) & 1
            self._at += 1
        return value

    def code(self) -> int:
        zeros = 0
        while not self.bits(1):
            zeros += 1
        return (1 << zeros) - 1 + self.bits(zeros)


def _sps_size(unit: bytes) -> tuple[int, int]:
    """Of a sequence parameter set without its header byte."""
    read = _Bits(unit)
    profile = read.bits(8)
    read.bits(16)
    read.code()
    if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128):
        chroma = read.code()
        if chroma == 3:
            read.bits(1)
        for _ in range(2):
            read.code()  # depths
        read.bits(1)
        if read.bits(1):  # scaling lists
            for index in range(12 if chroma == 3 else 8):
                if read.bits(1):
                    _skip_scaling_list(read, 16 if index < 6 else 64)
    read.code()
    order = read.code()
    if order == 0:
        read.code()
    elif order == 1:
        read.bits(1)
        read.code(), read.code()
        for _ in range(read.code()):
            read.code()
    read.code()
    read.bits(1)
    width, height = 16 * (read.code() + 1), 16 * (read.code() + 1)
    return width, height * (1 if read.bits(1) else 2)


def _skip_scaling_list(read: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = read.code()
            following = (last + (code + 1) // 2 * (1 if code & 1 else -1)) % 256
        last = following or last
