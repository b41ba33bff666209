"""What a stranger's bytes reach: each parser, valid inputs of it, and how it may refuse others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpParameters,
)
from aiortc.codecs import h264, vpx
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import (
    HeaderExtensionsMap,
    RtcpByePacket,
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSourceInfo,
    RtcpSrPacket,
    RtpPacket,
    pack_remb_fci,
)

from lipwire.engine.errors import BankError, LipwireError
from lipwire.engine.units.bank_file import DIGEST, read_bank, write_bank
from lipwire.engine.units.enrolled import Consent, EnrolledBank
from lipwire.engine.units.unit import Unit
from lipwire.server.api import wyoming
from lipwire.server.call.commands import handle_command
from lipwire.server.call.container_reader import AutoReader
from lipwire.server.call.dialects import read
from lipwire.server.call.pcm_reader import PcmReader
from lipwire.server.call.speech_queue import _pieces, check_upload
from lipwire.server.rtc.decoders import make_decoder
from lipwire.server.rtc.jitter import AudioBuffer, VideoBuffer
from lipwire.server.rtc.patch import StrictRtcp, StrictRtp
from lipwire.server.rtc.sdp import OfferError, read_offer

# Processor time of one input. More: other calls' pictures wait for a stranger's bytes.
STALL_S = 0.050


@dataclass(frozen=True)
class Target:
    """Something that parses."""

    run: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    refuses: tuple[type[BaseException], ...]
    """what it may raise; anything else is a fault"""
    stall_s: float = STALL_S


class Stalled(Exception):
    """An input took longer than the event loop may stand still."""


def attempt(target: Target, data: bytes) -> None:
    """Parse once; refusing is fine.

    Raises:
        Stalled: it took more of the processor's time than it may.
        Exception: whatever else the parser may not raise.
    """
    begun = time.thread_time()  # of the processor: others may be using it
    with contextlib.suppress(*target.refuses):
        target.run(data)
    if (took_s := time.thread_time() - begun) > target.stall_s:
        raise Stalled(f"took {took_s:.3f} s")


# --- valid inputs ---


def _sdp() -> list[bytes]:
    async def offer() -> str:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        for kind in ("video", "audio"):
            peer.addTransceiver(kind)
        peer.createDataChannel("lipwire")
        await peer.setLocalDescription(await peer.createOffer())
        sdp: str = peer.localDescription.sdp
        await peer.close()
        return sdp

    return [asyncio.run(offer()).encode()]


def _extensions() -> HeaderExtensionsMap:
    uris = {
        1: "urn:ietf:params:rtp-hdrext:sdes:mid",
        2: "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
        3: "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    }
    made = HeaderExtensionsMap()
    made.configure(
        RTCRtpParameters(
            headerExtensions=[
                RTCRtpHeaderExtensionParameters(id=number, uri=uri) for number, uri in uris.items()
            ]
        )
    )
    return made


def _rtp() -> list[bytes]:
    packets: list[bytes] = []
    for payload in (b"", b"\x10" + bytes(60), b"\x90\x80\x81\x02" + bytes(60), b"\x7c\x85" * 30):
        packet = RtpPacket(97, 1, len(packets), 3600 * len(packets), 7, payload)
        packet.extensions.mid, packet.extensions.abs_send_time = "0", 12_345
        packet.extensions.audio_level = (True, 30)
        packets.append(packet.serialize(_extensions()))
        packet.csrc, packet.padding_size = [1, 2], 9
        packets.append(packet.serialize(_extensions()))
    return packets


def _rtcp() -> list[bytes]:
    report = RtcpReceiverInfo(1, 2, 3, 4, 5, 6, 7)
    return [
        bytes(packet)
        for packet in (
            RtcpSrPacket(1, RtcpSenderInfo(1 << 60, 2, 3, 4), [report]),
            RtcpRrPacket(1, [report, report]),
            RtcpSdesPacket([RtcpSourceInfo(1, [(1, b"name")])]),
            RtcpByePacket([1, 2]),
            RtcpRtpfbPacket(1, 1, 2, [5, 6, 9, 300]),
            RtcpPsfbPacket(1, 1, 2),
            RtcpPsfbPacket(15, 1, 0, pack_remb_fci(1_000_000, [1, 2])),
        )
    ]


def _pictures(codec: str) -> list[bytes]:
    """Whole encoded pictures."""
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
    context.time_base = Fraction(1, 30)
    found = []
    for index in range(4):
        image = np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, 30)
        found += [bytes(packet) for packet in context.encode(frame)]
    return [*found, *(bytes(packet) for packet in context.encode(None))]


def _h264_payloads() -> list[bytes]:
    unit = b"\x65" + bytes(90)
    return [unit, b"\x7c\x85" + unit, b"\x7c\x45" + unit, b"\x78\x00\x05\x67abcd\x00\x03\x68ef"]


def _sound() -> list[bytes]:
    found = []
    for kind, codec in (("wav", "pcm_s16le"), ("ogg", "libopus"), ("mp3", "mp3")):
        out = io.BytesIO()
        with av.open(out, "w", format=kind) as container:
            stream: Any = container.add_stream(codec, rate=48_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.int16), "s16", "mono")
            frame.sample_rate = 48_000
            size = stream.codec_context.frame_size
            fit = av.AudioResampler(stream.format.name, "mono", 48_000, size)
            for piece in [*fit.resample(frame), *fit.resample(None), None]:
                container.mux(stream.encode(piece))
        found.append(out.getvalue())
    return found


def _bank() -> list[bytes]:
    codes, look = np.zeros(7, np.float32), np.full(264, 264**-0.5, np.float32)
    picture, places = np.zeros((8, 9, 3), np.uint8), np.zeros((468, 2), np.float32)
    units = tuple(
        Unit(picture, np.eye(2, 3, dtype=np.float32), places, codes, look, 1.0, float(time_s))
        for time_s in range(2)
    )
    bank = EnrolledBank(Consent("a", "b", "c", "d"), units, codes[None], codes)
    return [write_bank(bank)]


# --- parsers ---


def _read_sdp(data: bytes) -> object:
    return read_offer(data.decode("utf-8", "replace"))


def _read_upload(data: bytes) -> object:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        check_upload(Path(file.name))
        return sum(len(piece) for piece in _pieces(Path(file.name)))


def _read_bank(data: bytes) -> object:
    """With the right checksum, behind which the rest would never be reached."""
    body = data[:-DIGEST]
    return read_bank(body + hashlib.sha256(body).digest())


def _read_command(data: bytes) -> object:
    sent: list[dict[str, Any]] = []
    peer = SimpleNamespace(
        send=sent.append,
        interrupt=lambda: None,
        voice=SimpleNamespace(flush=lambda: None),
        set_steps=lambda steps: None,
        session=SimpleNamespace(set_sound=lambda **_: None, set_silence=lambda _: None),
    )
    handle_command(peer, data.decode("utf-8", "replace"))
    return sent


def _read_pcm(data: bytes) -> object:
    small, whole = PcmReader(24_000), PcmReader(24_000, 2)
    whole.feed(data)
    whole.end()
    return [small.feed(data[k : k + 7]) for k in range(0, len(data), 7)], small.end()


def _read_dialect(data: bytes) -> object:
    """What is no JSON is refused before it comes there."""
    try:
        message = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return read(message)


def _read_wyoming(data: bytes) -> object:
    async def read() -> int:
        reader, events = asyncio.StreamReader(wyoming.MAX_JSON), 0
        reader.feed_data(data)
        reader.feed_eof()
        while await wyoming.read_event(reader) is not None:
            events += 1
        return events

    return asyncio.run(read())


def _read_container(data: bytes) -> object:
    reader = AutoReader(24_000)
    try:
        return reader.feed(data), reader.end(), reader.close()
    finally:
        reader.close()


def _buffers(data: bytes) -> object:
    """The bytes as a run of packets: gaps, repeats and jumps of every kind."""
    video, audio, now = VideoBuffer(frozenset({97})), AudioBuffer(), 0.0
    for k in range(0, min(len(data), 4096) - 7, 8):
        number, stamp = int.from_bytes(data[k : k + 2]), int.from_bytes(data[k + 2 : k + 6])
        packet = RtpPacket(97, data[k + 6] & 1, number, stamp, 1, data[k + 6 : k + 8])
        now += data[k + 7] / 1000
        for buffer in (video, audio):
            buffer.add(packet, packet.payload, now)
            buffer.poll(now)
        video.nacks(now)
        video.wants_key(now)
    return video.next_s


def _decoder(name: str, number: int) -> Callable[[bytes], object]:
    codec = RTCRtpCodecParameters(f"video/{name}", 90_000, payloadType=number)
    decoder = make_decoder(codec, 1280 * 720)
    return lambda data: decoder.decode(JitterFrame(data, 0))


def targets() -> dict[str, Callable[[], Target]]:
    """Every parser by name; made when asked for: decoders hold memory."""
    fault = (ValueError,)
    broken = (av.FFmpegError,)
    extensions = _extensions()
    return {
        "sdp": lambda: Target(_read_sdp, _sdp, (OfferError,)),
        "rtp": lambda: Target(lambda data: StrictRtp.parse(data, extensions), _rtp, fault),
        "rtcp": lambda: Target(StrictRtcp.parse, _rtcp, fault),
        "vp8-payload": lambda: Target(vpx.vp8_depayload, _rtp, fault),
        "h264-payload": lambda: Target(h264.h264_depayload, _h264_payloads, fault),
        "buffers": lambda: Target(_buffers, lambda: [bytes(range(64)) * 4], ()),
        # Decoders and files are read beside the event loop: a picture's time is their bound.
        "vp8": lambda: Target(_decoder("VP8", 97), lambda: _pictures("libvpx"), broken, 0.5),
        "h264": lambda: Target(_decoder("H264", 99), lambda: _pictures("libx264"), broken, 0.5),
        "upload": lambda: Target(_read_upload, _sound, (LipwireError,), 2.0),
        "command": lambda: Target(
            _read_command,
            lambda: [
                b'{"type":"steps","steps":4}',
                b'{"type":"original_level","level":0.5}',
                b'{"type":"loudness","lufs":"off"}',
                b'{"type":"silence","show":"generate"}',
            ],
            (),
        ),
        "bank": lambda: Target(_read_bank, _bank, (BankError,), 0.5),
        "dialect": lambda: Target(
            _read_dialect,
            lambda: [
                b'{"type":"response.output_audio.delta","delta":"AAAA"}',
                b'{"serverContent":{"modelTurn":{"parts":[{"inlineData":{"data":"AAAA"}}]}}}',
                b'{"event":"media","media":{"payload":"////"}}',
                b'{"type":"Audio","pcm":[0.5,-0.5]}',
            ],
            (LipwireError,),
        ),
        "wyoming": lambda: Target(
            _read_wyoming,
            lambda: [
                b'{"type":"describe"}\n',
                b'{"type":"audio-chunk","data_length":43,"payload_length":4}\n'
                b'{"rate": 24000, "width": 2, "channels": 1}\n\0\0\0\0',
                b'{"type":"audio-stop","data":{"timestamp":1}}\n',
            ],
            (wyoming.BadEvent, asyncio.IncompleteReadError),
        ),
        "container": lambda: Target(_read_container, _sound, (LipwireError,), 2.0),
        "pcm": lambda: Target(_read_pcm, lambda: [bytes(1000)], (LipwireError,)),
    }
