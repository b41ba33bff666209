"""`lipwire bench overload-admission|fault|vanish|drain`: what happens when something ends or fails.

Each prints its figures beside what docs/reliability.md promises.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
from annotated_types import Ge, Le

from lipwire.benchmarks.live.transport import figures_of, start_probe, verdict
from lipwire.benchmarks.rig.client import SPEECH_RATE_HZ, new_peer, offer_of, speak, speech_url
from lipwire.benchmarks.rig.scenes import made_clip, made_images
from lipwire.benchmarks.rig.server import UNLIMITED, serving
from lipwire.benchmarks.rig.voices import sample_voice
from lipwire.benchmarks.rig.watch import glance, loop_figures
from lipwire.engine.types import U8

Calls = Annotated[int, Ge(1)]
PATIENCE_S = 60.0
LIMIT_OVERLOAD = {"refused_p99_ms": 100.0, "lag_p99_ms": 20.0, "pictures_share": 0.95}
ZOMBIE_S, DEAD_S, DRAIN_S = 15.0, 10.0, 10.0
PASS_THROUGH_MS = 200.0
# One for all: making a client, with its certificates, takes longer than a server needs to answer.
HTTP = httpx.Client(timeout=30)
FAULTS = ("raise", "hang", "memory")


def sessions_at(url: str) -> int:
    """Calls that run or are being set up."""
    return int(HTTP.get(f"{url}/api/info").json()["sessions"])


def wait_for_sessions(url: str, count: int, patience_s: float = PATIENCE_S) -> float:
    """Seconds until a server has so many calls; infinite if it never does."""
    begun = time.monotonic()
    while time.monotonic() < begun + patience_s:
        if sessions_at(url) == count:
            return time.monotonic() - begun
        time.sleep(0.05)
    return float("inf")


async def _offer() -> str:
    """An offer that nobody stands behind, without an end of candidates, as browsers send it."""
    peer = new_peer()
    peer.addTransceiver("video", direction="sendonly")
    sdp = await offer_of(peer)
    await peer.close()
    return sdp.replace("a=end-of-candidates\r\n", "")


def _post(url: str, offer: str) -> httpx.Response:
    headers = {"Content-Type": "application/sdp"}
    return HTTP.post(f"{url}/whip?consent=true", content=offer, headers=headers)


def overload_admission(
    *, calls: Calls = 1, seconds: Annotated[float, Ge(5)] = 30
) -> dict[str, Any]:
    """R6: as many calls as the server takes, and as many again that keep asking.

    Args:
        calls: what the machine carries, and what the server admits.
        seconds: of asking.
    """
    took_ms: list[float] = []
    statuses: Counter[str] = Counter()
    served = serving(max_sessions=calls, **UNLIMITED)
    with tempfile.TemporaryDirectory() as scratch, served as (url, server):
        face = ("--clip", made_clip(Path(scratch) / "clip.mp4"), "--speech", sample_voice())
        admitted = start_probe(url, 3600, "--calls", calls, "--settle", 5, "--until-told", *face)
        try:
            wait_for_sessions(url, calls)
            time.sleep(8)  # connected, settled
            offer = asyncio.run(_offer())
            before = glance(url, server.pid)
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                for _ in range(calls):  # each of the surplus asks again as soon as it may
                    begun = time.monotonic()
                    reply = _post(url, offer)
                    took_ms.append((time.monotonic() - begun) * 1000)
                    kept = "" if "retry-after" in reply.headers else " without Retry-After"
                    statuses[f"{reply.status_code}{kept}"] += 1
                time.sleep(0.5)
            loop = loop_figures(before, glance(url, server.pid))
            seen = figures_of(admitted, 60)
        finally:
            admitted.kill()
    figures: dict[str, Any] = {
        "answers": dict(statuses),
        "refused_p50_ms": float(np.percentile(took_ms, 50)),
        "refused_p99_ms": float(np.percentile(took_ms, 99)),
        "refused_max_ms": max(took_ms),
        **loop,
        "pictures_share": min(f["pictures_share"] for f in seen),
        "calls": seen,
    }
    lag = figures["lag_p99_ms"]
    met = {
        "all of the surplus: 503 with Retry-After": set(statuses) == {"503"},
        "refused within 100 ms (p99)": figures["refused_p99_ms"] < LIMIT_OVERLOAD["refused_p99_ms"],
        "the admitted keep 95 % of the pictures": figures["pictures_share"]
        >= LIMIT_OVERLOAD["pictures_share"],
        "event loop: p99 at most 20 ms late": lag is not None
        and lag <= LIMIT_OVERLOAD["lag_p99_ms"],
    }
    return verdict(figures, met, calls=calls, seconds=seconds)


def vanish(*, calls: Calls = 1) -> dict[str, Any]:
    """R3 and R4: an offer that never connects, and callers that are killed; a bystander goes on.

    Args:
        calls: that are killed at once.
    """
    with serving(max_sessions=calls + 2, **UNLIMITED) as (url, _):
        bystander = start_probe(url, 3600, "--settle", 2, "--until-told")
        try:
            wait_for_sessions(url, 1)
            time.sleep(4)
            _post(url, asyncio.run(_offer())).raise_for_status()
            zombie_s = wait_for_sessions(url, 1)
            victims = start_probe(url, 3600, "--calls", calls, "--until-told")
            wait_for_sessions(url, 1 + calls)
            time.sleep(4)
            victims.kill()
            victims.communicate()
            dead_s = wait_for_sessions(url, 1)
            (seen,) = figures_of(bystander, 60)
        finally:
            bystander.kill()
    figures = {"zombie_s": zombie_s, "dead_s": dead_s, "bystander": seen}
    met = {
        "who never connects is gone within 15 s": zombie_s <= ZOMBIE_S,
        "who is killed is gone within 10 s": dead_s <= DEAD_S,
        "bystander: no freeze over 500 ms": seen["freezes_over_500_ms"] == 0,
        "bystander: no hole in the sound over 60 ms": seen["sound_holes_over_60_ms"] == 0,
    }
    return verdict(figures, met, calls=calls)


def drain(*, calls: Calls = 1, drain_s: Annotated[float, Ge(0), Le(60)] = 5) -> dict[str, Any]:
    """R9: SIGTERM while calls run.

    Args:
        calls: that run.
        drain_s: how long they may go on.
    """
    with serving(max_sessions=calls, drain_s=drain_s, **UNLIMITED) as (url, server):
        probe = start_probe(url, 3600, "--calls", calls, "--settle", 0)
        try:
            wait_for_sessions(url, calls)
            time.sleep(5)
            offer = asyncio.run(_offer())
            begun = time.monotonic()
            server.send_signal(signal.SIGTERM)
            time.sleep(min(1.0, drain_s / 2))
            refused = _post(url, offer).status_code
            ready = HTTP.get(f"{url}/readyz").status_code
            try:
                code: int | None = server.wait(60)
            except subprocess.TimeoutExpired:
                code = None
            took_s = time.monotonic() - begun
        finally:
            probe.kill()
            probe.communicate()
    figures = {"exit_code": code, "drained_s": took_s, "new_call": refused, "readyz": ready}
    met = {
        "exit code 0": code == 0,
        "within 10 s": took_s <= DRAIN_S,
        "calls went on until their time was over": took_s >= drain_s - 0.5,
        "new calls are refused meanwhile": (refused, ready) == (503, 503),
    }
    return verdict(figures, met, calls=calls, drain_s=drain_s)


async def _faults(url: str, file: Path, images: list[U8], seconds: float) -> dict[str, Any]:
    from lipwire.benchmarks.rig.probe import Probe
    from lipwire.engine.media.sound import read_speech
    from lipwire.server.config import ServerConfig
    from lipwire.server.rtc import ice, patch

    patch.apply(ServerConfig())
    ice.offer_addresses(["127.0.0.1"])
    probe = Probe(url, images)
    await probe.connect()
    voice = read_speech(sample_voice(), SPEECH_RATE_HZ)
    path = f"/api/sessions/{probe.session}"
    talking = asyncio.create_task(speak(speech_url(url, probe.session), voice))
    found: dict[str, Any] = {}
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:

        async def counts() -> Counter[str]:
            stats = (await http.get(f"{path}/stats")).json()
            spoken = {"generated": stats["generated"], "pasted": stats["pasted"]}
            return Counter(stats["passed_through"] | spoken)

        async def phase(name: str, fault: str) -> None:
            await asyncio.to_thread(file.write_text, fault)
            before, begun = await counts(), time.monotonic()
            await asyncio.sleep(seconds)
            ended = time.monotonic() - 0.3
            figures = probe.figures(begun - 0.2, ended)  # the last picture before it, too
            found[name] = {
                "freeze_max_ms": figures["freeze_max_ms"],
                "delay_p95_ms": figures["delay_p95_ms"],
                "pictures_share": figures["pictures_share"],
                "sound_holes_over_60_ms": figures["sound_holes_over_60_ms"],
                "outcomes": dict(await counts() - before),
            }

        await asyncio.sleep(3)
        await phase("healthy", "")
        for fault in FAULTS:
            await phase(fault, fault)
            await phase(f"after {fault}", "")
    talking.cancel()
    await asyncio.gather(talking, return_exceptions=True)
    await probe.close()
    return found


def fault(*, seconds: Annotated[float, Ge(2)] = 6) -> dict[str, Any]:
    """R8: a model that raises, hangs, and runs out of memory, in the middle of a call.

    Args:
        seconds: of each fault, and of each rest after it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "fault"
        file.write_text("")
        with serving(program=("-m", "lipwire.benchmarks.rig.faulty", str(file))) as (url, _):
            found = asyncio.run(_faults(url, file, made_images(), seconds))
            file.write_text("")  # nothing hangs while it stops
    met = {}
    for name in FAULTS:
        met[f"{name}: no picture waits for more than 200 ms"] = (
            found[name]["freeze_max_ms"] <= PASS_THROUGH_MS
        )
        met[f"{name}: originals go out"] = any(
            count and outcome != "generated" for outcome, count in found[name]["outcomes"].items()
        )
        met[f"{name}: painted again afterwards"] = bool(
            found[f"after {name}"]["outcomes"].get("generated")
        )
    return verdict(found, met, seconds=seconds)
