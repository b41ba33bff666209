"""`lipwire bench codecs`: what encoding and decoding a talking head costs, and what it looks like.

The figures behind the default of `video_codec`: a codec is preferred for its cost at equal looks.
"""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import av
import numpy as np
from aiortc import RTCRtpCodecParameters
from aiortc.codecs import depayload, get_encoder
from aiortc.codecs.base import Encoder
from aiortc.jitterbuffer import JitterFrame

from lipwire.benchmarks.rig.client import VIDEO_CODECS
from lipwire.benchmarks.rig.scenes import made_images
from lipwire.server.config import ServerConfig
from lipwire.server.rtc.codecs import make_encoder
from lipwire.server.rtc.decoders import make_decoder

WARM = 10  # pictures that are not counted: the key frame and the encoder's settling


def measure(
    encoder: Encoder, codec: RTCRtpCodecParameters, frames: list[av.VideoFrame], bit_rate: int
) -> dict[str, float]:
    """Cost of one encoder on some pictures."""
    encoder.target_bitrate = bit_rate  # type: ignore[attr-defined]
    decoder = make_decoder(codec, ServerConfig().picture_pixels)
    encode_s, decode_s, bits, noise = [], [], [], []
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = index * 3600, Fraction(1, 90_000)
        begun = time.perf_counter()
        payloads, stamp = encoder.encode(frame)
        encoded = time.perf_counter()
        data = b"".join(depayload(codec, payload) for payload in payloads)
        middle = time.perf_counter()
        shown: Any = decoder.decode(JitterFrame(data, stamp))
        decode_s.append(time.perf_counter() - middle)
        encode_s.append(encoded - begun)
        bits.append(sum(len(payload) for payload in payloads) * 8)
        if shown:
            luma, seen = _luma(frame), _luma(shown[-1])
            noise.append(float(np.mean((luma - seen) ** 2)))
    return {
        "encode_p50_ms": float(np.percentile(encode_s[WARM:], 50)) * 1000,
        "encode_p95_ms": float(np.percentile(encode_s[WARM:], 95)) * 1000,
        "decode_p50_ms": float(np.percentile(decode_s[WARM:], 50)) * 1000,
        "kbps": sum(bits[WARM:]) / len(bits[WARM:]) * 25 / 1000,
        "psnr_db": float(np.mean(10 * np.log10(255**2 / np.maximum(noise[WARM:], 1e-6)))),
    }


def _luma(frame: av.VideoFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    return frame.to_ndarray(format="gray").astype(np.float64)


def run(*, pictures: int = 150, bit_rate: int = 1_500_000) -> dict[str, Any]:
    """Measure our encoders and aiortc's own at 640x480 and 1280x720.

    Args:
        pictures: of each run.
        bit_rate: bits per second to aim at.
    """
    from lipwire.server.rtc.patch import apply

    apply(ServerConfig(max_kbps=20_000))  # no ceiling in the way
    figures: dict[str, Any] = {}
    images = made_images(pictures)
    for width, height in ((640, 480), (1280, 720)):
        frames = [
            av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                width=width, height=height, format="yuv420p"
            )
            for image in images
        ]
        for name, codec in VIDEO_CODECS.items():
            for kind, make in (("lipwire", make_encoder), ("aiortc", get_encoder)):
                key = f"{name} {width}x{height} {kind}"
                figures[key] = measure(make(codec), codec, frames, bit_rate)
    return {"input": {"pictures": pictures, "bit_rate": bit_rate}, "figures": figures}
