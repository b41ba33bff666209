"""`lipwire bench overload`: a device that is slowed four times in the middle of a call (R6).

A real server in a process of its own, whose device takes so much longer when its parent says so,
and a real WebRTC caller in this one. In each third: pictures that came back, how many of them were
painted, rungs, holes in the sound, delay. After the load: how long until delay and rung are what
they were.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import httpx
import numpy as np
import uvicorn
from annotated_types import Ge

from lipwire.benchmarks.rig.client import SPEECH_RATE_HZ, cancel, speak, speech_url
from lipwire.benchmarks.rig.probe import Probe
from lipwire.benchmarks.rig.scenes import made_images
from lipwire.benchmarks.rig.server import serving_on_socket
from lipwire.benchmarks.rig.voices import sample_voice
from lipwire.engine import Engine
from lipwire.engine.backends import Backend, load_backend
from lipwire.engine.errors import LipwireError
from lipwire.engine.face.tracker import FaceTracker
from lipwire.engine.media.sound import read_speech
from lipwire.engine.types import U8, LipJob
from lipwire.server.api.app import create_app
from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice, patch

PARTS = ("before", "slowed", "after")
TARGETS = {"pictures_share": 0.95, "sound_holes": 0, "back_s": 3.0}
ASK_EVERY_S = 0.2  # the server for its rung: how exactly its return is known
# A delay is back to normal when the median of half a second is within half a picture of what it was
# before. Shorter or closer: jitter hides it; longer or wider: it is seen too early.
WINDOW_S, NEAR_S = 0.5, 0.020
ON_ITS_WAY_S = 0.3  # pictures sent so shortly before the end are not missed


class Slowed:
    """Implements `lipwire.engine.backends.Backend`: another one, made to take longer."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.manifest, self.batch_sizes = inner.manifest, inner.batch_sizes
        self.description = f"{inner.description}, slowed"
        self.factor = 1.0  # how many times as long as it needs

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        """What the other paints, later."""
        begun_s = time.monotonic()
        painted = self._inner.generate(jobs)
        time.sleep((self.factor - 1) * (time.monotonic() - begun_s))
        return painted

    def close(self) -> None:
        self._inner.close()


def obey(commands: IO[str], device: Slowed) -> None:
    """Take a factor from each line, until there are no more."""
    for line in commands:
        device.factor = float(line)


def serve(
    listener: socket.socket,
    commands: IO[str],
    backend: Backend,
    make_tracker: Callable[[], FaceTracker] | None = None,
    ladder: bool = True,
) -> None:
    """A server on a device that can be slowed, until it is told to stop."""
    device = Slowed(backend)
    threading.Thread(target=obey, args=(commands, device), daemon=True).start()
    with Engine(device, make_tracker) as engine:
        engine.warm_up()
        settings = ServerConfig(port=listener.getsockname()[1], ladder=ladder)
        config = uvicorn.Config(create_app(settings, engine), log_level="error")
        uvicorn.Server(config).run(sockets=[listener])


