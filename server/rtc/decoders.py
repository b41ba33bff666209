"""Decoders around aiortc's own that refuse bombs and fill what is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import av
from aiortc import RTCRtpCodecParameters
from aiortc.codecs import get_decoder, h264, opus
from aiortc.codecs.base import Decoder
from aiortc.jitterbuffer import JitterFrame
from av.codec.context import Flags
from av.frame import Frame

from lipwire.engine.runtime.engine import Observe, unobserved
from lipwire.engine.trace import Trace
from lipwire.server.rtc.bitstream import EncodedFrame, h264_key_size, vp8_key_size
from lipwire.server.rtc.frame_trace import hang

log = logging.getLogger(__name__)

# Pictures up to this size are decoded, and scaled if they are larger than a session takes: what
# broadcasters send unasked, in whole macroblocks, either way up.
DECODED_PIXELS = 1920 * 1088


class GuardedDecoder(Decoder):
    """A decoder that refuses pictures larger than `max_pixels` before they cost memory.

    libvpx allocates what a key frame's header claims before it reads on: 3 kB may ask for 900 MB.
    Errors other than FFmpeg's are kept in, because they would end aiortc's decoder thread.

    Args:
        inner: decodes.
        max_pixels: largest picture.
        size: reads the size that a key frame claims; None for sound.
        observe: told how long each frame took.
    """

    def __init__(
        self,
        inner: Decoder,
        max_pixels: int,
        size: Callable[[bytes], tuple[int, int] | None] | None = None,
        observe: Observe = unobserved,
    ) -> None:
        self._inner, self._max_pixels, self._size = inner, max_pixels, size
        self._observe = observe
        self.refused = 0  # pictures that were too large
        self._skipping = False  # until a key frame of a size we take

    def decode(self, encoded_frame: JitterFrame | EncodedFrame) -> list[Frame]:
        """The pictures of one encoded frame; none if they are refused."""
        if self._size is not None and not self._admit(encoded_frame, self._size):
            return []
        begun_s = time.monotonic()
        try:
            frames: list[Frame] = self._inner.decode(encoded_frame)  # type: ignore[arg-type]
            ended_s = time.monotonic()
            self._observe("decode", ended_s - begun_s)
            for frame in frames:
                if isinstance(frame, av.VideoFrame | av.AudioFrame):
                    _trace(frame, getattr(encoded_frame, "complete_s", begun_s), begun_s, ended_s)
            return frames
        except av.FFmpegError:
            raise  # aiortc answers it with a request for a key frame
        except Exception:
            log.exception("a decoder failed and goes on")
            return []

    def _admit(
        self, encoded: JitterFrame | EncodedFrame, read: Callable[[bytes], tuple[int, int] | None]
    ) -> bool:
        size = read(encoded.data)
        if size is not None:
            self._skipping = size[0] * size[1] > self._max_pixels
            if self._skipping and not self.refused:
                log.warning("refused pictures of %dx%d pixels: too large", *size)
            if (told := getattr(encoded, "on_size", None)) is not None:
                told(size, not self._skipping)
        self.refused += self._skipping
        return not self._skipping


def _trace(
    frame: av.VideoFrame | av.AudioFrame, complete_s: float, begun_s: float, ended_s: float
) -> None:
    """Give what has just been decoded a trace."""
    trace = Trace(time.monotonic)
    trace.stamp("received", complete_s)
    trace.stamp("decoding", begun_s)
    trace.stamp("decoded", ended_s)
    trace.pts = frame.pts or 0
    hang(frame, trace)


class ConcealingOpusDecoder(Decoder):
    """Opus that fills a lost block from what it heard before."""

    def __init__(self) -> None:
        self._inner = opus.OpusDecoder()
        self._toc = 0

    def decode(self, encoded_frame: JitterFrame | EncodedFrame) -> list[Frame]:
        """Sound of one block, or what probably was in it."""
        data = encoded_frame.data
        if getattr(encoded_frame, "lost", False):
            # FFmpeg has no door to libopus' concealment, but Opus has a packet for it: the table
            # of contents alone, whose one frame of no bytes says "lost" (RFC 6716 section 3.2.1).
            data = bytes([self._toc])
        elif data:
            self._toc = data[0] & 0xFC
        return self._inner.decode(JitterFrame(data, encoded_frame.timestamp))


class SilentWhenLost(Decoder):
    """A decoder without concealment of its own: what was lost is left out."""

    def __init__(self, inner: Decoder) -> None:
        self._inner = inner

    def decode(self, encoded_frame: JitterFrame | EncodedFrame) -> list[Frame]:
        """Sound of one block."""
        if getattr(encoded_frame, "lost", False):
            return []
        return self._inner.decode(encoded_frame)  # type: ignore[arg-type]


def make_decoder(
    codec: RTCRtpCodecParameters, max_pixels: int, observe: Observe = unobserved
) -> Decoder:
    """A guarded decoder for an agreed codec; `observe` is told of pictures only."""
    if codec.name.lower() == "opus":
        return GuardedDecoder(ConcealingOpusDecoder(), max_pixels)
    decoder = get_decoder(codec)
    if codec.mimeType.lower().startswith("audio/"):
        return GuardedDecoder(SilentWhenLost(decoder), max_pixels)
    if isinstance(decoder, h264.H264Decoder):
        decoder.codec.options = {"max_pixels": str(max_pixels)}  # FFmpeg's own guard works here
        decoder.codec.flags |= Flags.low_delay  # WebRTC reorders no pictures (RFC 7742)
        return GuardedDecoder(decoder, max_pixels, h264_key_size, observe)
    return GuardedDecoder(decoder, max_pixels, vp8_key_size, observe)
