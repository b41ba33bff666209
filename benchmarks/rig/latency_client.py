"""The caller of `bench latency`: knows when each picture was shown to the camera and seen again.

Run as `python -m lipwire.benchmarks.rig.latency_client JSON` (the fields of `Plan`); prints one
JSON object. The picture carries its number (`benchmarks/rig/probe.py`), the voice a click every
second; pictures are prepared beforehand, so that the camera costs next to nothing. Times are the
machine's monotonic clock, which the server's are too.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np

from lipwire.benchmarks.rig import client
from lipwire.benchmarks.rig.clicks import click_levels, clicks, with_clicks
from lipwire.benchmarks.rig.network import Impairment, NetworkEmulator
from lipwire.benchmarks.rig.probe import read_number, write_number
from lipwire.engine.media.files import at_rate, read_frames
from lipwire.engine.media.planes import frame_of, planes_of
from lipwire.engine.media.sound import read_speech
from lipwire.engine.trace import Trace
from lipwire.engine.types import Planes
from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice, patch
from lipwire.server.rtc.frame_trace import hang, trace_of

ASK_EVERY_S = 10.0  # the server keeps a minute of traces
PICTURES = 150  # of the clip, forwards and backwards
LEFTOVER_S = 0.5  # what is sent so late may still be on its way


@dataclass(frozen=True)
class Plan:
    """What a call is to be like."""

    url: str
    video: str
    speech: str
    seconds: float = 20.0
    settle_s: float = 3.0
    width: int = 640
    height: int = 480
    fps: int = 25
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    netem: bool = False  # bad weather by the kernel, as we are in a network namespace of our own
    marked: bool = True
    """numbers and clicks; without, the bench's own cost is missing and pictures are told by pts"""
    echo: bool = False  # there is no lipwire at the other end: nothing to ask it

    @property
    def bad(self) -> bool:
        """Whether there is any weather."""
        return bool(self.delay_ms or self.jitter_ms or self.loss)


class Camera(client.PacedTrack):
    """Numbered pictures at a constant rate, each with a trace."""

    def __init__(self, pictures: list[Planes], fps: int, marked: bool) -> None:
        super().__init__(fps)
        self._pictures, self._marked = pictures, marked
        self.traces: list[Trace] = []

    def show(self, number: int) -> av.VideoFrame:
        """One of the clip's, with its number."""
        place = client.there_and_back(number, len(self._pictures))
        frame: av.VideoFrame = frame_of(self._pictures[place])
        if self._marked:
            plane = frame.planes[0]
            luma = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            write_number(luma[:, : frame.width, None], number)
        return frame

    async def recv(self) -> av.VideoFrame:
        """The next picture, when it is due."""
        frame: av.VideoFrame = await super().recv()
        trace = Trace(time.monotonic)
        trace.pts = frame.pts or 0
        trace.stamp("captured")
        hang(frame, trace)
        self.traces.append(trace)
        return frame


@dataclass
class Seen:
    """What came back."""

    pictures: list[tuple[float, int | None, Trace]] = field(default_factory=list)
    """when each was read, its number, its trace"""
    sounds: list[tuple[float, int, Trace]] = field(default_factory=list)
    """when each block came, its pts, its trace"""
    levels: list[tuple[int, float]] = field(default_factory=list)  # pts and loudness at CLICK_HZ
    receivers: dict[str, Any] = field(default_factory=dict)
    own_s: float = 0.0  # processor time spent on looking for numbers and clicks

    async def watch(self, receiver: Any, plan: Plan) -> None:
        """Read one track to its end."""
        track = receiver.track
        self.receivers[track.kind] = receiver
        async for frame in client.frames_of(track):
            at_s = time.monotonic()
            if track.kind == "video":
                number = frame.pts * plan.fps // 90_000
                if plan.marked:
                    plane = frame.planes[0]
                    luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                    number = read_number(luma[:16, : frame.width])
                self.pictures.append((at_s, number, trace_of(frame)))
            else:
                self.sounds.append((at_s, frame.pts, trace_of(frame)))
                if plan.marked:
                    samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0]
                    for k, level in enumerate(click_levels(samples.astype(np.float64))):
                        self.levels.append((frame.pts + 240 * k, float(level)))
            self.own_s += time.monotonic() - at_s

    def offsets(self, since_s: float, until_s: float) -> dict[str, list[float]]:
        """How long after its own time, by the sender's reports, each frame came; another origin."""
        times = {
            "video": [(at_s, t.pts) for at_s, _, t in self.pictures if t.kept],
            "audio": [(at_s, pts) for at_s, pts, _ in self.sounds],
        }
        found: dict[str, list[float]] = {}
        for kind, rows in times.items():
            receiver: Any = self.receivers.get(kind)
            found[kind] = []
            for at_s, pts in rows if receiver is not None else ():
                wall_s = receiver.wall_clock_s(pts) if since_s <= at_s < until_s else None
                if wall_s is not None:
                    found[kind].append(at_s - wall_s)
        return found


