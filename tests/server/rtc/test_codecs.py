"""Decoders that refuse bombs, encoders that outlive their faults."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from aiortc import RTCRtpCodecParameters
from aiortc.codecs import h264, vpx
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import compute_audio_level_dbov
from fakes import picture

from lipwire.engine.media.files import to_rgb
from lipwire.server.config import ServerConfig
from lipwire.server.rtc.bitstream import EncodedFrame, is_key, vp8_key_size
from lipwire.server.rtc.codecs import GuardedEncoder, audio_level_dbov, suggest_bitrate
from lipwire.server.rtc.decoders import make_decoder
from lipwire.server.rtc.patch import apply

VP8 = RTCRtpCodecParameters("video/VP8", 90_000, payloadType=97)
H264 = RTCRtpCodecParameters("video/H264", 90_000, payloadType=99)
OPUS = RTCRtpCodecParameters("audio/opus", 48_000, channels=2, payloadType=96)
PCMU = RTCRtpCodecParameters("audio/PCMU", 8_000, channels=1, payloadType=0)


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
    assert make_decoder(H264, 640 * 480).decode(JitterFrame(large, 0)) == []


def test_damaged_pictures_ask_for_a_key_frame_and_do_not_end_the_decoder() -> None:
    decoder = make_decoder(VP8, 1920 * 1088)
    with pytest.raises(av.FFmpegError):  # which aiortc answers with a picture loss indication
        decoder.decode(JitterFrame(vp8_header(64, 64)[:30], 0))
    (key,) = encoded("libvpx", 96, 128)
    assert len(decoder.decode(JitterFrame(key, 1))) == 1


@pytest.mark.parametrize("codec", [VP8, H264], ids=["VP8", "H264"])
def test_what_is_encoded_can_be_decoded(codec: RTCRtpCodecParameters) -> None:
    encoder = GuardedEncoder(codec, ServerConfig())
    depayload = vpx.vp8_depayload if codec is VP8 else h264.h264_depayload
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
    encoder: Any = GuardedEncoder(VP8, ServerConfig())

    def broken(frame: object, force: bool = False) -> tuple[list[bytes], int]:
        raise AssertionError("a frame it did not like")

    monkeypatch.setattr(encoder._inner, "encode", broken)
    assert encoder.encode(av_frame(240, 320)) == ([], 0)
    payloads, _ = encoder.encode(av_frame(240, 320, 3600))
    assert payloads and encoder.failures == 1


def test_pictures_may_change_their_size() -> None:
    encoder = GuardedEncoder(VP8, ServerConfig())
    for index, (height, width) in enumerate([(240, 320), (48, 64), (16, 16), (241, 319)]):
        assert encoder.encode(av_frame(height, width, index * 3600))[0]
    assert encoder.failures == 0


def test_bit_rates_change_calmly() -> None:
    apply(ServerConfig())
    encoder = GuardedEncoder(VP8, ServerConfig(start_kbps=1500, max_kbps=2500))
    encoder.encode(av_frame(240, 320))
    assert encoder.target_bitrate == 1_500_000 and not encoder.fresh
    encoder.target_bitrate = 1_400_000  # too small a step for a key frame
    assert encoder.target_bitrate == 1_500_000
    encoder.target_bitrate = 400_000  # the network broke down: at once
    assert encoder.target_bitrate == 400_000 and encoder.fresh
    encoder.target_bitrate = 2_400_000  # too soon
    assert encoder.target_bitrate == 400_000


def noise(index: int) -> av.VideoFrame:
    """A picture that no encoder can make small."""
    rng = np.random.default_rng(index % 8)
    image = rng.integers(0, 255, (240, 320, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
    frame.pts, frame.time_base = index * 3000, Fraction(1, 90_000)
    return frame


def test_h264_keeps_its_rate_and_takes_a_new_one_for_one_key_frame() -> None:
    apply(ServerConfig())
    encoder = GuardedEncoder(H264, ServerConfig(start_kbps=2000))
    sizes, keys = [], 0
    for index in range(150):
        if index == 60:
            encoder.target_bitrate = 500_000
        payloads, _ = encoder.encode(noise(index))
        data = b"".join(h264.h264_depayload(payload) for payload in payloads)
        keys += is_key(data, vp8=False)
        sizes.append(len(data) * 8 * 30)
    assert keys == 2
    assert 1_000_000 < np.mean(sizes[30:60]) < 2_500_000
    assert np.mean(sizes[120:]) < 0.5 * np.mean(sizes[30:60])


@pytest.mark.parametrize("fps", [10, 60])
def test_h264_keeps_its_rate_however_many_pictures_come(fps: int) -> None:
    """x264 spends by the picture: told 30 a second, sixty would overfill the path."""
    encoder, bits = GuardedEncoder(H264, ServerConfig(start_kbps=1000)), 0
    for index in range(4 * fps):
        frame = noise(index)
        frame.pts = round(index * 90_000 / fps)
        payloads, _ = encoder.encode(frame)
        bits += sum(map(len, payloads)) * 8 if index >= 2 * fps else 0
    assert 700_000 < bits / 2 < 1_250_000


@pytest.mark.parametrize("codec", [VP8, H264], ids=["VP8", "H264"])
def test_odd_sizes_are_encoded(codec: RTCRtpCodecParameters) -> None:
    encoder = GuardedEncoder(codec, ServerConfig())
    for index, (height, width) in enumerate([(240, 320), (241, 319), (480, 640)]):
        assert encoder.encode(av_frame(height, width, index * 3600))[0]
    assert encoder.failures == 0


def test_a_small_stream_may_not_turn_into_a_large_one() -> None:
    (small,), (large,) = encoded("libx264", 96, 128), encoded("libx264", 720, 1280)
    decoder = make_decoder(H264, 640 * 480)
    assert len(decoder.decode(JitterFrame(small, 0))) == 1
    assert decoder.decode(JitterFrame(large, 3600)) == []
    assert len(decoder.decode(JitterFrame(small, 7200))) == 1


# --- sound ---


def block(index: int, layout: str = "mono", samples: int = 960) -> av.AudioFrame:
    t = (np.arange(samples) + index * samples) / 48_000
    wave = np.asarray(8000 * np.sin(2 * np.pi * 300 * t), np.int16)
    channels = 2 if layout == "stereo" else 1
    frame = av.AudioFrame.from_ndarray(np.repeat(wave, channels)[None], "s16", layout)
    frame.sample_rate, frame.pts, frame.time_base = 48_000, index * samples, Fraction(1, 48_000)
    return frame


def heard(frames: list[Any]) -> float:
    return float(np.mean([np.abs(f.to_ndarray().astype(int)).mean() for f in frames]))


@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_each_block_of_sound_is_one_packet_with_its_own_time(layout: str) -> None:
    encoder, decoder = GuardedEncoder(OPUS, ServerConfig()), make_decoder(OPUS, 1)
    stamps, frames = [], []
    for index in range(10):
        payloads, stamp = encoder.encode(block(index, layout))
        assert len(payloads) == 1
        stamps.append(stamp)
        frames += decoder.decode(JitterFrame(payloads[0], stamp))
    assert np.diff(stamps).tolist() == [960] * 9
    assert -960 < stamps[0] <= 0  # what the codec looks ahead is taken off
    assert [f.samples for f in frames] == [960] * 10  # type: ignore[attr-defined]
    assert heard(frames[3:]) > 4000


def test_sound_of_other_lengths_is_taken_too() -> None:
    encoder = GuardedEncoder(OPUS, ServerConfig())
    assert sum(len(encoder.encode(block(index, samples=480))[0]) for index in range(10)) >= 4
    assert encoder.failures == 0


def test_a_lost_block_is_concealed_and_not_silent() -> None:
    encoder, decoder = GuardedEncoder(OPUS, ServerConfig()), make_decoder(OPUS, 1)
    frames: list[Any] = []
    for index in range(30):
        (payload,), stamp = encoder.encode(block(index))
        lost = index in (20, 21)
        frame = EncodedFrame(b"" if lost else payload, stamp, 96, lost=lost)
        frames += decoder.decode(frame)  # type: ignore[arg-type]
    assert [f.samples for f in frames] == [960] * 30
    assert heard(frames[20:22]) > 0.4 * heard(frames[10:20])


def test_codecs_that_cannot_conceal_leave_a_lost_block_out() -> None:
    decoder = make_decoder(PCMU, 1)
    assert decoder.decode(EncodedFrame(b"", 0, 0, lost=True)) == []  # type: ignore[arg-type]
    assert len(decoder.decode(JitterFrame(bytes(160), 0))) == 1


def test_loudness_is_that_of_the_standard() -> None:
    assert audio_level_dbov(block(0)) == compute_audio_level_dbov(block(0))
    silent = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), "s16", "mono")
    assert audio_level_dbov(silent) == -127


def test_browsers_are_asked_to_start_at_a_rate_that_shows_a_face() -> None:
    answer = "m=video 9 X 96 99\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:99 H264/90000\r\n"
    answer += (
        "a=fmtp:99 profile-level-id=42e01f\r\nm=audio 9 X 111\r\na=rtpmap:111 opus/48000/2\r\n"
    )
    lines = suggest_bitrate(answer).splitlines()
    assert "a=fmtp:96 x-google-start-bitrate=1500" in lines
    assert "a=fmtp:99 profile-level-id=42e01f;x-google-start-bitrate=1500" in lines
    assert len(lines) == len(answer.splitlines()) + 1


def native_threads() -> int:
    """Those of this process, libraries' included."""
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
@pytest.mark.parametrize("codec", [VP8, H264])
def test_a_closed_encoder_keeps_no_threads_although_it_is_held(codec: Any) -> None:
    encoder = GuardedEncoder(codec, ServerConfig())
    before = native_threads()
    assert encoder.encode(av_frame(480, 640))[0]
    encoder.close()
    assert native_threads() <= before
    assert encoder.encode(av_frame(480, 640, 3600)) == ([], 0)  # a frame that was under way
    assert native_threads() <= before


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_a_picture_that_was_converted_keeps_no_threads() -> None:
    before = native_threads()
    kept = [av_frame(480, 640, k) for k in range(8)]
    own = native_threads() - before  # made here by frames' own scalers
    images = [to_rgb(frame) for frame in kept]
    assert native_threads() - before <= own and len(images) == 8
