"""`lipwire bench latency`: one live call, glass to glass, and every stage's share of it.

The server is started as a user would start it. The caller, in another process
(`benchmarks/rig/latency_client.py`), sends numbered pictures of a face and a voice with clicks in
it. Both note times on the machine's one monotonic clock: the caller when a picture was shown to the
camera and seen again, the server (`engine/trace.py`) when it passed each point between. `dub` of
the same clip gives the real-time factor off-line.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from lipwire.benchmarks.harness.machine import process_cpu_s, process_memory_mib
from lipwire.benchmarks.harness.record import describe_bundle, figure, figures_ms
from lipwire.benchmarks.harness.timing import pacing_errors_s, percentiles
from lipwire.benchmarks.live import foreign
from lipwire.benchmarks.live.stages import PAINTED, STAGES, read_back, stage_table, ways
from lipwire.benchmarks.rig import speech_path
from lipwire.benchmarks.rig.foreign_client import Visit
from lipwire.benchmarks.rig.latency_client import Plan
from lipwire.benchmarks.rig.scenes import made_clip
from lipwire.benchmarks.rig.server import (
    NAMESPACE,
    end_server,
    free_port,
    netem_works,
    run_json,
    start_server,
)
from lipwire.benchmarks.rig.voices import sample_voice
from lipwire.engine.backends.cpu import usable_cores
from lipwire.engine.model.bundle import open_bundle

REST_SHARE = 0.05  # of glass to glass that no stage explains
REPEAT_SHARE = 0.10  # two runs' medians are so near to each other
OVERHEAD_SHARE = 0.02  # of all cores that the bench may take for itself
ECHO_ROUNDS = 2


def live(plan: Plan, bundle: Path | None) -> dict[str, Any]:
    """One call; what the caller noted, and what the server's process used."""
    if plan.netem:  # server, caller and weather in a namespace of their own
        words = json.dumps({"plan": asdict(plan), "bundle": bundle and str(bundle)})
        script = 'ip link set lo up && exec "$0" -m lipwire.benchmarks.live.latency "$1"'
        return run_json([*NAMESPACE, "sh", "-c", script, sys.executable, words], plan.seconds + 240)
    return _live_here(plan, bundle)


def _live_here(plan: Plan, bundle: Path | None) -> dict[str, Any]:
    port = free_port()
    echo = ("-m", "lipwire.benchmarks.rig.echo", str(port))
    server, ready_s = start_server(port, bundle, echo) if plan.echo else start_server(port, bundle)
    try:
        called = replace(plan, url=f"http://127.0.0.1:{port}")
        cpu_s, begun_s = process_cpu_s(server.pid), time.monotonic()
        caller = [sys.executable, "-m", "lipwire.benchmarks.rig.latency_client"]
        noted = run_json([*caller, json.dumps(asdict(called))], plan.seconds + 150)
        memory = process_memory_mib(server.pid)
        used_s, elapsed_s = process_cpu_s(server.pid) - cpu_s, time.monotonic() - begun_s
    finally:
        end_server(server)
    return {**noted, "ready_s": ready_s, **memory, "server_cpu_per_s": used_s / elapsed_s}


