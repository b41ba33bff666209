"""Pictures that claim to be huge, and a caller that sends them."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import av
from aiortc import MediaStreamTrack
from aiortc.codecs.base import Encoder


def vp8_bomb(side_px: int = 16_383) -> bytes:
    """An RTP payload: the start of a VP8 key frame of this size (RFC 7741, RFC 6386 9.1)."""
    size = side_px.to_bytes(2, "little")
    return b"\x10" + b"\x10\x02\x00\x9d\x01\x2a" + size + size + bytes(900)


class _Bits:
    """Bits in the order of H.264."""

    def __init__(self) -> None:
        self._bits = ""

    def put(self, value: int, width: int) -> None:
        """An unsigned number of fixed width."""
        self._bits += f"{value:0{width}b}"

    def golomb(self, *values: int) -> None:
        """ue(v), ITU-T H.264 section 9.1."""
        for value in values:
            digits = f"{value + 1:b}"
            self._bits += "0" * (len(digits) - 1) + digits

    def done(self) -> bytes:
        """All of them, with the stop bit (7.3.2.11) and emulation prevention (7.4.1)."""
        bits = self._bits + "1"
        bits += "0" * (-len(bits) % 8)
        raw, out, zeros = int(bits, 2).to_bytes(len(bits) // 8), bytearray(), 0
        for byte in raw:
            if zeros >= 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes(out)


def h264_bomb(blocks: int = 1024) -> list[bytes]:
    """RTP payloads: parameter sets of blocks x blocks macroblocks of 16 px, and a key picture."""
    sps = _Bits()
    sps.put(66, 8)  # baseline
    sps.put(0xE0, 8)
    sps.put(51, 8)
    sps.golomb(0, 0, 2, 1)  # id, frame number bits, order of pictures, reference frames
    sps.put(0, 1)
    sps.golomb(blocks - 1, blocks - 1)
    sps.put(0b1_1_0_0, 4)  # frames only, direct 8x8, no cropping, no VUI
    pps = _Bits()
    pps.golomb(0, 0)
    pps.put(0, 2)
    pps.golomb(0, 0, 0)
    pps.put(0, 3)
    pps.golomb(0, 0, 0)  # se(v) of 0 has the same bits
    pps.put(0, 3)
    picture = _Bits()
    picture.golomb(0, 7, 0)  # first block, intra only, its parameter set
    picture.put(0, 4)  # frame number
    picture.golomb(0)
    picture.put(0, 2)  # no long-term reference
    picture.golomb(0)  # se(v) of 0
    return [
        b"\x67" + sps.done(),
        b"\x68" + pps.done(),
        b"\x65" + picture.done() + bytes(range(1, 201)),
    ]


class BombEncoder(Encoder):
    """Sends the same payloads for every picture."""

    def __init__(self, payloads: list[bytes]) -> None:
        self._payloads = payloads
        self.target_bitrate = 1_000_000

    def encode(self, frame: Any, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """The bomb, at the picture's own time."""
        return self._payloads, int(frame.pts)

    def pack(self, packet: Any) -> tuple[list[bytes], int]:
        """Nothing is encoded beforehand here."""
        raise NotImplementedError


class BlankCamera(MediaStreamTrack):
    """Small grey pictures at 25 fps."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(0.04)
        frame = av.VideoFrame(64, 48, "yuv420p")
        frame.pts, frame.time_base = self._count * 3600, Fraction(1, 90_000)
        self._count += 1
        return frame
