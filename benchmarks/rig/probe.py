"""A caller that knows every picture it sends: what comes back, how late, and what is missing.

Each picture carries its number as blocks of black and white along the top, which survive any
codec. Runs in a process of its own (`python -m lipwire.benchmarks.rig.probe URL ...`, one JSON
object out), with our media plane, behind a relay with any weather.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
from aiortc.mediastreams import MediaStreamTrack

from lipwire.benchmarks.rig import client
from lipwire.benchmarks.rig.network import Impairment, NetworkEmulator
from lipwire.engine.types import U8
from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice, patch
from lipwire.server.rtc.connection import reception

BITS = 20  # numbers of eleven hours at 25 fps, then a parity bit for each four
BLOCK_PX = 16
FPS = 25
SOUND_GAP_S = 0.060  # a hole that is heard
CONNECTED = "connected"  # printed by --say-when


def write_number(image: U8, number: int) -> None:
    """Put a number into the top rows of uint8[H, W >= 400, 3]."""
    bits = [number >> place & 1 for place in range(BITS)]
    bits += [sum(bits[k : k + 4]) & 1 for k in range(0, BITS, 4)]
    row = np.repeat(np.array(bits, np.uint8) * 255, BLOCK_PX)
    image[:BLOCK_PX, : len(row)] = row[None, :, None]


def read_number(luma: U8) -> int | None:
    """The number in uint8[H, W]; None where it cannot be read.

    A server may send pictures at half the size; its blocks are half as large then.
    """
    count = BITS + BITS // 4
    block = BLOCK_PX if luma.shape[1] >= count * BLOCK_PX else BLOCK_PX // 2
    if luma.shape[0] < block or luma.shape[1] < count * block:
        return None
    edge = block // 4
    strip = luma[edge : block - edge, : count * block].reshape(-1, count, block)
    levels = strip[:, :, edge:-edge].mean((0, 2))
    if np.any(np.abs(levels - 128) < 32):
        return None
    bits = [int(level > 128) for level in levels]
    data, parity = bits[:BITS], bits[BITS:]
    if parity != [sum(data[k : k + 4]) & 1 for k in range(0, BITS, 4)]:
        return None
    return sum(bit << place for place, bit in enumerate(data))


class NumberedCamera(client.PacedTrack):
    """Pictures of a clip, over and over, each with its number."""

    def __init__(self, images: list[U8]) -> None:
        super().__init__(FPS)
        self._images = images

    def show(self, number: int) -> av.VideoFrame:
        """One of them, with its number."""
        image = self._images[number % len(self._images)].copy()
        write_number(image, number)
        return client.video_frame(image)


class Probe:
    """One call."""

    def __init__(
        self,
        url: str,
        images: list[U8],
        up: Impairment | None = None,
        down: Impairment | None = None,
    ) -> None:
        self._url, self._weather = url, (up, down)
        self.camera = NumberedCamera(images)
        self.pictures: list[tuple[float, int | None]] = []  # when each came back, and its number
        self.sounds: list[tuple[float, int]] = []  # when each block of sound came, and its pts
        self.session = ""
        self._relay: NetworkEmulator | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self, timeout_s: float = 30.0) -> None:
        """Begin the call and wait for the first picture."""
        self._pc = client.caller_of(self.camera, self._watch)
        offer = await client.offer_of(self._pc)
        if self._weather != (None, None):
            self._relay = await NetworkEmulator().__aenter__()
        async with httpx.AsyncClient(base_url=self._url, timeout=30) as http:
            self.session = await client.begin(self._pc, http, offer, self._relay)
        begun = time.monotonic()
        while not self.pictures:
            if time.monotonic() > begun + timeout_s:
                raise RuntimeError(f"no picture came back within {timeout_s:g} s")
            await asyncio.sleep(0.01)
        if self._relay is not None:  # fair until now: how calls are set up is not what is measured
            self._relay.up, self._relay.down = (w or Impairment() for w in self._weather)

    def _watch(self, receiver: Any) -> None:
        self._tasks.append(asyncio.create_task(self._read(receiver.track)))

    async def _read(self, track: MediaStreamTrack) -> None:
        async for frame in client.frames_of(track):
            now = time.monotonic()
            if track.kind == "video":
                plane = frame.planes[0]
                luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                self.pictures.append((now, read_number(luma[:, : frame.width])))
            else:
                self.sounds.append((now, frame.pts))

    async def close(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=30) as http:
            await http.delete(f"/api/sessions/{self.session}")
        await self._pc.close()
        await asyncio.gather(*self._tasks)
        if self._relay is not None:
            await self._relay.__aexit__()

    async def reception(self) -> dict[str, dict[str, float]]:
        """What either side saw of the other's packets, the whole call long."""
        async with httpx.AsyncClient(base_url=self._url, timeout=30) as http:
            reply = await http.get(f"/api/sessions/{self.session}/stats")
        there = reply.json()["reception"] if reply.is_success else {}  # it may have given us up
        return {"at the server": there, "at the caller": reception(self._pc)}

    def figures(self, since_s: float, until_s: float) -> dict[str, Any]:
        """What happened between two readings of the monotonic clock."""
        sent = [s for s in self.camera.sent_s if since_s <= s < until_s]
        got = [(at_s, n) for at_s, n in self.pictures if since_s <= at_s < until_s]
        read = [(at_s, n) for at_s, n in got if n is not None and n < len(self.camera.sent_s)]
        delays = [at_s - self.camera.sent_s[n] for at_s, n in read]
        fresh = [read[0][0]] if read else []
        newest = read[0][1] if read else 0
        for at_s, number in read[1:]:
            if number > newest:
                newest = number
                fresh.append(at_s)
        gaps = np.diff(fresh) if len(fresh) > 1 else np.zeros(1)
        sounds = [at_s for at_s, _ in self.sounds if since_s <= at_s < until_s]
        holes = [
            (b - a) / 48_000
            for (at_s, a), (_, b) in zip(self.sounds, self.sounds[1:], strict=False)
            if since_s <= at_s < until_s and b - a > SOUND_GAP_S * 48_000
        ]
        percentiles = {
            f"delay_p{p}_ms": float(np.percentile(delays, p)) * 1000 if delays else None
            for p in (50, 95, 99)
        }
        return {
            "seconds": until_s - since_s,
            "pictures_sent": len(sent),
            "pictures_back": len(fresh),
            "pictures_share": len(fresh) / max(len(sent), 1),
            "unreadable": sum(number is None for _, number in got),
            **percentiles,
            "freeze_max_ms": float(gaps.max()) * 1000,
            "freezes_over_500_ms": int((gaps > 0.5).sum()),
            "sound_blocks_per_s": len(sounds) / (until_s - since_s),
            "sound_holes_over_60_ms": len(holes),
        }


