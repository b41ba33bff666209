"""Many callers in one process, cheap enough to leave the machine to the server.

What they send was encoded once, what comes back is not decoded: run as
`python -m lipwire.benchmarks.rig.load_generator URL CLIP SPEECH --calls N`, prints figures of each.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiortc.rtcrtpreceiver
import av
import cv2
import httpx
import numpy as np
from aiortc.codecs.base import Decoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamTrack
from av.frame import Frame
from av.packet import Packet

from lipwire.benchmarks.harness.machine import process_cpu_s
from lipwire.benchmarks.harness.timing import pacing_errors_s
from lipwire.benchmarks.rig import client
from lipwire.engine.media.files import at_rate, read_frames
from lipwire.engine.media.sound import read_speech
from lipwire.engine.types import I16
from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice, patch
from lipwire.server.rtc.codecs import make_encoder

FPS = 25
VP8 = client.VIDEO_CODECS["VP8"]
KEY_EVERY = 50  # pictures: a loop that begins anew begins with one, and so does what was lost
BIT_RATE = 1_500_000


class Blind(Decoder):
    """Says when pictures were due, and nothing else."""

    def decode(self, encoded_frame: JitterFrame) -> list[Frame]:
        """An empty picture of the same time."""
        frame = av.VideoFrame(16, 16, "yuv420p")
        frame.pts, frame.time_base = encoded_frame.timestamp, Fraction(1, 90_000)
        return [frame]


def blind() -> None:
    """Have this process decode no pictures."""
    receivers: Any = aiortc.rtcrtpreceiver
    decoder = receivers.get_decoder
    receivers.get_decoder = lambda codec: (
        Blind() if codec.mimeType.startswith("video/") else decoder(codec)
    )


def encoded(clip: Path, size: tuple[int, int], pictures: int = 100) -> list[bytes]:
    """Some pictures of a clip as VP8, the first and every KEY_EVERY-th a key frame."""
    encoder: Any = make_encoder(VP8, whole=True)
    encoder.target_bitrate = BIT_RATE
    found = []
    for index, image in enumerate(itertools.islice(at_rate(read_frames(clip), FPS), pictures)):
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        frame = client.video_frame(small)
        frame.pts, frame.time_base = index * 90_000 // FPS, Fraction(1, 90_000)
        payloads, _ = encoder.encode(frame, index % KEY_EVERY == 0)
        found.append(payloads[0])
    return found


class Tape(client.PacedTrack):
    """Encoded pictures, over and over."""

    def __init__(self, pictures: list[bytes], phase_s: float) -> None:
        super().__init__(FPS, phase_s)
        self._pictures = pictures

    def show(self, number: int) -> Packet[Any]:
        """One of them, as it is."""
        return Packet(self._pictures[number % len(self._pictures)])


class Caller:
    """One call."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._pc = client.caller_of(tape, self._watch)
        self._tasks: list[asyncio.Task[None]] = []
        self.came: list[tuple[float, float]] = []
        """when each picture came, and when it was due by its own time"""
        self.path = ""

    async def connect(self, http: httpx.AsyncClient, voice: I16, steps: int) -> None:
        """Begin, and speak for ever."""
        session = await client.begin(self._pc, http, await client.offer_of(self._pc), steps=steps)
        self.path = f"/api/sessions/{session}"
        said = client.speak(client.speech_url(http.base_url, session), voice)
        self._tasks.append(asyncio.create_task(said))

    def _watch(self, receiver: Any) -> None:
        self._tasks.append(asyncio.create_task(self._read(receiver.track)))

    async def _read(self, track: MediaStreamTrack) -> None:
        async for frame in client.frames_of(track):
            if track.kind == "video":
                self.came.append((time.monotonic(), frame.pts / 90_000))

    async def close(self, http: httpx.AsyncClient) -> None:
        await http.delete(self.path)
        await client.cancel(self._tasks)
        await self._pc.close()

    def figures(
        self, since_s: float, until_s: float, before: dict[str, Any], after: dict[str, Any]
    ) -> dict[str, Any]:
        """What happened between two readings of the clock, and of the server's figures."""
        sent = sum(since_s <= at_s < until_s for at_s in self._tape.sent_s)
        came = [pair for pair in self.came if since_s <= pair[0] < until_s]
        passed = after["passed_through"]
        counted = sum(passed.values()) - sum(before["passed_through"].get(n, 0) for n in passed)
        painted = sum(after[way] - before[way] for way in ("pasted", "generated"))
        return {
            "pictures_share": max(len(came), 1) / max(sent, 1),
            "generated_share": painted / max(painted + counted, 1),
            "delay_p95_ms": after["delay_p95_ms"],
            "pacing_ms": (pacing_errors_s(came) * 1e3).round(2).tolist(),
        }


async def crowd(plan: argparse.Namespace) -> dict[str, Any]:
    """So many calls at once; figures of each, and the server's processor time meanwhile."""
    ice.offer_addresses(["127.0.0.1"])
    patch.apply(ServerConfig())
    blind()
    width, _, height = plan.size.partition("x")
    tape = encoded(plan.clip, (int(width), int(height)))
    voice = read_speech(plan.speech, client.SPEECH_RATE_HZ)
    callers = [Caller(Tape(tape, number / FPS / plan.calls)) for number in range(plan.calls)]

    async def stats() -> list[dict[str, Any]]:
        return [(await http.get(f"{caller.path}/stats")).json() for caller in callers]

    async with httpx.AsyncClient(base_url=plan.url, timeout=60) as http:
        for caller in callers:
            await caller.connect(http, voice, plan.steps)
        begun_s = time.monotonic()
        while not all(caller.came for caller in callers):
            if time.monotonic() > begun_s + 60:
                raise RuntimeError("no picture came back within 60 s")
            await asyncio.sleep(0.01)
        await asyncio.sleep(plan.settle)
        before, since_s, cpu_s = await stats(), time.monotonic(), process_cpu_s(plan.pid)
        await asyncio.sleep(plan.seconds)
        until_s, used_s, after = time.monotonic(), process_cpu_s(plan.pid) - cpu_s, await stats()
        for caller in callers:
            await caller.close(http)
    return {
        "cpu_cores": used_s / (until_s - since_s),
        "calls": [
            caller.figures(since_s, until_s, old, new)
            for caller, old, new in zip(callers, before, after, strict=True)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("clip", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--pid", type=int, required=True, help="the server's")
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--settle", type=float, default=3)
    print(json.dumps(asyncio.run(crowd(parser.parse_args()))))


if __name__ == "__main__":
    main()
