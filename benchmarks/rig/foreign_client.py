"""The caller of `bench latency` and `bench capacity` where the server is any.

Run as `python -m lipwire.benchmarks.rig.foreign_client JSON` (the fields of `Visit`); prints one
JSON object. The server is asked nothing: pictures are told by their numbers, sound by its clicks,
whose distances repeat only after `PATTERN_S`, so that a delay of seconds is not taken for a short
one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
from aiortc.mediastreams import MediaStreamTrack

from lipwire.benchmarks.harness.timing import pacing_errors_s
from lipwire.benchmarks.rig.clicks import click_times, clicking
from lipwire.benchmarks.rig.client import cancel, frames_of
from lipwire.benchmarks.rig.latency_client import Camera, Plan, Seen, heard_clicks, made_pictures
from lipwire.benchmarks.rig.load_generator import FPS, Tape, blind, encoded
from lipwire.benchmarks.rig.signalling import Doors, Line
from lipwire.engine.media.sound import read_speech
from lipwire.engine.types import I16, PLAYOUT_RATE_HZ
from lipwire.server.config import ServerConfig
from lipwire.server.rtc import patch

BLOCK = PLAYOUT_RATE_HZ // 50  # 20 ms
FIRST_S = 60.0  # a server that shows nothing for so long shows nothing
LEFTOVER_S = 8.0  # what is sent in the last moment may come so much later


@dataclass(frozen=True)
class Visit:
    """What calls to another server are to be like."""

    video: str
    speech: str
    offer: str | None = None
    whip: str | None = None
    whep: str | None = None
    seconds: float = 20.0
    settle_s: float = 3.0
    width: int = 640
    height: int = 480
    fps: int = FPS
    calls: int = 1
    blind: bool = False  # send what was encoded once and decode nothing: many calls at once

    @property
    def doors(self) -> Doors:
        """Where the server is."""
        return Doors(self.offer, self.whip, self.whep)


class Microphone(MediaStreamTrack):
    """A sound in real time.

    Args:
        sound: int16[N] at 48 kHz; silence follows.
    """

    kind = "audio"

    def __init__(self, sound: I16) -> None:
        super().__init__()
        self._sound = sound
        self.sent_s: list[float] = []  # when each block of 20 ms was handed over

    async def recv(self) -> av.AudioFrame:
        """The next block, when it is due."""
        number = len(self.sent_s)
        due_s = (self.sent_s[0] if self.sent_s else time.monotonic()) + number / 50
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        block = np.zeros(BLOCK, np.int16)
        part = self._sound[number * BLOCK : (number + 1) * BLOCK]
        block[: len(part)] = part
        frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = PLAYOUT_RATE_HZ, number * BLOCK
        frame.time_base = Fraction(1, PLAYOUT_RATE_HZ)
        self.sent_s.append(time.monotonic())
        return frame

    def handed_s(self, at_s: float) -> float | None:
        """When what lies at a place of the sound was handed over; None: not yet."""
        block, within = divmod(at_s * 50, 1)
        return self.sent_s[int(block)] + within / 50 if block < len(self.sent_s) else None


@dataclass
class Timed:
    """Of a picture track that is not looked at: when each came, and when it was due."""

    came: list[tuple[float, float]] = field(default_factory=list)

    async def read(self, track: Any) -> None:
        async for frame in frames_of(track):
            if track.kind == "video":
                self.came.append((time.monotonic(), float(frame.pts * frame.time_base)))


async def look(visit: Visit) -> dict[str, Any]:
    """One call, every picture and click of it noted."""
    patch.apply(ServerConfig(video_codec="vp8"))
    plan = Plan(
        "", visit.video, visit.speech, width=visit.width, height=visit.height, fps=visit.fps
    )
    camera = Camera(made_pictures(plan), visit.fps, True)
    length_s = FIRST_S + visit.settle_s + visit.seconds
    microphone = Microphone(clicking(read_speech(Path(visit.speech), PLAYOUT_RATE_HZ), length_s))
    seen, tasks = Seen(), list[asyncio.Task[None]]()
    called_s = time.monotonic()
    async with httpx.AsyncClient(timeout=30, follow_redirects=True) as http:
        line = Line(http, visit.doors)
        try:
            await line.open(
                camera, microphone, lambda r: tasks.append(asyncio.create_task(seen.watch(r, plan)))
            )
            await _until(lambda: bool(seen.pictures), called_s)
            await asyncio.sleep(visit.settle_s)
            since_s = time.monotonic()
            await asyncio.sleep(visit.seconds)
            until_s = time.monotonic()
            await _until(lambda: _home(seen, camera, until_s), until_s, LEFTOVER_S, must=False)
        finally:
            await cancel(tasks)
            offsets = seen.offsets(since_s, until_s) if seen.pictures else {}
            await line.close()
    return {
        "called_s": called_s,
        "since_s": since_s,
        "until_s": until_s,
        "offsets": offsets,
        "sent": [[n, t.at_s["captured"]] for n, t in enumerate(camera.traces)],
        "back": [[at_s, n, t.pts / 90_000] for at_s, n, t in seen.pictures],
        "clicks_sent": [s for at in click_times(length_s) if (s := microphone.handed_s(at))],
        "clicks_heard": _heard_s(seen),
    }


def _home(seen: Seen, camera: Camera, until_s: float) -> bool:
    """Whether something that was sent after all that counts has come back."""
    numbers = [n for _, n, _ in seen.pictures if n is not None and n < len(camera.traces)]
    return not numbers or camera.traces[max(numbers[-50:])].at_s["captured"] > until_s


def _heard_s(seen: Seen) -> list[float]:
    """When each click was heard, on our clock."""
    heard = heard_clicks(seen)
    return [came_s + place_s - start / PLAYOUT_RATE_HZ for place_s, start, came_s in heard]


async def crowd(visit: Visit) -> dict[str, Any]:
    """Some calls at once, whose pictures are counted and timed."""
    patch.apply(ServerConfig(video_codec="vp8"))
    blind()
    tape = encoded(Path(visit.video), (visit.width, visit.height))
    voice = np.resize(read_speech(Path(visit.speech), PLAYOUT_RATE_HZ), 600 * PLAYOUT_RATE_HZ)
    cameras = [Tape(tape, n / FPS / visit.calls) for n in range(visit.calls)]
    seen = [Timed() for _ in cameras]
    tasks: list[asyncio.Task[None]] = []
    async with httpx.AsyncClient(timeout=30, follow_redirects=True) as http:
        lines = [Line(http, visit.doors, n) for n in range(visit.calls)]
        try:
            for line, camera, timed in zip(lines, cameras, seen, strict=True):

                def read(receiver: Any, timed: Timed = timed) -> None:
                    tasks.append(asyncio.create_task(timed.read(receiver.track)))

                await line.open(camera, Microphone(voice), read)
            await _until(lambda: all(timed.came for timed in seen), time.monotonic())
            await asyncio.sleep(visit.settle_s)
            since_s = time.monotonic()
            await asyncio.sleep(visit.seconds)
            until_s = time.monotonic()
        finally:
            await cancel(tasks)
            for line in lines:
                await line.close()
    found = []
    for camera, timed in zip(cameras, seen, strict=True):
        sent = sum(since_s <= at_s < until_s for at_s in camera.sent_s)
        came = [pair for pair in timed.came if since_s <= pair[0] < until_s] or [(0.0, 0.0)]
        share = min(len(came) / max(sent, 1), 1.0)
        pacing_ms = (pacing_errors_s(came) * 1e3).round(2).tolist()
        found.append({"pictures_share": share, "pacing_ms": pacing_ms})
    return {"calls": found}


async def _until(
    there: Any, begun_s: float, patience_s: float = FIRST_S, must: bool = True
) -> None:
    while not there():
        if time.monotonic() > begun_s + patience_s:
            if must:
                raise RuntimeError(f"no picture came back within {patience_s:g} s")
            return
        await asyncio.sleep(0.01)


def main() -> None:
    visit = Visit(**json.loads(sys.argv[1]))
    print(json.dumps(asyncio.run(crowd(visit) if visit.blind else look(visit))))


if __name__ == "__main__":
    main()
