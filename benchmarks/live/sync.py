"""`lipwire bench sync`: are lips and sound together where they are seen and heard? (R10)

The engine is a real one, but its model shows what it hears (`benchmarks/rig/sync_marker.py`), and
the voice beeps once a second. At the receiver, which knows wall-clock times from the sender reports
alone, the middle of each flash is compared with the middle of its beep.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import httpx
import numpy as np
import uvicorn
from aiortc.mediastreams import MediaStreamTrack
from annotated_types import Ge, Le

from lipwire.benchmarks.rig import client
from lipwire.benchmarks.rig.scenes import made_images
from lipwire.benchmarks.rig.server import serving_on_socket
from lipwire.benchmarks.rig.sync_marker import (
    RATE_HZ,
    Edges,
    SyncMarker,
    beeps,
    find_edges,
    skews,
    states,
    stripes,
)
from lipwire.engine import Engine
from lipwire.engine.errors import LipwireError
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.types import F64, U8
from lipwire.server.api.app import create_app
from lipwire.server.config import ServerConfig
from lipwire.server.rtc import ice, patch

SETTLED_S = 10.0  # after which a voice's distance counts as settled
LIPS = [61, 291, 0, 17, 13, 14, 37, 267, 84, 314]  # landmarks around the mouth
LOUD_PCM = 1000.0  # mean of |int16| over 5 ms: a beep lies above

Box = tuple[float, float, float, float]  # top, bottom, left and right as shares of the picture
MIDDLE: Box = (0.5, 0.75, 0.375, 0.625)


def mouth_box(images: Sequence[U8]) -> Box:
    """Where the lips are in uint8[H, W, 3] pictures, all of them together."""
    tracker = MeshTracker()
    faces = [face for face in map(tracker.track, images) if face is not None]
    tracker.close()
    if not faces:
        raise LipwireError("no face was found in the pictures that would be sent")
    height, width = images[0].shape[:2]
    lips = np.concatenate([face.landmarks[LIPS] for face in faces]) / (width, height)
    (left, top), (right, bottom) = lips.min(0), lips.max(0)
    return float(top), float(bottom), float(left), float(right)


class Ears:
    """A receiver that notes stripes and loudness on the sender's wall clock."""

    def __init__(self, lips: Box = MIDDLE) -> None:
        self._lips = lips
        self.figures: list[dict[str, Any]] = []  # the server's own, every SETTLED_S
        self._raw: dict[str, list[tuple[int, float]]] = {"video": [], "audio": []}
        self._receivers: dict[str, Any] = {}

    async def watch(self, receiver: Any) -> None:
        """Read one track to its end."""
        track: MediaStreamTrack = receiver.track
        self._receivers[track.kind] = receiver
        async for frame in client.frames_of(track):
            if track.kind == "video":
                luma = frame.to_ndarray(format="gray")
                (h, w), (top, bottom, left, right) = luma.shape, self._lips
                rows = slice(int(top * h), max(int(bottom * h), int(top * h) + 8))
                lips = luma[rows, int(left * w) : int(right * w)].astype(np.float64)
                self._raw["video"].append((frame.pts, stripes(lips)))
            else:
                samples = frame.to_ndarray().reshape(-1, 2)[:, 0].astype(np.float64)
                for k in range(0, len(samples), 240):  # 5 ms
                    level = float(np.abs(samples[k : k + 240]).mean())
                    self._raw["audio"].append((frame.pts + k, level))

    def signal(self, kind: str) -> tuple[F64, F64]:
        """Times on the sender's wall clock, and levels."""
        receiver = self._receivers.get(kind)
        if receiver is None:
            return np.zeros(1), np.zeros(1)
        pairs = [(receiver.wall_clock_s(pts), level) for pts, level in self._raw[kind]]
        known = [(at_s, level) for at_s, level in pairs if at_s is not None]
        times, levels = np.array(known or [(0.0, 0.0)]).T
        return times, levels

    def edges(self) -> tuple[Edges, Edges]:
        """Of the flashes and of the beeps."""
        times_s, levels = self.signal("video")
        light = find_edges(times_s, states(levels))
        times_s, levels = self.signal("audio")
        return light, find_edges(times_s, np.where(levels > LOUD_PCM, 1.0, -1.0))

    def skews(self) -> list[float]:
        """Of every beep that was seen and heard."""
        return skews(*self.edges())

    def seen(self) -> dict[str, float]:
        """How much there was to measure by: without it, good figures say little."""
        light, sound = self.edges()
        return {
            "beeps_heard": len(sound.rises),
            "edges_seen": len(light.rises) + len(light.falls),
            "unpainted_percent": float(100 * (states(self.signal("video")[1]) == 0).mean()),
        }