# --- the caller ---


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What the server says of a session at some time."""

    at_s: float
    figures: dict[str, Any]

    @property
    def outcomes(self) -> dict[str, int]:
        """Pictures that left so far, by what became of them."""
        painted = {name: self.figures[name] for name in ("pasted", "generated", "held")}
        return {**painted, **self.figures["passed_through"]}


async def _look(url: str, session: str, seen: list[Glimpse]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        while True:
            with contextlib.suppress(httpx.HTTPError):  # a busy machine; there is a next time
                reply = await http.get(f"/api/sessions/{session}/stats")
                if reply.is_success:
                    seen.append(Glimpse(time.monotonic(), reply.json()))
            await asyncio.sleep(ASK_EVERY_S)


async def call(
    url: str,
    images: list[U8],
    voice: Path,
    seconds: float,
    slow: Callable[[float], None],
    *,
    factor: float = 4.0,
    settle_s: float = 4.0,
) -> tuple[Probe, list[Glimpse], list[float]]:
    """A call whose device is slowed in the middle third."""
    patch.apply(ServerConfig())
    ice.offer_addresses(["127.0.0.1"])
    samples = read_speech(voice, SPEECH_RATE_HZ)
    probe = Probe(url, images)
    await probe.connect(60.0)
    seen: list[Glimpse] = []
    tasks = [
        asyncio.create_task(speak(speech_url(url, probe.session), samples)),
        asyncio.create_task(_look(url, probe.session, seen)),
    ]
    borders = []
    try:
        await asyncio.sleep(settle_s)
        for now_slow in (1.0, factor, 1.0):
            slow(now_slow)
            borders.append(time.monotonic())
            await asyncio.sleep(seconds / 3)
        borders.append(time.monotonic())
        await asyncio.sleep(ON_ITS_WAY_S)
    finally:
        await cancel(tasks)
        await probe.close()
    return probe, seen, borders


# --- figures ---


def part_figures(
    name: str, probe: Probe, seen: list[Glimpse], since_s: float, until_s: float
) -> dict[str, Any]:
    """Of one third."""
    call = probe.figures(since_s, until_s)
    known = [glimpse for glimpse in seen if since_s <= glimpse.at_s < until_s]
    if not call["pictures_sent"]:
        raise LipwireError(f"no picture was sent in the third {name!r}: the machine is too slow")
    if call["delay_p50_ms"] is None:
        raise LipwireError(f"no picture came back in the third {name!r}: nothing can be said")
    if len(known) < 2:
        raise LipwireError(
            f"the server gave {len(known)} figures in the third {name!r}, two are needed: "
            "give more --seconds"
        )
    first, last = known[0], known[-1]
    left = {k: n - first.outcomes.get(k, 0) for k, n in last.outcomes.items()}
    spoken = sum(left.values()) - left.get("silent", 0)
    return {
        "seconds": call["seconds"],
        "pictures_share": call["pictures_share"],
        "generated_share": (left["pasted"] + left["generated"]) / spoken if spoken else None,
        "held_share": left["held"] / spoken if spoken else None,
        "rungs": list(dict.fromkeys(glimpse.figures["rung"] for glimpse in known)),
        "steps": list(dict.fromkeys(glimpse.figures["steps"] for glimpse in known)),
        "rung_changes": last.figures["rung_changes"] - first.figures["rung_changes"],
        "sound_holes": call["sound_holes_over_60_ms"],
        "sound_blocks_per_s": call["sound_blocks_per_s"],
        "delay_p50_ms": call["delay_p50_ms"],
        "delay_p95_ms": call["delay_p95_ms"],
        "freeze_max_ms": call["freeze_max_ms"],
        "outcomes": {k: n for k, n in left.items() if n},
    }


def delays(probe: Probe, since_s: float, until_s: float) -> Iterator[tuple[float, float]]:
    """When pictures came back, and how long after they were sent."""
    for at_s, number in probe.pictures:
        if since_s <= at_s < until_s and number is not None and number < len(probe.camera.sent_s):
            yield at_s, at_s - probe.camera.sent_s[number]


def delay_back_s(probe: Probe, normal_s: float, since_s: float, until_s: float) -> float | None:
    """Seconds until the delay was back to normal and stayed; None: it was not."""
    found = list(delays(probe, since_s, until_s))
    windows = []
    for start_s in np.arange(since_s, until_s - WINDOW_S, WINDOW_S / 5):
        inside = [delay for at_s, delay in found if start_s <= at_s < start_s + WINDOW_S]
        late = not inside or float(np.median(inside)) > normal_s + NEAR_S
        windows.append((float(start_s), late))
    for k, (start_s, late) in enumerate(windows):
        rest = [other for _, other in windows[k : k + 10]]  # a second
        if not late and sum(rest) <= len(rest) // 5:  # it stays, but for a hiccup
            return start_s - since_s
    return None


def rung_back_s(
    seen: list[Glimpse], normal: tuple[str, int], since_s: float, until_s: float
) -> float | None:
    """Seconds until the session was on its rung from before; None: it was not."""
    for glimpse in seen:
        now = glimpse.figures["rung"], glimpse.figures["steps"]
        if since_s <= glimpse.at_s < until_s and now == normal:
            return glimpse.at_s - since_s
    return None


def figures_of(probe: Probe, seen: list[Glimpse], borders: Sequence[float]) -> dict[str, Any]:
    """Of a whole call."""
    parts = {
        name: part_figures(name, probe, seen, *borders[k : k + 2]) for k, name in enumerate(PARTS)
    }
    before = [g for g in seen if borders[0] <= g.at_s < borders[1]]
    normal = before[-1].figures["rung"], before[-1].figures["steps"]
    normal_s = parts["before"]["delay_p50_ms"] / 1000
    return {
        **parts,
        "delay_back_s": delay_back_s(probe, normal_s, borders[2], borders[3]),
        "rung_back_s": rung_back_s(seen, normal, borders[2], borders[3]),
    }


def judge(figures: dict[str, Any]) -> dict[str, bool]:
    """What was met of the targets."""
    met = {}
    for name in PARTS:
        share = figures[name]["pictures_share"]
        met[f"{name}: 95 % of the pictures"] = share >= TARGETS["pictures_share"]
        met[f"{name}: no hole in the sound"] = figures[name]["sound_holes"] == 0
    for what in ("delay", "rung"):
        took_s = figures[f"{what}_back_s"]
        met[f"{what} back within 3 s"] = took_s is not None and took_s <= TARGETS["back_s"]
    return met


def run(
    *,
    seconds: Annotated[float, Ge(9)] = 60,
    factor: Annotated[float, Ge(1)] = 4.0,
    ladder: bool = True,
) -> dict[str, Any]:
    """Measure; the server runs in another process.

    Args:
        seconds: in three equal parts.
        factor: how many times as slow the device is in the second.
        ladder: whether the server lowers its quality.
    """
    flags = [] if ladder else ["--fixed"]
    with serving_on_socket("lipwire.benchmarks.live.overload", *flags) as (url, server):
        lines = server.stdin
        assert lines is not None

        def slow(times: float) -> None:
            lines.write(f"{times}\n".encode())
            lines.flush()

        made = call(url, made_images(), sample_voice(), seconds, slow, factor=factor)
        figures = figures_of(*asyncio.run(made))
    return {
        "seconds": seconds,
        "factor": factor,
        "ladder": ladder,
        "figures": figures,
        "targets": TARGETS,
        "met": judge(figures),
    }


def main() -> None:
    """Serve on an inherited socket; factors come by standard input."""
    from lipwire.engine.model.bundle import open_bundle

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fd", type=int, help="of a bound TCP socket")
    parser.add_argument("--fixed", action="store_true", help="without the ladder")
    given = parser.parse_args()
    backend = load_backend(open_bundle(None))
    serve(socket.socket(fileno=given.fd), sys.stdin, backend, ladder=not given.fixed)


if __name__ == "__main__":
    main()
