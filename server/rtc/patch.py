"""The one place that changes aiortc: names it looks up, replaced by ours.

aiortc has no other door to its receivers, senders, codecs and parsers. `install` refuses to work
on a version that this was not written against: a silent change of a private name would bring
back a ten-second freeze or a decoder bomb.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import aiortc
import aiortc.rtcdtlstransport
import aiortc.rtcpeerconnection
import aiortc.rtcrtpreceiver
import aiortc.rtp
from aiortc import RTCRtpCodecCapability, RTCRtpCodecParameters
from aiortc.codecs import h264, is_rtx, vpx
from aiortc.codecs.base import Decoder
from aiortc.rtp import (
    RTCP_PSFB_APP,
    AnyRtcpPacket,
    HeaderExtensionsMap,
    RtcpPacket,
    RtcpPsfbPacket,
    RtpPacket,
    unpack_remb_fci,
)

from lipwire.engine.errors import ConfigError
from lipwire.engine.runtime.engine import Observe, unobserved
from lipwire.server.config import ServerConfig
from lipwire.server.rtc.codecs import LOWEST_BITRATE
from lipwire.server.rtc.decoders import DECODED_PIXELS, make_decoder
from lipwire.server.rtc.receiver import NewestTrack, Receiver
from lipwire.server.rtc.sender import Sender

SERIES = "1.16."

REPLACED = (
    (aiortc.rtcpeerconnection, "RTCRtpReceiver"),
    (aiortc.rtcpeerconnection, "RTCRtpSender"),
    (aiortc.rtcpeerconnection, "RemoteStreamTrack"),
    (aiortc.rtcpeerconnection, "filter_preferred_codecs"),
    (aiortc.rtcrtpreceiver, "get_decoder"),
    (aiortc.rtcdtlstransport, "RtpPacket"),
    (aiortc.rtcdtlstransport, "RtcpPacket"),
    (aiortc.rtp, "DYNAMIC_PAYLOAD_TYPES"),
    (vpx, "MIN_BITRATE"),
    (vpx, "MAX_BITRATE"),
    (h264, "MIN_BITRATE"),
    (h264, "MAX_BITRATE"),
)  # modules of aiortc and the names that `install` sets in them

_filter_preferred = aiortc.rtcpeerconnection.filter_preferred_codecs


class StrictRtp:
    """RTP parsing that fails in one way only: others would end the call's transport."""

    @staticmethod
    def parse(data: bytes, extensions_map: HeaderExtensionsMap | None = None) -> RtpPacket:
        """One packet.

        Raises:
            ValueError: it is none.
        """
        try:
            return RtpPacket.parse(data, extensions_map or HeaderExtensionsMap())
        except Exception as error:  # struct.error where a header extension has an odd length
            raise ValueError("not an RTP packet") from error


class StrictRtcp:
    """RTCP parsing that fails in one way only, and checks what aiortc parses later."""

    @staticmethod
    def parse(data: bytes) -> list[AnyRtcpPacket]:
        """The packets of one datagram.

        Raises:
            ValueError: it holds something else.
        """
        try:
            packets = RtcpPacket.parse(data)
            for packet in packets:
                if isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_APP:
                    if packet.fci[:4] == b"REMB":
                        unpack_remb_fci(packet.fci)
        except Exception as error:  # struct.error where REMB counts more sources than it lists
            raise ValueError("not an RTCP packet") from error
        return packets


def order_codecs(
    codecs: Iterable[RTCRtpCodecParameters], first: str
) -> list[RTCRtpCodecParameters]:
    """The codecs with those named `first` in front, each followed by its own repeats (RTX)."""
    codecs = list(codecs)
    own = [c for c in codecs if not is_rtx(c)]
    own.sort(key=lambda c: c.name.lower() != first)  # stable: otherwise as offered
    repeats = {c.parameters.get("apt"): c for c in codecs if is_rtx(c)}
    ordered = []
    for codec in own:
        ordered.append(codec)
        if codec.payloadType in repeats:
            ordered.append(repeats[codec.payloadType])
    return ordered


def check_version(version: str = aiortc.__version__) -> None:
    """Refuse an aiortc that this was not written against.

    Raises:
        ConfigError: says which one is needed.
    """
    if not version.startswith(SERIES):
        raise ConfigError(
            f"aiortc {version} is installed; lipwire works inside aiortc {SERIES}x: "
            f"pip install 'aiortc=={SERIES}*'"
        )
    for module, name in REPLACED:
        if not hasattr(module, name):
            raise ConfigError(f"aiortc {version} has no {module.__name__}.{name}: reinstall it")


def apply(settings: ServerConfig, observe: Observe = unobserved) -> None:
    """Make every later peer connection of this process use our media plane.

    Raises:
        ConfigError: aiortc is of another version.
    """
    check_version()

    def preferred(
        codecs: list[RTCRtpCodecParameters], wanted: list[RTCRtpCodecCapability]
    ) -> list[RTCRtpCodecParameters]:
        if wanted:
            return _filter_preferred(codecs, wanted)
        return order_codecs(codecs, settings.video_codec)

    def decoder(codec: RTCRtpCodecParameters) -> Decoder:
        return make_decoder(codec, max(settings.picture_pixels, DECODED_PIXELS), observe)

    highest = settings.max_kbps * 1000
    values: tuple[object, ...] = (
        Receiver,
        partial(Sender, settings=settings, observe=observe),
        NewestTrack,
        preferred,
        decoder,
        StrictRtp,
        StrictRtcp,
        [*range(35, 64), *range(96, 128)],  # as browsers do, where RTCP is multiplexed (RFC 5761)
        min(LOWEST_BITRATE, highest),
        highest,
        min(LOWEST_BITRATE, highest),
        highest,
    )
    for (module, name), value in zip(REPLACED, values, strict=True):
        setattr(module, name, value)
