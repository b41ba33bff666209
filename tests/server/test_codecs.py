"""Decoders that refuse bombs, encoders that outlive their faults."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from aiortc import RTCRtpCodecParameters
from aiortc.codecs import vpx
from aiortc.jitterbuffer import JitterFrame
from fakes import picture

from server import codecs
from server.codecs import GuardedEncoder, install, make_decoder, suggest_bitrate, vp8_key_size

VP8 = RTCRtpCodecParameters("video/VP8", 90_000, payloadType=97)
H264 = RTCRtpCodecParameters("video/H264", 90_000, payloadType=99)


def av_frame(height: int, width: int, pts: int = 0) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture(height, width), format="rgb24")
    frame = frame.reformat(format="yuv420p")
    frame.pts, frame.time_base = pts, Fraction(1, 90_000)
    return frame


def encoded(codec: str, height: int, width: int, count: int = 1) -> Iterator[bytes]:
    """Whole encoded frames, a key frame first."""
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base = Fraction(1, 90_000)
    if codec == "libvpx":
        context.options = {"deadline": "realtime", "lag-in-frames": "0"}
    else:
        context.options = {"tune": "zerolatency"}
    for index in range(count):
        yield b"".join(bytes(p) for p in context.encode(av_frame(height, width, index * 3600)))


def vp8_header(width: int, height: int) -> bytes:
    """The start of a key frame that claims a size."""
    sizes = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return b"\x10\x02\x00\x9d\x01\x2a" + sizes + bytes(200)


def test_the_size_is_read_from_key_frames_only() -> None:
    key, delta = encoded("libvpx", 96, 128, 2)
    assert vp8_key_size(key) == (128, 96)
    assert vp8_key_size(delta) is None
    assert vp8_key_size(vp8_header(16_383, 16_383)) == (16_383, 16_383)
    assert vp8_key_size(vp8_header(640 | 0x4000, 480 | 0xC000)) == (
        640,
        480,
    )  # the scale is not size
    assert vp8_key_size(key[:9]) is None and vp8_key_size(b"") is None


def test_a_bomb_is_refused_before_it_reaches_the_decoder(caplog: pytest.LogCaptureFixture) -> None:
    decoder: Any = make_decoder(VP8, 1920 * 1088)
    asked: list[bytes] = []
    inner = decoder._inner.decode
    decoder._inner.decode = lambda frame: asked.append(frame.data) or inner(frame)
    key, delta = encoded("libvpx", 96, 128, 2)
    with caplog.at_level(logging.WARNING):
        assert decoder.decode(JitterFrame(vp8_header(16_383, 16_383), 0)) == []
        assert decoder.decode(JitterFrame(delta, 1)) == []  # belongs to the refused picture
    assert asked == [] and decoder.refused == 2
    assert len(caplog.records) == 1 and "16383x16383" in caplog.text
    (frame,) = decoder.decode(JitterFrame(key, 2))  # a sane picture brings it back
    assert (frame.width, frame.height) == (128, 96)


def test_a_large_h264_picture_is_refused() -> None:
    (small,), (large,) = encoded("libx264", 96, 128), encoded("libx264", 720, 1280)
    (frame,) = make_decoder(H264, 640 * 480).decode(JitterFrame(small, 0))
    assert frame.width == 128  # type: ignore[attr-defined]
    with pytest.raises(av.FFmpegError):
        make_decoder(H264, 640 * 480).decode(JitterFrame(large, 0))


def test_damaged_pictures_ask_for_a_key_frame_and_do_not_end_the_decoder() -> None:
    decoder = make_decoder(VP8, 1920 * 1088)
    with pytest.raises(av.FFmpegError):  # which aiortc answers with a picture loss indication
        decoder.decode(JitterFrame(vp8_header(64, 64)[:30], 0))
    (key,) = encoded("libvpx", 96, 128)
    assert len(decoder.decode(JitterFrame(key, 1))) == 1


@pytest.mark.parametrize("codec", [VP8, H264], ids=["VP8", "H264"])
def test_what_is_encoded_can_be_decoded(codec: RTCRtpCodecParameters) -> None:
    encoder = GuardedEncoder(codec)
    depayload = codecs.vpx.vp8_depayload if codec is VP8 else codecs.h264.h264_depayload
    decoder = make_decoder(codec, 1920 * 1088)
    frames = []
    for index in range(5):
        payloads, stamp = encoder.encode(av_frame(240, 320, index * 3600))
        assert stamp == index * 3600
        data = b"".join(depayload(payload) for payload in payloads)
        frames += decoder.decode(JitterFrame(data, stamp))
    image = frames[-1].to_ndarray(format="rgb24")  # type: ignore[attr-defined]
    assert np.abs(image.astype(int) - picture(240, 320)).mean() < 6
    assert encoder.failures == 0


def test_an_encoder_that_fails_costs_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = GuardedEncoder(VP8)

    def broken(frame: object, force: bool = False) -> tuple[list[bytes], int]:
        raise AssertionError("a frame it did not like")

    monkeypatch.setattr(encoder._inner, "encode", broken)
    assert encoder.encode(av_frame(240, 320)) == ([], 0)
    payloads, _ = encoder.encode(av_frame(240, 320, 3600))
    assert payloads and encoder.failures == 1


def test_pictures_may_change_their_size() -> None:
    encoder = GuardedEncoder(VP8)
    for index, (height, width) in enumerate([(240, 320), (48, 64), (16, 16), (241, 319)]):
        assert encoder.encode(av_frame(height, width, index * 3600))[0]
    assert encoder.failures == 0


def test_bit_rates_change_calmly() -> None:
    install(1920 * 1088)
    encoder = GuardedEncoder(VP8)
    assert encoder.target_bitrate == codecs.START_BITRATE
    encoder.target_bitrate = int(codecs.START_BITRATE * 1.2)  # too small a step for a key frame
    assert encoder.target_bitrate == codecs.START_BITRATE
    encoder.target_bitrate = 2_400_000
    assert encoder.target_bitrate == 2_400_000
    encoder.target_bitrate = 1_500_000  # too soon
    assert encoder.target_bitrate == 2_400_000
    encoder.target_bitrate = 300_000  # the network broke down: at once
    assert encoder.target_bitrate == 300_000
    assert vpx.MAX_BITRATE == codecs.VP8_MAX_BITRATE


def test_browsers_are_asked_to_start_at_a_rate_that_shows_a_face() -> None:
    answer = "m=video 9 X 96 99\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:99 H264/90000\r\n"
    answer += (
        "a=fmtp:99 profile-level-id=42e01f\r\nm=audio 9 X 111\r\na=rtpmap:111 opus/48000/2\r\n"
    )
    lines = suggest_bitrate(answer).splitlines()
    assert "a=fmtp:96 x-google-start-bitrate=1500" in lines
    assert "a=fmtp:99 profile-level-id=42e01f;x-google-start-bitrate=1500" in lines
    assert len(lines) == len(answer.splitlines()) + 1
