"""`lipwire bench viewers`: what one more viewer of a session costs, sharing an encode and not.

The server's own relay half runs here: renditions, senders, packets and their encryption; only the
socket is missing. Ratios within one run say more than milliseconds, which depend on the load.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from fractions import Fraction
from typing import Annotated, Any

import av
import numpy as np
from aiortc import RTCRtpCodecParameters
from aiortc.rtcrtpparameters import RTCRtpSendParameters
from annotated_types import Ge
from pylibsrtp import Policy, Session

from lipwire.benchmarks.rig.client import VIDEO_CODECS
from lipwire.benchmarks.rig.scenes import made_images
from lipwire.engine.errors import ConfigError
from lipwire.server.config import ServerConfig
from lipwire.server.rtc.encoding import Renditions, copy_picture
from lipwire.server.rtc.patch import apply
from lipwire.server.rtc.sender import Sender

OPUS = RTCRtpCodecParameters("audio/opus", 48_000, channels=2, payloadType=96)
FPS = 25
WARM_S = 1.0  # not counted: encoders are made, first key frames are sent


class _Wire:
    """Encrypts as a DTLS transport does and throws away."""

    def __init__(self) -> None:
        policy = Policy(key=os.urandom(30), ssrc_type=Policy.SSRC_ANY_OUTBOUND)
        self._srtp = Session(policy)
        self.state, self._stats_id = "connected", "wire"
        self.bytes = 0

    async def _send_rtp(self, data: bytes) -> None:
        rtcp = 64 <= data[1] & 0x7F <= 95  # RFC 5761 section 4
        protected = self._srtp.protect_rtcp(data) if rtcp else self._srtp.protect(data)
        self.bytes += len(protected)

    def _register_rtp_sender(self, *_: object) -> None: ...

    def _unregister_rtp_sender(self, *_: object) -> None: ...


async def _measure(
    frames: list[av.VideoFrame],
    codec: RTCRtpCodecParameters,
    viewers: int,
    shared: bool,
    seconds: float,
) -> dict[str, float]:
    """CPU seconds a second of the call, and what each viewer got."""
    settings = ServerConfig()
    groups = [
        [Renditions(kind, settings) for kind in ("video", "audio")]
        for _ in range(1 if shared else viewers)
    ]
    senders, wires = [], []
    for number in range(viewers):
        wire = _Wire()
        wires.append(wire)
        group = groups[0 if shared else number]
        for renditions, agreed in zip(group, (codec, OPUS), strict=True):
            subscription = renditions.subscription(lambda: 0.0)
            sender = Sender(subscription, wire, settings)  # type: ignore[arg-type]
            await sender.send(RTCRtpSendParameters(codecs=[agreed]))
            senders.append(sender)
    begun_s, cpu_s, counted_s = time.monotonic(), 0.0, 0.0
    at, block = 0, np.random.default_rng(0).integers(-9000, 9000, 960).astype(np.int16)
    for index in itertools.count():
        due_s = begun_s + index / 50
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        elapsed_s = time.monotonic() - begun_s
        if not counted_s and elapsed_s >= WARM_S:
            cpu_s, counted_s = time.process_time(), time.monotonic()
            at = wires[0].bytes
        if elapsed_s >= WARM_S + seconds:
            break
        sound = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = 48_000, index * 960, Fraction(1, 48_000)
        for _, audio in groups:
            audio.put(sound)
        if index % 2 == 0:
            place = index // 2
            for video, _ in groups:
                frame = _frame(frames, place)
                video.put(frame)
    measured_s = time.monotonic() - counted_s
    used_s = time.process_time() - cpu_s
    for sender in senders:
        await sender.stop()
    for group in groups:
        for renditions in group:
            renditions.stop()
    return {
        "cpu_share": used_s / measured_s,
        "kbps_each": (wires[0].bytes - at) * 8 / 1000 / measured_s,
        "dropped": sum(r.dropped for group in groups for r in group),
    }


def _frame(frames: list[av.VideoFrame], place: int) -> av.VideoFrame:
    """The picture of a place in an endless film; a frame of its own."""
    frame = copy_picture(frames[place % len(frames)])
    frame.pts, frame.time_base = place * (90_000 // FPS), Fraction(1, 90_000)
    return frame


def run(
    *,
    viewers: tuple[int, ...] = (1, 2, 4, 8),
    seconds: Annotated[float, Ge(0.1)] = 6.0,
    codec: str = "VP8",
) -> dict[str, Any]:
    """Measure each number of viewers, with one encode for all and with one for each.

    Args:
        viewers: how many, each.
        seconds: of each measurement.
        codec: VP8 or H264.
    """
    if codec not in VIDEO_CODECS:
        raise ConfigError(f"codec is {codec!r}, must be one of {', '.join(VIDEO_CODECS)}")
    apply(ServerConfig())
    images = made_images(50)
    frames = [
        av.VideoFrame.from_ndarray(image, format="rgb24").reformat(640, 480, "yuv420p")
        for image in images
    ]
    rows: list[dict[str, Any]] = []
    for count in viewers:
        both = [
            asyncio.run(_measure(frames, VIDEO_CODECS[codec], count, shared, seconds))
            for shared in (True, False)
        ]
        rows.append(
            {
                "viewers": count,
                "shared": both[0],
                "alone": both[1],
                "ratio": both[1]["cpu_share"] / both[0]["cpu_share"],
            }
        )
    figures: dict[str, Any] = {}
    for row in rows:
        for kind in ("shared", "alone"):
            figures[f"{row['viewers']} viewers, {kind}"] = {
                name: round(value, 3) for name, value in row[kind].items()
            }
    first, last = rows[0], rows[-1]
    more = max(last["viewers"] - first["viewers"], 1)
    for kind in ("shared", "alone"):
        extra = (last[kind]["cpu_share"] - first[kind]["cpu_share"]) / more
        figures[f"each further viewer, {kind}: share of a core"] = round(extra, 4)
    figures["alone / shared"] = {str(row["viewers"]): round(row["ratio"], 2) for row in rows}
    return {
        "input": {"codec": codec, "seconds": seconds, "size": "640x480", "fps": FPS},
        "figures": figures,
    }
