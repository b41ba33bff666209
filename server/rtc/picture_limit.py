"""How large a picture this machine carries: what a pixel costs, measured when a server starts.

Decoding, colours and encoding cost by the pixel, everything about the mouth does not. The measure
is processor time, which other work on the machine does not change.
"""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import av
import numpy as np
from aiortc import RTCRtpCodecParameters
from aiortc.codecs import depayload
from aiortc.jitterbuffer import JitterFrame

from lipwire.engine.backends.cpu import usable_cores
from lipwire.engine.media.files import to_rgb
from lipwire.engine.media.planes import frame_of, planes_of
from lipwire.server.rtc.codecs import make_encoder
from lipwire.server.rtc.decoders import make_decoder

# What is offered, smallest first. Smaller: a face at arm's length has a mouth of few pixels;
# larger: the decoder refuses it (`codecs.DECODED_PIXELS`).
SIZES = ((640, 480), (960, 540), (1280, 720), (1920, 1080))
RATE_HZ = 25
# Of all cores, what one call's pixels may take. More: with a second call, or at 50 pictures a
# second, mouths and sound find no room; less: pictures are scaled down that would have fitted.
SHARE = 0.2
TRIAL, PICTURES = (640, 384), 12  # whole macroblocks
VP8 = RTCRtpCodecParameters("video/VP8", 90_000, payloadType=97)
H264 = RTCRtpCodecParameters("video/H264", 90_000, payloadType=98)
BIT_RATE = 1_500_000


def pixel_cost_s(codec: str) -> float:
    """Processor time of one pixel of one picture: decoded, to RGB, to planes, encoded."""
    kind = H264 if codec == "h264" else VP8
    encoder: Any = make_encoder(kind)
    decoder = make_decoder(kind, TRIAL[0] * TRIAL[1])
    encoder.target_bitrate = BIT_RATE
    took_s = []
    for index, frame in enumerate(_pictures()):
        begun_s = time.process_time()
        payloads, stamp = encoder.encode(frame, False)
        data = b"".join(depayload(kind, payload) for payload in payloads)
        for shown in decoder.decode(JitterFrame(data, stamp)):
            assert isinstance(shown, av.VideoFrame)
            to_rgb(shown)
            if (planes := planes_of(shown)) is not None:
                frame_of(planes)
        if index:  # the first, a key frame, opens both codecs
            took_s.append(time.process_time() - begun_s)
    return float(np.median(took_s)) / (TRIAL[0] * TRIAL[1])


def _pictures() -> list[Any]:
    """A texture that moves, with as much detail as a room."""
    width, height = TRIAL
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8, width // 8), np.uint8)
    luma = coarse.repeat(8, 0).repeat(8, 1)
    found = []
    for index in range(PICTURES):
        planes = np.full((height * 3 // 2, width), 128, np.uint8)
        planes[:height] = np.roll(luma, 3 * index, 1)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = index * 90_000 // RATE_HZ, Fraction(1, 90_000)
        found.append(frame)
    return found


def largest(pixel_s: float, cores: int) -> tuple[int, int]:
    """The largest of `SIZES`, width and height, whose pixels fit into their share of the cores.

    Args:
        pixel_s: processor time of a pixel.
        cores: that we may use.
    """
    carried = SHARE * cores / RATE_HZ / pixel_s
    return max((s for s in SIZES[1:] if s[0] * s[1] <= carried), default=SIZES[0], key=np.prod)


def measured(codec: str) -> tuple[int, int]:
    """The largest picture for a call on this machine, width and height."""
    return largest(pixel_cost_s(codec), usable_cores())
