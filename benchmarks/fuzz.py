"""`lipwire bench fuzz`: everything that a stranger's bytes reach, fed with broken ones.

Each parser runs in a process of its own (`python -m benchmarks.fuzz NAME`), so that a crash of
native code is seen. Inputs are chance mutations of valid ones, or bred for the branches that they
reach (`benchmarks.guided`). An input fails that raises what
the parser may not raise, or takes longer than the event loop may stand still; it is kept, and
tried first the next time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

from aiortc import RTCRtpHeaderExtensionParameters, RTCRtpParameters
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
from annotated_types import Ge

from benchmarks.guided import check_installed
from engine.errors import LipwireError
from server.jitter import AudioBuffer, VideoBuffer
from server.mediaplane import StrictRtcp, StrictRtp

# Processor time of one input. More: other calls' pictures wait for a stranger's bytes.
STALL_S = 0.050
GROWTH_MIB = 50.0
ENGINES = {"chance": "benchmarks.fuzz", "atheris": "benchmarks.guided"}
WARM = 500  # inputs before memory is first looked at: caches fill, native libraries load
LARGEST = 65_536


@dataclass(frozen=True)
class Target:
    """Something that parses."""

    run: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    refuses: tuple[type[BaseException], ...]
    """what it may raise; anything else is a fault"""
    stall_s: float = STALL_S


# --- valid inputs ---


def _sdp() -> list[bytes]:
    from aiortc import RTCConfiguration, RTCPeerConnection

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
    from fractions import Fraction

    import av
    import numpy as np

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
    import io

    import av
    import numpy as np

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


# --- parsers ---


def _read_sdp(data: bytes) -> object:
    from server.offers import read_offer

    return read_offer(data.decode("utf-8", "replace"))


def _read_upload(data: bytes) -> object:
    from server.speech import _pieces, check_upload

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        check_upload(Path(file.name))
        return sum(len(piece) for piece in _pieces(Path(file.name)))


def _read_command(data: bytes) -> object:
    from server.peer import Peer

    sent: list[dict[str, Any]] = []
    peer = SimpleNamespace(
        send=sent.append,
        interrupt=lambda: None,
        voice=SimpleNamespace(flush=lambda: None),
        set_steps=lambda steps: None,
        session=SimpleNamespace(set_sound=lambda **_: None, set_silence=lambda _: None),
    )
    Peer._command(peer, data.decode("utf-8", "replace"))  # type: ignore[arg-type]
    return sent


def _read_pcm(data: bytes) -> object:
    from server.speech import PcmFramer

    framer = PcmFramer()
    return [framer.feed(data[k : k + 7]) for k in range(0, len(data), 7)]


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
    from aiortc import RTCRtpCodecParameters

    from server.codecs import make_decoder

    codec = RTCRtpCodecParameters(f"video/{name}", 90_000, payloadType=number)
    decoder = make_decoder(codec, 1280 * 720)
    return lambda data: decoder.decode(JitterFrame(data, 0))


def targets() -> dict[str, Callable[[], Target]]:
    """Every parser by name; made when asked for, because some load native libraries."""
    import av

    from server.offers import OfferError

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
        "pcm": lambda: Target(_read_pcm, lambda: [bytes(1000)], ()),
    }


# --- the loop ---


def mutate(data: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """One to eight small damages: flips, cuts, repeats, lengths at their limits, splices."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(made) + 1)
        match rng.randrange(7):
            case 0 if made:
                made[place % len(made)] ^= 1 << rng.randrange(8)
            case 1 if made:
                made[place % len(made)] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                del made[place : place + rng.randint(1, 32)]
            case 3:
                made[place:place] = rng.randbytes(rng.randint(1, 16))
            case 4:
                made[place:place] = made[place : place + rng.randint(1, 64)] * rng.randint(1, 20)
            case 5:
                other = rng.choice(corpus)
                cut = rng.randrange(len(other) + 1)
                made[place:] = other[cut:]
            case 6:
                value = rng.choice((0, 1, 0xFFFF, 0x7FFF, 0x8000)).to_bytes(2)
                made[place : place + 2] = value
    return bytes(made[:LARGEST])