async def call(plan: Plan) -> dict[str, Any]:
    """One call; everything that was noted."""
    ice.offer_addresses(["127.0.0.1"])
    patch.apply(ServerConfig(video_codec="vp8"))
    pictures = made_pictures(plan)
    voice = read_speech(Path(plan.speech), client.SPEECH_RATE_HZ)
    voice = with_clicks(voice) if plan.marked else voice
    seen, camera = Seen(), Camera(pictures, plan.fps, plan.marked)
    tasks: list[asyncio.Task[None]] = []
    pc = client.caller_of(camera, lambda r: tasks.append(asyncio.create_task(seen.watch(r, plan))))
    offer, relay = await client.offer_of(pc), None
    if plan.bad and not plan.netem:
        relay = await NetworkEmulator().__aenter__()
    rows: dict[int, list[Any]] = {}
    columns: list[str] = []
    spoken: list[float] = []  # when each piece of the voice was sent
    voice_rows: dict[int, dict[str, Any]] = {}  # by place
    sound_rows: dict[int, dict[str, Any]] = {}
    called_s = time.monotonic()
    async with httpx.AsyncClient(base_url=plan.url, timeout=60) as http:
        session = await client.begin(pc, http, offer, relay)
        path = f"/api/sessions/{session}"
        spoken_s = time.monotonic()
        if not plan.echo:
            address = client.speech_url(plan.url, session)
            said = client.speak(address, voice, sent=lambda: spoken.append(time.monotonic()))
            tasks.append(asyncio.create_task(said))
        while not seen.pictures:
            if time.monotonic() > called_s + 60:
                raise RuntimeError("no picture came back within 60 s")
            await asyncio.sleep(0.005)
        _make_weather(plan, relay)

        async def ask() -> dict[str, Any]:
            if plan.echo:
                return {}
            # Those of the last seconds again: they were still on their way.
            since_s = max((row[columns.index("popped")] for row in rows.values()), default=0.0) - 2
            found = (await http.get(f"{path}/trace", params={"since_s": since_s})).json()
            columns[:] = found["columns"]
            rows.update({row[0]: row for row in found["pictures"]})
            for kept, table in ((voice_rows, found["voice"]), (sound_rows, found["sound"])):
                for row in table["rows"]:
                    kept[row[0]] = dict(zip(table["columns"], row, strict=True))
            stats: dict[str, Any] = (await http.get(f"{path}/stats")).json()
            return stats

        first = await ask()
        await asyncio.sleep(plan.settle_s)
        await ask()
        since_s, cpu_s = time.monotonic(), time.process_time()
        while (left_s := since_s + plan.seconds - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, ASK_EVERY_S))
            last = await ask()
        until_s, used_s = time.monotonic(), time.process_time() - cpu_s
        await asyncio.sleep(LEFTOVER_S)
        last = await ask()
        await http.delete(path)
    await client.cancel(tasks)
    heard = [[place_s, came_s] for place_s, _, came_s in heard_clicks(seen)]
    walls = seen.offsets(since_s, until_s)
    await pc.close()
    if relay is not None:
        await relay.__aexit__()
    return {
        "called_s": called_s,
        "spoken_s": spoken_s,
        "since_s": since_s,
        "until_s": until_s,
        "client_cpu_s": used_s,
        "client_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "own_s": seen.own_s,
        "columns": columns,
        "server": list(rows.values()),
        "sent": [[n, t.pts, t.at_s] for n, t in enumerate(camera.traces)],
        "back": [[at_s, n, t.pts if t.kept else 0, t.at_s] for at_s, n, t in seen.pictures],
        "clicks": heard,
        "offsets": walls,
        "first": first,
        "last": last,
        "spoken": spoken,
        "voice": list(voice_rows.values()),
        "sound": list(sound_rows.values()),
        "sounds": [[at_s, pts, t.at_s] for at_s, pts, t in seen.sounds],
    }


def made_pictures(plan: Plan) -> list[Planes]:
    """What the camera shows: of the clip, at the size and rate asked for."""
    import cv2

    found = []
    for picture in itertools.islice(at_rate(read_frames(Path(plan.video)), plan.fps), PICTURES):
        size = (plan.width, plan.height)
        image = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        frame = av.VideoFrame.from_ndarray(np.asarray(image, np.uint8), format="rgb24")
        planes = planes_of(frame.reformat(format="yuv420p"))
        assert planes is not None
        found.append(Planes(planes.y.copy(), planes.u.copy(), planes.v.copy(), planes.matrix))
    return found


def _make_weather(plan: Plan, relay: NetworkEmulator | None) -> None:
    """From now on the path is bad: how calls are set up is not what is measured."""
    if relay is not None:
        relay.up, relay.down = (
            Impairment(
                plan.loss, delay_s=plan.delay_ms / 1000, jitter_s=plan.jitter_ms / 1000, seed=s
            )
            for s in (1, 2)
        )
    elif plan.bad:
        command = [shutil.which("tc") or "tc", "qdisc", "add", "dev", "lo", "root", *netem(plan)]
        subprocess.run(command, check=True)


def netem(plan: Plan) -> list[str]:
    """The weather as `tc` is told of it."""
    words = ["netem", "delay", f"{plan.delay_ms}ms", f"{plan.jitter_ms}ms"]
    return [*words, "loss", f"{100 * plan.loss}%"] if plan.loss else words


def heard_clicks(seen: Seen) -> list[tuple[float, int, float]]:
    """Of each click: its place in the sound (s), its block's (samples), and when that came."""
    if not seen.levels:
        return []
    pts, levels = np.array(seen.levels).T
    came = {start: at_s for at_s, start, _ in seen.sounds}
    starts = np.array(sorted(came))
    found = []
    for place_s in clicks(levels, pts / 48_000):
        start = int(starts[np.searchsorted(starts, place_s * 48_000, side="right") - 1])
        found.append((float(place_s), start, came[start]))
    return found


def main() -> None:
    print(json.dumps(asyncio.run(call(Plan(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
