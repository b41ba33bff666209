"""Encoders around aiortc's own that never end a call; decoders are in `decoders`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from aiortc import RTCRtpCodecParameters
from aiortc.codecs import get_encoder, h264, opus, vpx
from aiortc.codecs.base import Encoder
from av.frame import Frame
from av.packet import Packet

from lipwire.server.config import ServerConfig
from lipwire.server.rtc.rate_control import PictureRate, RateController
from lipwire.server.rtc.tracks import VIDEO_TIME_BASE

log = logging.getLogger(__name__)

# Below this a face cannot be made out; a path that carries less drops packets whatever we do.
LOWEST_BITRATE = 250_000
OPUS_BITRATE = 64_000  # one voice, full band, transparent
BLOCK = opus.SAMPLES_PER_FRAME  # 20 ms at 48 kHz
# Longest key frame distance: lost pictures are repaired on request, not by the clock.
GOP = 3000
SAME_RATE = 0.1  # a change of the bit rate that is not worth a new VP8 encoder and its key frame


class GuardedEncoder(Encoder):
    """An encoder whose failure costs one frame, not the call; new bit rates reach it calmly.

    Any exception would end aiortc's sender for good while the peer stays connected.

    Args:
        codec: what to encode to.
        settings: bit rates.
        rate_controller: decides on new bit rates; None makes one for all that the settings allow.
        whole: give each picture as one piece, for many senders to cut.
    """

    def __init__(
        self,
        codec: RTCRtpCodecParameters,
        settings: ServerConfig,
        rate_controller: RateController | None = None,
        whole: bool = False,
    ) -> None:
        self._codec, self._whole = codec, whole
        self._governor = rate_controller or RateController(
            settings.start_kbps * 1000,
            min(LOWEST_BITRATE, settings.max_kbps * 1000),
            settings.max_kbps * 1000,
        )
        self._inner = self._make()
        self._closed = False
        self.failures = 0
        self.fresh = True  # whether the next frame is a key frame anyhow

    def _make(self) -> Encoder:
        encoder = make_encoder(self._codec, self._whole)
        if hasattr(encoder, "target_bitrate"):
            encoder.target_bitrate = self._governor.rate
        return encoder

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Packets and their RTP timestamp; no packets if the frame cannot be encoded."""
        self.fresh = False
        if self._closed:
            return [], 0
        try:
            return self._inner.encode(frame, force_keyframe)
        except Exception:
            self.failures += 1
            if self.failures == 1:
                log.exception("encoding %s failed; a new encoder goes on", self._codec.mimeType)
            self._inner, self.fresh = self._make(), True
            return [], 0

    def pack(self, packet: Packet[Any]) -> tuple[list[bytes], int]:
        """Packets of a picture that is encoded already."""
        return self._inner.pack(packet)

    def close(self) -> None:
        """Free threads and pictures of the codec, now or after the frame that is in it.

        A call that is over lies in cycles of aiortc's until the garbage collector's rarest round,
        and a codec holds up to eight threads and 20 MiB that the collector knows nothing of.
        """
        self._closed = True
        self._inner = self._make()  # opens nothing before its first frame

    @property
    def target_bitrate(self) -> int:
        """Bits per second; audio encoders ignore it."""
        return int(getattr(self._inner, "target_bitrate", 0))

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        if self.target_bitrate and self._governor.estimate(bitrate, time.monotonic()):
            self._inner.target_bitrate = self._governor.rate  # type: ignore[attr-defined]
            self.fresh = True


class FastH264Encoder(h264.H264Encoder):
    """aiortc's H.264 with x264's `superfast` preset: a tenth of the time of the default.

    x264 spends its bits by the picture: told 30 a second, it gives ten a third of what they may
    have, and sixty twice that. Its own way with rates that change waits for the next picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rate = PictureRate()

    def _encode_frame(self, frame: av.VideoFrame, force_keyframe: bool) -> Iterator[bytes]:
        width, height = frame.width & ~1, frame.height & ~1  # 4:2:0 has no half pixels
        if (width, height) != (frame.width, frame.height) or frame.format.name != "yuv420p":
            pts, base = frame.pts, frame.time_base
            frame = frame.reformat(width=width, height=height, format="yuv420p")
            frame.pts, frame.time_base = pts, base
        assert frame.pts is not None and frame.time_base is not None
        codec, changed = self.codec, self._rate.record(float(frame.pts * frame.time_base))
        if (
            codec is None
            or changed
            or (width, height) != (codec.width, codec.height)
            or codec.bit_rate != self.target_bitrate
        ):
            self.codec = self._open(width, height)
        yield from super()._encode_frame(frame, force_keyframe)

    def _open(self, width: int, height: int) -> Any:
        codec = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
        codec.bit_rate, codec.gop_size = self.target_bitrate, GOP
        codec.framerate = Fraction(self._rate.fps).limit_denominator(1001)
        codec.time_base = VIDEO_TIME_BASE
        codec.profile = "Baseline"
        codec.thread_count = 1  # more cut the picture into slices, which costs bits
        codec.options = {
            "tune": "zerolatency",
            "preset": "superfast",
            "sc_threshold": "0",  # no key frames but those that are asked for
            # Half a second of bits: a smaller buffer blurs key frames, a larger one lets them clog
            # the path.
            "maxrate": str(self.target_bitrate),
            "bufsize": str(self.target_bitrate // 2),
        }
        return codec


class WholeH264Encoder(FastH264Encoder):
    """The same, but each picture in one piece, Annex B, as `pack` takes it."""

    @classmethod
    def _packetize(cls, packages: Iterable[bytes]) -> list[bytes]:
        data = b"".join(b"\x00\x00\x00\x01" + package for package in packages)
        return [data] if data else []


class FastVp8Encoder(vpx.Vp8Encoder):
    """aiortc's VP8 on one thread, faster and without its denoiser; see `lipwire bench codecs`.

    What comes here has been through a publisher's encoder, so that a denoiser only softens it: at
    one bit rate the picture gains 1 dB without, and the time goes to 0.7. libvpx' threads wait
    actively for each other: two take eight times the CPU time of one.
    """

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Payloads of a picture and its RTP time."""
        assert isinstance(frame, av.VideoFrame)
        codec, size = self.codec, (frame.width, frame.height)
        if (
            codec is None
            or size != (codec.width, codec.height)
            or abs(self.target_bitrate / (codec.bit_rate or 1) - 1) > SAME_RATE
        ):
            self.codec = self._open(*size)
        return super().encode(frame, force_keyframe)

    def _open(self, width: int, height: int) -> Any:
        codec = av.CodecContext.create("libvpx", "w")
        codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
        codec.bit_rate, codec.gop_size = self.target_bitrate, GOP
        codec.qmin, codec.qmax = 2, 56
        rate = str(self.target_bitrate)
        codec.options = {
            "deadline": "realtime",
            # Slower: 17 % more time for 0.3 dB at -8; faster: 1 dB less at -12 for 13 % of it.
            "cpu-used": "-10",
            "lag-in-frames": "0",
            # A constant rate with a second's buffer.
            "minrate": rate,
            "maxrate": rate,
            "bufsize": rate,
            "overshoot-pct": "15",
            "undershoot-pct": "100",
            "static-thresh": "1",
        }
        codec.thread_count = 1
        return codec


