"""`lipwire bench latency`: one live call over loopback, the client in another process.

The server is started as a user would start it; the client sends a face at 25 fps and a voice that
never pauses. Picture delay is what the server adds: from the receiver handing a frame over to the
sender taking it. `dub` of the same clip gives the real-time factor off-line.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, process_cpu_s, process_memory_mib
from engine.bundle import open_bundle
from engine.errors import LipwireError

TARGETS = {
    "frames_per_s": 24.0,
    "generated_share": 0.95,
    "delay_p50_ms": 80.0,
    "delay_p95_ms": 150.0,
    "peak_mib": 1.2 * 1024,
    "ready_s": 6.0,
    "dub_real_time_factor": 1.0,
}
AT_LEAST = ("frames_per_s", "generated_share")
START_S = 180.0  # a server that loads for longer will not come; a busy machine takes a minute


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(
    port: int,
    bundle: Path | None,
    program: Sequence[str] = ("-m", "server.cli", "serve"),
    **settings: Any,
) -> tuple[subprocess.Popen[bytes], float]:
    """Start `lipwire serve`; returns the process and the seconds until it answered.

    Args:
        port: to listen on.
        bundle: the model; None takes the one that ships.
        program: Python's arguments that start it.
        **settings: others of the server, by their names in its configuration.

    Raises:
        LipwireError: it ended, or did not answer within `START_S`.
    """
    settings["port"] = port
    if bundle is not None:
        settings["bundle"] = bundle
    begun = time.monotonic()
    environment = os.environ | {f"LIPWIRE_{k.upper()}": str(v) for k, v in settings.items()}
    process = subprocess.Popen(
        [sys.executable, *program], stdout=subprocess.DEVNULL, env=environment
    )
    while time.monotonic() < begun + START_S:
        if process.poll() is not None:
            raise LipwireError(f"the server ended with code {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/info", timeout=1):
                return process, time.monotonic() - begun
        except OSError:
            time.sleep(0.02)
    process.kill()
    raise LipwireError(f"the server did not answer within {START_S:g} s")


def made_clip(path: Path, seconds: int = 6) -> Path:
    """A talking-head stand-in: a public-domain portrait that sways a little, 640x480 at 25 fps.

    Raises:
        LipwireError: scikit-image, which carries the portrait, is not installed.
    """
    import av
    import cv2
    import numpy as np

    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise LipwireError(
            "no --video given, and scikit-image with its portrait is missing"
        ) from error
    portrait = astronaut()  # type: ignore[no-untyped-call]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for index in range(25 * seconds):
            x, y = 64 + 12 * np.sin(index / 20), 8 * np.sin(index / 13)
            turn = cv2.getRotationMatrix2D((224, 120), 3 * float(np.sin(index / 25)), 1.0)
            turn = turn + np.array([[0, 0, x], [0, 0, y]])
            image = cv2.warpAffine(portrait, turn, (640, 480), borderMode=cv2.BORDER_REFLECT)
            frame = av.VideoFrame.from_ndarray(np.asarray(image, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def sample_voice() -> Path:
    """The first voice that ships with lipwire."""
    folder = Path(__file__).parent.parent / "server" / "static" / "voices"
    return sorted(p for p in folder.iterdir() if p.suffix in (".ogg", ".opus", ".mp3", ".wav"))[0]


def live(
    seconds: float, video: Path, speech: Path, bundle: Path | None, width: int, height: int
) -> dict[str, Any]:
    """One live call; every figure of it."""
    port = free_port()
    server, ready_s = start_server(port, bundle)
    try:
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "benchmarks.client", url, "--video", str(video),
                   "--speech", str(speech), "--seconds", str(seconds), "--width", str(width),
                   "--height", str(height)]  # fmt: skip
        cpu_s, begun = process_cpu_s(server.pid), time.monotonic()
        reply = subprocess.run(command, stdout=subprocess.PIPE, timeout=seconds + 120, check=False)
        if reply.returncode:
            raise LipwireError("the client failed; its message is above")
        client = json.loads(reply.stdout)
        memory = process_memory_mib(server.pid)
        used_s, elapsed_s = process_cpu_s(server.pid) - cpu_s, time.monotonic() - begun
    finally:
        server.terminate()
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
    before, after = client.pop("before"), client.pop("after")
    outcomes = {
        name: count - _outcomes(before).get(name, 0) for name, count in _outcomes(after).items()
    }
    out = sum(outcomes.values())
    return {
        "frames_per_s": client["pictures_received_per_s"],
        "generated_share": outcomes.get("generated", 0) / max(out, 1),
        "outcomes": outcomes,
        "delay_p50_ms": after["delay_p50_ms"],
        "delay_p95_ms": after["delay_p95_ms"],
        "ready_s": ready_s,
        **memory,
        "server_cpu_per_s": used_s / elapsed_s,
        "client": client,
    }


def _outcomes(stats: dict[str, Any]) -> dict[str, int]:
    return {"generated": stats["generated"], "held": stats["held"], **stats["passed_through"]}


def run(
    *,
    seconds: float = 60,
    video: Path | None = None,
    speech: Path | None = None,
    bundle: Path | None = None,
    width: int = 640,
    height: int = 480,
) -> dict[str, Any]:
    """Measure; returns machine, bundle, command and figures, each beside its target.

    Args:
        seconds: of the live call.
        video: a clip with a face; None makes one.
        speech: a voice; None takes the one that ships.
        bundle: the model; None takes the one that ships.
        width: of the picture sent, pixels.
        height: of the picture sent, pixels.
    """
    from server.dub import dub

    manifest = open_bundle(bundle).manifest
    with tempfile.TemporaryDirectory() as scratch:
        clip = video or made_clip(Path(scratch) / "clip.mp4")
        voice = speech or sample_voice()
        figures = live(seconds, clip, voice, bundle, width, height)
        summary = dub(clip, voice, Path(scratch) / "out.mp4", bundle=bundle)
        figures["dub_real_time_factor"] = summary.real_time_factor
    met = {
        name: figures[name] >= target if name in AT_LEAST else figures[name] <= target
        for name, target in TARGETS.items()
    }
    return {
        "benchmark": "latency",
        "command": " ".join(sys.argv),
        "machine": describe_machine(),
        "bundle": {"name": manifest.name, "version": manifest.version,
                   "steps": manifest.default_steps, "gflop_per_frame": manifest.gflop_per_frame},
        "input": {"video": video.name if video else "made portrait", "width": width,
                  "height": height, "fps": 25, "codec": "VP8"},
        "figures": figures,
        "targets": TARGETS,
        "met": met,
    }  # fmt: skip