class Watch:
    """Runs a target on inputs and keeps what went wrong.

    Args:
        target: parses.
        folder: where failing inputs are kept; None keeps none.
    """

    def __init__(self, target: Target, folder: Path | None) -> None:
        self._target, self._folder = target, folder
        self.inputs = self.refused = 0
        self.slowest_s = 0.0
        self.faults: list[str] = []
        self._begin_mib: float | None = None

    def __call__(self, data: bytes) -> None:
        """Try one input."""
        begun = time.thread_time()  # of the processor: others may be using it
        try:
            self._target.run(data)
        except self._target.refuses:
            self.refused += 1
        except Exception as error:
            self._keep(data, f"{type(error).__name__}: {str(error)[:200]}")
        took_s = time.thread_time() - begun
        self.slowest_s = max(self.slowest_s, took_s)
        if took_s > self._target.stall_s:
            self._keep(data, f"took {took_s:.3f} s")
        self.inputs += 1
        if self.inputs == WARM:
            self._begin_mib = _resident_mib()

    def _keep(self, data: bytes, why: str) -> None:
        if len(self.faults) < 20:
            self.faults.append(why)
            if self._folder is not None:
                name = f"{len(self.faults):02}-{abs(hash(data)) % 10**8:08}"
                (self._folder / name).write_bytes(data)

    def figures(self) -> dict[str, Any]:
        """What was found."""
        growth = 0.0 if self._begin_mib is None else _resident_mib() - self._begin_mib
        return {
            "inputs": self.inputs,
            "refused": self.refused,
            "slowest_ms": self.slowest_s * 1000,
            "growth_mib": growth,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "faults": self.faults,
        }


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def fuzz_one(name: str, seconds: float, corpus: Path | None, seed: int = 0) -> dict[str, Any]:
    """Try one parser for some time, in this process.

    Args:
        name: of `targets`.
        seconds: how long.
        corpus: folder of inputs that are tried first; failing ones are added. None: no folder.
        seed: of chance.

    Raises:
        LipwireError: no parser of that name.
    """
    known = targets()
    if name not in known:
        raise LipwireError(f"no parser {name!r}; there are {', '.join(known)}")
    target = known[name]()
    folder = None
    if corpus is not None:
        folder = corpus / name
        folder.mkdir(parents=True, exist_ok=True)
    inputs = list(target.seeds())
    if folder is not None:
        inputs += [path.read_bytes() for path in sorted(folder.iterdir())]
    watch, rng = Watch(target, folder), random.Random(seed)
    ends = time.monotonic() + seconds
    for data in inputs:
        watch(data)
    while time.monotonic() < ends:
        watch(mutate(rng.choice(inputs), rng, inputs))
    return watch.figures()


def run(
    *,
    minutes: Annotated[float, Ge(0.01)] = 10,
    only: str | None = None,
    corpus: Path | None = None,
    engine: str = "chance",
) -> dict[str, Any]:
    """Try every parser, each in a process of its own.

    Args:
        minutes: for each.
        only: one parser alone.
        corpus: folder for inputs that failed.
        engine: chance, or atheris (pip install atheris): guided by coverage.

    Raises:
        LipwireError: no parser or engine of that name.
        ConfigError: atheris is asked for and not installed.
    """
    if engine not in ENGINES:
        raise LipwireError(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
    if engine == "atheris":
        check_installed()
    names = list(targets())
    if only is not None and only not in names:
        raise LipwireError(f"no parser {only!r}; there are {', '.join(names)}")
    found: dict[str, Any] = {}
    for name in names if only is None else [only]:
        command = [sys.executable, "-m", ENGINES[engine], name, "--seconds", str(minutes * 60)]
        if corpus is not None:
            command += ["--corpus", str(corpus)]
        # FFmpeg tells stderr about every broken picture.
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        )
        crashed = {"faults": [f"the process ended with code {done.returncode}"]}
        found[name] = json.loads(done.stdout) if done.returncode == 0 else crashed
    met = {
        name: not figures["faults"] and figures["growth_mib"] <= GROWTH_MIB
        for name, figures in found.items()
    }
    return {
        "minutes_each": minutes,
        "engine": engine,
        "figures": found,
        "met": met,
    }


def main() -> None:
    """Parse, try, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    print(json.dumps(fuzz_one(a.name, a.seconds, a.corpus, a.seed)))


if __name__ == "__main__":
    main()