def test_card(size: tuple[int, int] = (640, 480)) -> list[U8]:
    """A picture without a face that moves, so that it passes through the server unchanged."""
    width, height = size
    rows, cols = np.mgrid[0:height, 0:width] / 60.0
    image = np.dstack([128 + 60 * np.sin(rows + k) + 40 * np.cos(cols - k) for k in range(3)])
    return [np.roll(image.astype(np.uint8), 4 * k, 1) for k in range(0, 50)]


async def ride(
    url: str,
    seconds: float,
    calls: int = 1,
    up: Impairment | None = None,
    down: Impairment | None = None,
    clip: Path | None = None,
    speech: Path | None = None,
    settle_s: float = 3.0,
    until_told: bool = False,
    connected: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Some calls at once for some time; figures of each.

    Args:
        url: of the server.
        seconds: measured, after `settle_s`.
        calls: at once.
        up: weather from us to the server.
        down: weather back.
        clip: pictures with a face; None sends a test card, which passes through.
        speech: a voice to speak; without one nothing is painted.
        settle_s: not measured.
        until_told: end before `seconds` when standard input ends.
        connected: told when all calls run.
    """
    patch.apply(ServerConfig())
    ice.offer_addresses(["127.0.0.1"])
    images = test_card()
    if clip is not None:
        from lipwire.engine.media.files import read_frames

        images = [frame.image for frame in read_frames(clip)]
    probes = [Probe(url, images, up, down) for _ in range(calls)]
    talking = []
    for probe in probes:
        await probe.connect()
        if speech is not None:
            from lipwire.engine.media.sound import read_speech

            voice = read_speech(speech, client.SPEECH_RATE_HZ)
            said = client.speak(client.speech_url(url, probe.session), voice)
            talking.append(asyncio.create_task(said))
    connected()
    await asyncio.sleep(settle_s)
    begun = time.monotonic()
    if until_told:
        await until_input_ends(seconds)
    else:
        await asyncio.sleep(seconds)
    ended = time.monotonic() - 0.3  # what is still on its way is not lost
    found = [probe.figures(begun, ended) | await probe.reception() for probe in probes]
    await client.cancel(talking)
    for probe in probes:
        await probe.close()
    return found


async def until_input_ends(seconds: float) -> None:
    """Return when nobody holds our standard input open any more, or after some time."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def readable() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin)
            ended.set()

    loop.add_reader(sys.stdin, readable)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--settle", type=float, default=3)
    parser.add_argument("--loss", type=float)
    parser.add_argument("--burst-loss", type=float, default=0.0)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--speech", type=Path)
    parser.add_argument("--until-told", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--when-told", action="store_true", help="call when a line comes in")
    parser.add_argument("--say-when", action="store_true", help="print a line when calls run")
    a = parser.parse_args()
    up = down = None
    if a.loss is not None:
        up = Impairment(a.loss, a.burst_loss, delay_s=a.delay_ms / 1000, seed=2 * a.seed)
        down = Impairment(a.loss, a.burst_loss, delay_s=a.delay_ms / 1000, seed=2 * a.seed + 1)

    def connected() -> None:
        if a.say_when:
            print(CONNECTED, flush=True)

    if a.when_told:
        sys.stdin.readline()
    rides = ride(
        a.url, a.seconds, a.calls, up, down, a.clip, a.speech, a.settle, a.until_told, connected
    )
    print(json.dumps(asyncio.run(rides)))


if __name__ == "__main__":
    main()
