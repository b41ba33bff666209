"""Codecs around aiortc's own: decoders that refuse bombs, encoders that never end a call.

`install` puts them in place for every peer connection of the process: aiortc looks its codecs up
by name in two of its modules and has no other door.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import aiortc.rtcrtpreceiver
import aiortc.rtcrtpsender
import av
from aiortc import RTCRtpCodecParameters
from aiortc.codecs import get_decoder, get_encoder, h264, vpx
from aiortc.codecs.base import Decoder, Encoder
from aiortc.jitterbuffer import JitterFrame
from av.frame import Frame
from av.packet import Packet

log = logging.getLogger(__name__)

# A talking head at 640x480 shows blocks around the mouth below 1 Mbit/s; above 2.5 Mbit/s VP8
# costs more of a core than it gives back.
START_BITRATE = 1_500_000
VP8_MAX_BITRATE = 2_500_000
# Changing the rate makes aiortc build a new encoder, which sends a key frame. Smaller steps or
# shorter rests: receivers' estimates, which swing while they settle, cause a train of key frames.
BITRATE_STEP = 0.3
BITRATE_REST_S = 3.0


def vp8_key_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a VP8 key frame claims (RFC 6386 section 9.1); None for others."""
    if len(data) < 10 or data[0] & 1 or data[3:6] != b"\x9d\x01\x2a":
        return None
    # The upper two bits of each are a scale that decoders leave to the player.
    return (
        int.from_bytes(data[6:8], "little") & 0x3FFF,
        int.from_bytes(data[8:10], "little") & 0x3FFF,
    )


class GuardedDecoder(Decoder):
    """A decoder that refuses pictures larger than `max_pixels` before they cost memory.

    libvpx allocates what a key frame's header claims before it reads on: 3 kB may ask for 900 MB.
    Errors other than FFmpeg's are kept in, because they would end aiortc's decoder thread.

    Args:
        inner: decodes.
        max_pixels: largest picture.
        vp8: whether `inner` is fed VP8.
    """

    def __init__(self, inner: Decoder, max_pixels: int, vp8: bool) -> None:
        self._inner, self._max_pixels, self._vp8 = inner, max_pixels, vp8
        self.refused = 0
        """pictures that were too large"""
        self._skipping = False  # until a key frame of a size we take

    def decode(self, encoded_frame: JitterFrame) -> list[Frame]:
        """The pictures of one encoded frame; none if they are refused."""
        if self._vp8 and not self._admit(encoded_frame.data):
            return []
        try:
            return self._inner.decode(encoded_frame)
        except av.FFmpegError:
            raise  # aiortc answers it with a request for a key frame
        except Exception:
            log.exception("a decoder failed and goes on")
            return []

    def _admit(self, data: bytes) -> bool:
        size = vp8_key_size(data)
        if size is not None:
            self._skipping = size[0] * size[1] > self._max_pixels
            if self._skipping and not self.refused:
                log.warning("refused pictures of %dx%d pixels: too large", *size)
        self.refused += self._skipping
        return not self._skipping


class GuardedEncoder(Encoder):
    """An encoder whose failure costs one frame, not the call; new bit rates reach it calmly.

    Any exception would end aiortc's sender for good while the peer stays connected.

    Args:
        codec: what to encode to.
    """

    def __init__(self, codec: RTCRtpCodecParameters) -> None:
        self._codec = codec
        self._inner = make_encoder(codec)
        self.failures = 0
        self._changed_s = -BITRATE_REST_S

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Packets and their RTP timestamp; no packets if the frame cannot be encoded."""
        try:
            return self._inner.encode(frame, force_keyframe)
        except Exception:
            self.failures += 1
            if self.failures == 1:
                log.exception("encoding %s failed; a new encoder goes on", self._codec.mimeType)
            self._inner = make_encoder(self._codec)
            return [], 0

    def pack(self, packet: Packet[Any]) -> tuple[list[bytes], int]:
        """Packets of a picture that is encoded already."""
        return self._inner.pack(packet)

    @property
    def target_bitrate(self) -> int:
        """Bits per second; audio encoders ignore it."""
        return int(getattr(self._inner, "target_bitrate", 0))

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        now = self.target_bitrate
        if not now:
            return
        change = bitrate / now - 1
        rested = time.monotonic() - self._changed_s > BITRATE_REST_S
        if change < -0.5 or (abs(change) > BITRATE_STEP and rested):
            self._inner.target_bitrate = bitrate  # type: ignore[attr-defined]
            self._changed_s = time.monotonic()


class FastH264Encoder(h264.H264Encoder):
    """aiortc's H.264 with x264's `superfast` preset: a tenth of the time of the default."""

    def _encode_frame(self, frame: av.VideoFrame, force_keyframe: bool) -> Iterator[bytes]:
        codec, rate = self.codec, self.target_bitrate
        if (
            codec is None
            or (frame.width, frame.height) != (codec.width, codec.height)
            or abs(rate / (codec.bit_rate or 1) - 1) > 0.1
        ):
            codec = av.CodecContext.create("libx264", "w")
            codec.width, codec.height = frame.width, frame.height
            codec.bit_rate = rate
            codec.pix_fmt = "yuv420p"
            codec.framerate = Fraction(h264.MAX_FRAME_RATE)
            codec.time_base = Fraction(1, h264.MAX_FRAME_RATE)
            codec.options = {"tune": "zerolatency", "preset": "superfast"}
            codec.profile = "Baseline"
            self.codec = codec
        yield from super()._encode_frame(frame, force_keyframe)


def make_encoder(codec: RTCRtpCodecParameters) -> Encoder:
    """An encoder for an agreed codec, started at our bit rate."""
    encoder = FastH264Encoder() if codec.name == "H264" else get_encoder(codec)
    if hasattr(encoder, "target_bitrate"):
        encoder.target_bitrate = START_BITRATE
    return encoder


def make_decoder(codec: RTCRtpCodecParameters, max_pixels: int) -> Decoder:
    """A guarded decoder for an agreed codec."""
    decoder = get_decoder(codec)
    if isinstance(decoder, h264.H264Decoder):
        decoder.codec.options = {"max_pixels": str(max_pixels)}  # FFmpeg's own guard works here
    return GuardedDecoder(decoder, max_pixels, vp8=codec.name == "VP8")


def suggest_bitrate(answer: str) -> str:
    """The answer with a wish for the bit rate that browsers built on libwebrtc start sending with.

    Their own start of 0.3 Mbit/s shows a blurred face for the first ten seconds. Others ignore it.
    """
    wish = f"x-google-start-bitrate={START_BITRATE // 1000}"
    lines = []
    for line in answer.splitlines():
        lines.append(line)
        if line.startswith("a=rtpmap:") and line.endswith(" VP8/90000"):
            payload_type = line.removeprefix("a=rtpmap:").split()[0]
            lines.append(f"a=fmtp:{payload_type} {wish}")
        elif line.startswith("a=fmtp:") and "profile-level-id" in line:
            lines[-1] += f";{wish}"
    return "\r\n".join(lines) + "\r\n"


def install(max_pixels: int) -> None:
    """Use these codecs in every peer connection made from now on."""
    vpx.MAX_BITRATE = VP8_MAX_BITRATE

    def decoder(codec: RTCRtpCodecParameters) -> Decoder:
        return make_decoder(codec, max_pixels)

    aiortc.rtcrtpreceiver.get_decoder = decoder  # type: ignore[attr-defined]
    aiortc.rtcrtpsender.get_encoder = GuardedEncoder  # type: ignore[attr-defined]
