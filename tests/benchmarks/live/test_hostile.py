"""The attacks are what they say to be, and what watches a server sees them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import av
import pytest
from aiortc import RTCRtpCodecParameters
from aiortc.codecs import h264
from aiortc.jitterbuffer import JitterFrame
from fakes import FakeBackend

from lipwire.benchmarks.rig.bombs import h264_bomb, vp8_bomb
from lipwire.benchmarks.rig.faulty import FaultyBackend
from lipwire.benchmarks.rig.watch import Glance, loop_figures, throw, udp_ports
from lipwire.engine import BackendError
from lipwire.server.rtc.bitstream import vp8_key_size
from lipwire.server.rtc.decoders import make_decoder

H264 = RTCRtpCodecParameters("video/H264", 90_000, payloadType=99)


def _annex_b(payloads: list[bytes]) -> bytes:
    return b"".join(b"\0\0\0\1" + payload for payload in payloads)


def test_the_vp8_bomb_claims_a_huge_picture() -> None:
    assert vp8_key_size(vp8_bomb()[1:]) == (16_383, 16_383)


def test_the_h264_bomb_is_a_picture_of_its_size_and_is_refused() -> None:
    small = av.CodecContext.create("h264", "r")
    (frame,) = [*small.decode(av.Packet(_annex_b(h264_bomb(blocks=5)))), *small.decode(None)]
    assert (frame.width, frame.height) == (80, 80)  # type: ignore[attr-defined]
    decoder = make_decoder(H264, 1280 * 720)
    assert isinstance(decoder._inner, h264.H264Decoder)  # type: ignore[attr-defined]
    assert decoder.decode(JitterFrame(_annex_b(h264_bomb()), 0)) == []
    assert decoder._inner.codec.width < 16_384  # type: ignore[attr-defined]


def test_waking_late_is_read_from_two_looks() -> None:
    inf = float("inf")
    before = Glance(0, 100, {0.01: 10, 0.05: 10, 0.1: 10, inf: 10})
    after = Glance(1, 100, {0.01: 109, 0.05: 109, 0.1: 110, inf: 110})
    figures = loop_figures(before, after)
    assert figures == {"lag_p99_ms": 10, "lag_max_ms": 100, "stalls_over_50_ms": 1}
    worse = Glance(2, 100, {0.01: 109, 0.05: 109, 0.1: 110, inf: 120})
    assert loop_figures(after, worse)["lag_max_ms"] is None  # beyond the last bucket


def test_packets_reach_the_ports_of_a_process() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        port = listener.getsockname()[1]
        assert port in udp_ports(os.getpid())
        assert throw([b"a", b"bc"], [port], 10_000) == 2
        assert [listener.recv(9), listener.recv(9)] == [b"a", b"bc"]


def test_a_faulty_model_fails_as_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "fault"
    file.write_text("")
    backend = FaultyBackend(FakeBackend(), file)
    assert backend.generate([]) == []
    for fault, kind in (("raise", BackendError), ("memory", MemoryError)):
        file.write_text(fault)
        with pytest.raises(kind):
            backend.generate([])
    backend.close()