async def measure(
    url: str,
    seconds: float,
    camera: MediaStreamTrack,
    enough: Callable[[Ears], bool] = lambda ears: False,
    *,
    lips: Box = MIDDLE,
    voice_skew: float | None = None,
) -> Ears:
    """Call a server whose model is a `SyncMarker`, and beep; returns what was seen and heard.

    Args:
        url: of the server.
        seconds: of beeping at most.
        camera: shows a face.
        enough: asked once a second whether to end.
        lips: where they are in its pictures.
        voice_skew: the voice comes as it is spoken, by a clock so much faster than ours, as a
            share; None sends it seconds ahead.
    """
    patch.apply(ServerConfig())
    ice.offer_addresses(["127.0.0.1"])
    ears = Ears(lips)
    tasks: list[asyncio.Task[None]] = []
    peer = client.caller_of(camera, lambda r: tasks.append(asyncio.create_task(ears.watch(r))))
    offer = await client.offer_of(peer)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        session = await client.begin(peer, http, offer, silence="generate")
        path, address = f"/api/sessions/{session}", client.speech_url(url, session, RATE_HZ)
        voice = beeps(10)
        if voice_skew is None:
            said = client.speak(address, voice, RATE_HZ)
        else:
            address += "&live=true"
            said = client.speak(address, voice, RATE_HZ, burst_s=0.02, ahead_s=0.0, skew=voice_skew)
        talking = asyncio.create_task(said)
        begun = time.monotonic()
        while time.monotonic() < begun + seconds and not enough(ears):
            await asyncio.sleep(1)
            if (elapsed_s := time.monotonic() - begun) >= SETTLED_S * (len(ears.figures) + 1):
                figures = (await http.get(f"{path}/stats")).json()
                ears.figures.append({"seconds": round(elapsed_s, 1), **figures})
        await client.cancel([talking])
        await http.delete(path)
    await peer.close()
    await asyncio.gather(*tasks)
    return ears


def figures_of(found: Sequence[float]) -> dict[str, float]:
    """Milliseconds, + where the sound is early."""
    ms = np.array(found) * 1000
    third = max(1, len(ms) // 3)
    return {
        "beeps": len(ms),
        "skew_p5_ms": float(np.percentile(ms, 5)),
        "skew_p50_ms": float(np.percentile(ms, 50)),
        "skew_p95_ms": float(np.percentile(ms, 95)),
        "skew_min_ms": float(ms.min()),
        "skew_max_ms": float(ms.max()),
        "drift_ms": float(np.median(ms[-third:]) - np.median(ms[:third])),
    }


def serve(listener: socket.socket) -> None:
    """A server whose model is a `SyncMarker`, until it is told to stop."""
    from lipwire.engine.model.bundle import open_bundle

    with Engine(SyncMarker(open_bundle(None).manifest)) as engine:
        app = create_app(ServerConfig(port=listener.getsockname()[1]), engine)
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


def clocks_of(ears: Ears) -> dict[str, float]:
    """What the server found the voice's clock to be, and whether it ran dry or piled up."""
    if not ears.figures:
        return {}
    waiting_s = [figures["backlog_s"] for figures in ears.figures]
    return {
        "voice_drift_found_ppm": ears.figures[-1]["voice_drift_ppm"],
        "voice_waiting_first_ms": waiting_s[0] * 1000,
        "voice_waiting_last_ms": waiting_s[-1] * 1000,
        "voice_waiting_least_ms": min(waiting_s) * 1000,
        "voice_waiting_most_ms": max(waiting_s) * 1000,
    }


def run(
    *,
    minutes: Annotated[float, Ge(0.1)] = 10,
    skew_ppm: Annotated[float | None, Ge(-1000), Le(1000)] = None,
) -> dict[str, Any]:
    """Measure; the server runs in another process.

    Args:
        minutes: of beeping.
        skew_ppm: the camera's clock is so much fast, that of a live voice as much slow; None sends
            the voice seconds ahead, as a synthesiser does.
    """
    skew = None if skew_ppm is None else skew_ppm * 1e-6
    voice_skew = None if skew is None else -skew
    with serving_on_socket("lipwire.benchmarks.live.sync") as (url, _):
        images = made_images()
        camera, lips = client.FaceTrack(images, 25, skew or 0.0), mouth_box(images[::10])
        call = measure(url, minutes * 60, camera, lips=lips, voice_skew=voice_skew)
        ears = asyncio.run(call)
    found = ears.skews()
    if not found:
        raise LipwireError("no beep was both seen and heard")
    figures = figures_of(found)
    return {
        "minutes": minutes,
        "skew_ppm": skew_ppm,
        "figures": {**figures, **ears.seen(), **clocks_of(ears)},
        "met": {
            "95 % within +40/-60 ms": figures["skew_p95_ms"] <= 40 and figures["skew_p5_ms"] >= -60,
            "all within +45/-125 ms": figures["skew_max_ms"] <= 45
            and figures["skew_min_ms"] >= -125,
            "drift below 5 ms": abs(figures["drift_ms"]) < 5,
            "95 % of the beeps were seen": len(found) >= 0.95 * ears.seen()["beeps_heard"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fd", type=int, help="of a bound TCP socket")
    serve(socket.socket(fileno=parser.parse_args().fd))


if __name__ == "__main__":
    main()