class WholeVp8Encoder(FastVp8Encoder):
    """The same, but each picture in one piece, as `pack` takes it."""

    @classmethod
    def _packetize(cls, buffer: bytes, picture_id: int) -> list[bytes]:
        return [buffer] if buffer else []


class VoiceEncoder(opus.OpusEncoder):
    """Opus for one voice: mono where the sound is, with what receivers need to mend a loss.

    Frames of exactly 20 ms take this path, and each becomes one packet with its own time: aiortc
    gives all packets of a longer frame the same. Others take aiortc's.
    """

    def __init__(self) -> None:
        super().__init__()
        self._voice: Any = None

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """The packet of one frame and its RTP time, which is the frame's own."""
        assert isinstance(frame, av.AudioFrame)
        if (
            frame.samples != BLOCK
            or frame.sample_rate != opus.SAMPLE_RATE
            or frame.format.name != "s16"
            or frame.time_base != opus.TIME_BASE
        ):
            return super().encode(frame, force_keyframe)
        if self._voice is None or self._voice.layout.name != frame.layout.name:
            self._voice = self._open(frame.layout.name)
        (packet,) = self._voice.encode(frame)
        # Earlier than the frame by what the codec looks ahead (6.5 ms): when it will be heard.
        return [bytes(packet)], int(packet.pts)

    def _open(self, layout: str) -> Any:
        codec = av.CodecContext.create("libopus", "w")
        codec.bit_rate = OPUS_BITRATE
        codec.format, codec.layout, codec.sample_rate = "s16", layout, opus.SAMPLE_RATE
        codec.time_base = opus.TIME_BASE
        # In-band repair (RFC 6716 section 2.1.7): a browser rebuilds a lost block from the next.
        codec.options = {"application": "voip", "fec": "1", "packet_loss": "5"}
        return codec


def audio_level_dbov(frame: av.AudioFrame) -> int:
    """Loudness for the header extension of RFC 6464, -127 (silence) to 0 (RFC 6465 appendix A)."""
    samples = frame.to_ndarray().astype(np.float64)
    power = float(np.mean(samples**2)) / 32_767**2 if samples.size else 0.0
    return -127 if power <= 0 else round(min(0.0, max(-127.0, 10 * np.log10(power))))


def make_encoder(codec: RTCRtpCodecParameters, whole: bool = False) -> Encoder:
    """An encoder for an agreed codec; `whole` leaves pictures in one piece."""
    match codec.name.lower():
        case "h264":
            return WholeH264Encoder() if whole else FastH264Encoder()
        case "vp8":
            return WholeVp8Encoder() if whole else FastVp8Encoder()
        case "opus":
            return VoiceEncoder()
    return get_encoder(codec)


def suggest_bitrate(answer: str, start_kbps: int = 1500) -> str:
    """The answer with a wish for the bit rate that browsers built on libwebrtc start sending with.

    Their own start of 0.3 Mbit/s shows a blurred face for the first ten seconds. Others ignore it.
    """
    wish = f"x-google-start-bitrate={start_kbps}"
    lines = []
    for line in answer.splitlines():
        lines.append(line)
        if line.startswith("a=rtpmap:") and line.endswith(" VP8/90000"):
            payload_type = line.removeprefix("a=rtpmap:").split()[0]
            lines.append(f"a=fmtp:{payload_type} {wish}")
        elif line.startswith("a=fmtp:") and "profile-level-id" in line:
            lines[-1] += f";{wish}"
    return "\r\n".join(lines) + "\r\n"