def digest(noted: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Figures, raw values and the table of one call."""
    misread: list[int] = []
    found = ways(noted, misread)
    rows = stage_table(found)
    seconds = noted["until_s"] - noted["since_s"]
    back = read_back(noted)
    fresh, newest = [], -1
    for at_s, number, pts, _ in back:
        if noted["since_s"] <= at_s < noted["until_s"] and number > newest:
            newest = number
            fresh.append((at_s, pts / 90_000))
    gaps_s = np.diff([at_s for at_s, _ in fresh or [(0.0, 0.0)]]).tolist()
    pacing_s = pacing_errors_s(fresh).tolist()
    outcomes = dict(Counter(way.outcome for way in found))
    whole = [way for way in found if len(way.stages_s) == len(STAGES)]
    whole_s = [way.whole_s for way in found]
    heard_ways = speech_path.ways(noted)
    ms = {
        "glass_to_glass_ms": [s * 1e3 for s in whole_s],
        "picture_gap_ms": [s * 1e3 for s in gaps_s],
        "pacing_error_ms": [s * 1e3 for s in pacing_s],
        "av_offset_ms": _offsets_ms(noted),
        **{f"stage {n}_ms": [way.stages_s[n] * 1e3 for way in whole] for n in STAGES},
        "voice_heard_after_due_ms": [way.after_due_s * 1e3 for way in heard_ways],
    }
    rest_ms = next((row["mean_ms"] for row in rows if row["stage"].startswith("rest")), None)
    total_ms, last = rows[-1]["mean_ms"], noted["last"]
    rest = abs(rest_ms) / total_ms if total_ms and rest_ms is not None else None
    shares = {way: outcomes.get(way, 0) / max(len(found), 1) for way in PAINTED}
    figures = {
        **figures_ms("glass_to_glass", whole_s),
        "rest_share": figure(rest, "share", most=REST_SHARE),
        "pictures_misread": figure(len(misread)),
        "pictures_per_s": figure(len(fresh) / seconds, "1/s", least=0.96 * plan.fps),
        "painted_share": figure(sum(shares.values()), "share", least=0.95),
        **{f"{way}_share": figure(share, "share") for way, share in shares.items()},
        "server_delay_p50_ms": figure(last.get("delay_p50_ms"), "ms", most=80),
        "server_delay_p95_ms": figure(last.get("delay_p95_ms"), "ms", most=150),
        **figures_ms("picture_gap", gaps_s),
        "pacing_error_p99_ms": figure(percentiles(pacing_s)["p99_ms"], "ms", most=40),
        "av_offset_ms": figure(_median(ms["av_offset_ms"]), "ms"),
        "click_error_max_ms": figure(_click_error_ms(noted), "ms"),
        "clicks_heard": figure(len(noted["clicks"])),
        "voice_heard_after_due_p50_ms": figure(_median(ms["voice_heard_after_due_ms"]), "ms"),
        "first_generated_s": figure(_first_painted_s(noted, back), "s"),
        "server_cpu_per_s": figure(noted["server_cpu_per_s"], "core s/s"),
        "client_cpu_per_s": figure(noted["client_cpu_s"] / seconds, "core s/s"),
        "resident_mib": figure(noted["resident_mib"], "MiB"),
        "peak_mib": figure(noted["peak_mib"], "MiB", most=1.2 * 1024),
        "ready_s": figure(noted["ready_s"], "s", most=6),
    }
    voice = speech_path.table(heard_ways)
    return {"figures": figures, "samples": ms, "rows": rows, "outcomes": outcomes, "voice": voice}


def _first_painted_s(noted: dict[str, Any], back: list[list[Any]]) -> float | None:
    """From the call to the first picture that spoke; None: none did."""
    painted = {row[0] for row in noted["server"] if row[1] in PAINTED}
    numbers = {number for number, pts, _ in noted["sent"] if pts in painted}
    first_s = min((at_s for at_s, n, _, _ in back if n in numbers), default=None)
    return None if first_s is None else first_s - noted["called_s"]


def _click_error_ms(noted: dict[str, Any]) -> float | None:
    """By how much the distance of two clicks is off whole seconds, at most."""
    apart_s = np.diff([place_s for place_s, _ in noted["clicks"]])
    return float(np.abs(apart_s - np.round(apart_s)).max()) * 1e3 if len(apart_s) else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None


def _offsets_ms(noted: dict[str, Any]) -> list[float]:
    """How much earlier sound comes than pictures of the same time (+: sound is early), ms.

    By the sender's reports, before a receiver evens it out. ITU-R BT.1359 counts this way.
    """
    pictures, sounds = noted["offsets"]["video"], noted["offsets"]["audio"]
    if not pictures or not sounds:
        return []
    middle = float(np.median(sounds))
    return [(picture - middle) * 1e3 for picture in pictures]


def run(
    *,
    seconds: Annotated[float, Ge(1)] = 60,
    repeat: Annotated[int, Ge(1)] = 1,
    video: Path | None = None,
    speech: Path | None = None,
    bundle: Path | None = None,
    width: Annotated[int, Ge(400)] = 640,
    height: Annotated[int, Ge(64)] = 480,
    fps: Annotated[int, Ge(1), Le(60)] = 25,
    delay_ms: Annotated[float, Ge(0)] = 0,
    jitter_ms: Annotated[float, Ge(0)] = 0,
    loss: Annotated[float, Ge(0), Le(0.5)] = 0,
    echo: bool = False,
    offer: str | None = None,
    whip: str | None = None,
    whep: str | None = None,
    self_check: bool = False,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Measure.

    Args:
        seconds: of each call, after it has settled.
        repeat: calls, one after the other, each with a server of its own.
        video: a clip with a face; without it, a made one.
        speech: a voice; without it, the one that ships.
        bundle: the model; without it, the one that ships.
        width: of the picture sent, pixels.
        height: of the picture sent, pixels.
        fps: frames a second sent.
        delay_ms: the path's, one way.
        jitter_ms: the path's, on top of its delay.
        loss: share of packets that the path loses, each way.
        echo: measure what the bench itself costs, against a server that sends back what it gets.
        offer: judge another server, from outside: where it takes an offer as JSON.
        whip: the same, where it takes what is published; with --whep.
        whep: where it gives that back.
        self_check: hold that measurement against a peer that delays by a known time.
        progress: told what is being measured.
    """
    with tempfile.TemporaryDirectory() as scratch:
        clip = video or made_clip(Path(scratch) / "clip.mp4")
        voice = speech or sample_voice()
        size: dict[str, Any] = {"width": width, "height": height, "fps": fps}
        if self_check or offer or whip or whep:
            visit = Visit(str(clip), str(voice), offer, whip, whep, seconds, **size)
            return (foreign.self_check if self_check else foreign.judge)(visit, progress)
        path: dict[str, Any] = {"delay_ms": delay_ms, "jitter_ms": jitter_ms, "loss": loss}
        plan = Plan("", str(clip), str(voice), seconds, **size, **path)
        if echo:
            return _echo(plan, progress)
        plan = replace(plan, netem=plan.bad and netem_works())
        calls = []
        for number in range(repeat):
            progress(f"call {number + 1} of {repeat}, {seconds:g} s")
            calls.append(digest(live(plan, bundle), plan))
        progress("dub")
        from lipwire.server.dub.dub import dub

        summary = dub(clip, voice, Path(scratch) / "out.mp4", bundle=bundle)
    figures = dict(calls[-1]["figures"])
    figures["dub_real_time_factor"] = figure(summary.real_time_factor, "ratio", most=1)
    if repeat > 1:
        middles = [call["figures"]["glass_to_glass_p50_ms"]["value"] for call in calls]
        spread = max(middles) / min(middles) - 1
        figures["repeat_spread_share"] = figure(spread, "share", most=REPEAT_SHARE)
    weather = "none"
    if plan.bad:
        by = "tc netem" if plan.netem else "UDP relay; tc netem is not allowed or not there"
        weather = f"{delay_ms:g} ms, jitter {jitter_ms:g} ms, loss {loss:.1%} each way, by {by}"
    return {
        "bundle": describe_bundle(bundle),
        "figures": figures,
        "samples": {n: [call["samples"][n] for call in calls] for n in calls[0]["samples"]},
        "tables": {"stages": calls[-1]["rows"], "the voice": calls[-1]["voice"]},
        "input": {
            "video": video.name if video else "made portrait",
            **size,
            **{"codec": "VP8", "seconds": seconds},
            "steps": open_bundle(bundle).manifest.default_steps,
            "weather": weather,
        },
        "outcomes": [call["outcomes"] for call in calls],
        "repeats": [{n: f["value"] for n, f in call["figures"].items()} for call in calls],
    }


def _echo(plan: Plan, progress: Callable[[str], None]) -> dict[str, Any]:
    """What numbers and clicks cost, against an echo: with and without, in turns."""
    used: dict[bool, list[float]] = {True: [], False: []}
    own, whole_s = [], []
    for number in range(ECHO_ROUNDS):
        for marked in (True, False):
            progress(f"echo, round {number + 1}, {'with' if marked else 'without'} marks")
            part = replace(plan, echo=True, marked=marked, seconds=plan.seconds / 2 / ECHO_ROUNDS)
            noted = live(part, None)
            seconds = noted["until_s"] - noted["since_s"]
            used[marked].append(noted["client_cpu_s"] / seconds)
            if marked:
                own.append(noted["own_s"] / (noted["until_s"] - noted["called_s"]))
                shown = {n: marks["captured"] for n, _, marks in noted["sent"]}
                whole_s += [at_s - shown[n] for at_s, n, _, _ in noted["back"] if n in shown]
    marked_share, plain_share = (float(np.median(used[kind])) for kind in (True, False))
    shares = {
        "overhead_share": (marked_share - plain_share) / usable_cores(),
        "overhead_reading_share": float(np.median(own)) / usable_cores(),
    }
    figures = {
        **{name: figure(one, "share", most=OVERHEAD_SHARE) for name, one in shares.items()},
        **figures_ms("echo_glass_to_glass", whole_s),
        "client_cpu_marked_per_s": figure(marked_share, "core s/s"),
        "client_cpu_plain_per_s": figure(plain_share, "core s/s"),
    }
    return {
        "figures": figures,
        "samples": {"echo_glass_to_glass_ms": [s * 1e3 for s in whole_s]},
        "input": {"echo": True, "seconds": plan.seconds},
    }


def main() -> None:
    """One call as JSON asks for, inside a network namespace."""
    asked = json.loads(sys.argv[1])
    plan = Plan(**asked["plan"])
    bundle = asked["bundle"] and Path(asked["bundle"])
    print(json.dumps(_live_here(plan, bundle)))  # the caller makes the weather


if __name__ == "__main__":
    main()
