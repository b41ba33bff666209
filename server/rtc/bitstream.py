"""Encoded frames, after the packets and before a decoder: what they are, read from their bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EncodedFrame:
    """What a decoder gets: one picture, or one block of sound."""

    data: bytes
    timestamp: int
    """RTP time, unwrapped, from the stream's first packet on"""
    payload_type: int
    key: bool = False
    """decodable without what came before"""
    lost: bool = False
    """nothing came: conceal it"""
    complete_s: float = 0.0
    """when its last packet had come"""


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
