"""`lipwire bench latency`: one live call, glass to glass, and every stage's share of it.

The server is started as a user would start it. The caller, in another process
(`benchmarks/rig/latency_client.py`), sends numbered pictures of a face and a voice with clicks in
it. Both note times on the machine's one monotonic clock: the caller when a picture was shown to the
camera and seen again, the server (`engine/trace.py`) when it passed each point between. `dub` of
the same clip gives the real-time factor off-line.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from lipwire.benchmarks.harness.machine import process_cpu_s, process_memory_mib
from lipwire.benchmarks.harness.record import describe_bundle, figure
from lipwire.benchmarks.harness.timing import percentiles
from lipwire.benchmarks.live import foreign
from lipwire.benchmarks.rig import speech_path
from lipwire.benchmarks.rig.latency_client import Plan
from lipwire.benchmarks.rig.scenes import talking
from lipwire.benchmarks.rig.voices import sample_voice
from lipwire.engine.backends.cpu import usable_cores
from lipwire.engine.errors import LipwireError
from lipwire.engine.model.bundle import open_bundle

# More pictures with times that contradict each other are no misread markers.
MISREAD_SHARE = 0.02
REST_SHARE = 0.05  # of glass to glass that no stage explains
REPEAT_SHARE = 0.10  # two runs' medians are so near to each other
OVERHEAD_SHARE = 0.02  # of all cores that the bench may take for itself
ECHO_ROUNDS = 2
STAGES = {
    "client: wait to encode": ("captured", "encoding"),
    "client: encode": ("encoding", "encoded"),
    "client: packetise, encrypt, send": ("encoded", "sent"),
    "network to the server": ("sent", "received"),
    "wait for the decoder": ("received", "decoding"),
    "guarded decode": ("decoding", "decoded"),
    "hand over": ("decoded", "taken"),
    "newest-frame slot": ("taken", "converting"),
    "to RGB": ("converting", "pushed"),
    "wait for a CPU thread": ("pushed", "begun"),
    "mel window": ("begun", "listened"),
    "track face": ("listened", "tracked"),
    "align, crop": ("tracked", "aligned"),
    "micro-batch": ("aligned", "generating"),
    "generate: encode once, n steps": ("generating", "generated"),
    "wait for a CPU thread again": ("generated", "compositing"),
    "composite": ("compositing", "composited"),
    "order": ("composited", "headed"),
    "pace": ("headed", "popped"),
    "to planes, mark": ("popped", "drawn"),
    "wait for the encoder": ("drawn", "encoding"),
    "encode": ("encoding", "encoded"),
    "packetise, encrypt, send": ("encoded", "sent"),
    "network back": ("sent", "received"),
    "client: wait for the decoder": ("received", "decoding"),
    "client: decode": ("decoding", "decoded"),
    "client: hand over": ("decoded", "seen"),
}
"""every stage of a picture's way, in order, and the points between which it lies"""
PAINTED = ("pasted", "generated", "held")
"""what becomes of a picture that speaks the new voice"""
# Points of the two processes' clocks may be so much out of order: what sends notes its time after
# the last packet, which the other may have by then. More: pictures were mistaken for each other.
DISORDER_S = 0.05
START_S = 180.0  # a server that loads for longer will not come; a busy machine takes a minute


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_server(server: subprocess.Popen[Any]) -> None:
    """Stop a server as an operator does, and by force if it does not stop."""
    server.terminate()
    try:
        server.wait(timeout=30)
    except subprocess.TimeoutExpired:
        server.kill()


def start_server(
    port: int,
    bundle: Path | None,
    program: Sequence[str] = ("-m", "lipwire", "serve"),
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
        [sys.executable, *program],
        stdout=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the benchmark, which ends its server itself
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
    """A talking head, 640x480 at 25 fps: a public-domain portrait that sways, its jaw moved.

    Raises:
        LipwireError: scikit-image, which carries the portrait, is not installed.
    """
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for image in talking(25 * seconds):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")


def netem_works() -> bool:
    """Whether this machine lets us have a network namespace with `tc netem` in it."""
    if any(shutil.which(name) is None for name in ("unshare", "ip", "tc")):
        return False
    script = "ip link set lo up && tc qdisc add dev lo root netem delay 1ms"
    done = subprocess.run([*NAMESPACE, "sh", "-c", script], capture_output=True, check=False)
    return done.returncode == 0


def live(plan: Plan, bundle: Path | None) -> dict[str, Any]:
    """One call; what the caller noted, and what the server's process used.

    Args:
        plan: of the call, its `url` still empty.
        bundle: the model; None takes the one that ships.

    Raises:
        LipwireError: the server or the caller failed.
    """
    if plan.netem:  # server, caller and weather in a namespace of their own
        words = json.dumps(
            {"plan": asdict(plan), "bundle": None if bundle is None else str(bundle)}
        )
        script = 'ip link set lo up && exec "$0" -m lipwire.benchmarks.live.latency "$1"'
        return _json([*NAMESPACE, "sh", "-c", script, sys.executable, words], plan.seconds + 240)
    return _live_here(plan, bundle)


def _live_here(plan: Plan, bundle: Path | None) -> dict[str, Any]:
    port = free_port()
    echo = ("-m", "lipwire.benchmarks.rig.echo", str(port))
    server, ready_s = start_server(port, bundle, echo) if plan.echo else start_server(port, bundle)
    try:
        called = replace(plan, url=f"http://127.0.0.1:{port}")
        cpu_s, begun_s = process_cpu_s(server.pid), time.monotonic()
        command = [
            sys.executable,
            "-m",
            "lipwire.benchmarks.rig.latency_client",
            json.dumps(asdict(called)),
        ]
        noted = _json(command, plan.seconds + 150)
        memory = process_memory_mib(server.pid)
        used_s, elapsed_s = process_cpu_s(server.pid) - cpu_s, time.monotonic() - begun_s
    finally:
        end_server(server)
    return {**noted, "ready_s": ready_s, **memory, "server_cpu_per_s": used_s / elapsed_s}


def _json(command: list[str], timeout_s: float) -> dict[str, Any]:
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=timeout_s, check=False)
    if done.returncode:
        raise LipwireError("the caller failed; its message is above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@dataclass(frozen=True)
class Way:
    """One picture's, there and back."""

    number: int
    outcome: str
    stages_s: dict[str, float]
    """by name; only those whose both ends it passed"""
    whole_s: float


def read_back(noted: dict[str, Any]) -> list[list[Any]]:
    """What came back with a number that was read and can be: of a picture sent before."""
    captured = {number: marks["captured"] for number, _, marks in noted["sent"]}
    return [row for row in noted["back"] if row[1] in captured and row[0] >= captured[row[1]]]


def ways(noted: dict[str, Any], misread: list[int] | None = None) -> list[Way]:
    """Every picture that was captured while it counted, went through the server and came back.

    Args:
        noted: by the caller and by the server.
        misread: takes the numbers whose times contradict each other, which are left out: a busy
            machine's encoder blurs a marker now and then.

    Raises:
        LipwireError: so many do that something else is wrong.
    """
    columns = noted["columns"]
    server = {row[0]: dict(zip(columns, row, strict=True)) for row in noted["server"]}
    back: dict[int, dict[str, float]] = {}
    for at_s, number, _, marks in read_back(noted):
        back.setdefault(number, {**marks, "seen": at_s})
    found, wrong = [], list[tuple[int, str, float]]()
    for number, pts, marks in noted["sent"]:
        middle, home = server.get(pts), back.get(number)
        if (
            middle is None
            or home is None
            or not (noted["since_s"] <= marks["captured"] < noted["until_s"])
        ):
            continue
        stages, place = {}, 0
        parts = (marks, middle, home)
        for name, (since, until) in STAGES.items():
            begins = parts[place]
            if until == "received":  # into the next process
                place += 1
            ends = parts[place]
            if begins.get(since) is not None and ends.get(until) is not None:
                stages[name] = ends[until] - begins[since]
        if min(stages.values(), default=0) < -DISORDER_S:
            worst = min(stages, key=lambda name: stages[name])
            wrong.append((number, worst, stages[worst]))
            continue
        found.append(Way(number, middle["outcome"], stages, home["seen"] - marks["captured"]))
    if len(wrong) > max(1, MISREAD_SHARE * (len(found) + len(wrong))):
        number, worst, took_s = wrong[0]
        raise LipwireError(
            f"picture {number}: {worst!r} took {took_s:.3f} s, and of {len(found) + len(wrong)} "
            f"pictures {len(wrong)} are like it: numbers do not agree"
        )
    if misread is not None:
        misread += [number for number, _, _ in wrong]
    return found


def stage_table(found: Sequence[Way]) -> list[dict[str, Any]]:
    """A row for each stage of pictures that were repainted, the rest, and the whole.

    Means add up, medians and percentiles of skewed stages do not. The whole is that of all
    repainted pictures, those too that lack a stage: what stages leave over has a row of its own.
    """
    whole = [way for way in found if len(way.stages_s) == len(STAGES)]
    rows: list[dict[str, Any]] = [
        {"stage": name, **percentiles([way.stages_s[name] for way in whole])} for name in STAGES
    ]
    total = percentiles([way.whole_s for way in found if way.outcome in PAINTED])
    if whole:
        rest = {name: (total[name] or 0.0) - sum(row[name] for row in rows)
                for name in ("mean_ms", "p50_ms")}  # fmt: skip
        rows.append({"stage": "rest (no stage's)", **percentiles([]), **rest})
    rows.append({"stage": "glass to glass", **total, "sum": True})
    return rows


def digest(noted: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Figures, raw values and the table of one call."""
    misread: list[int] = []
    found = ways(noted, misread)
    rows = stage_table(found)
    seconds = noted["until_s"] - noted["since_s"]
    fresh, newest = [], -1
    for at_s, number, pts, _ in read_back(noted):
        if noted["since_s"] <= at_s < noted["until_s"] and number > newest:
            newest = number
            fresh.append((at_s, pts / 90_000))
    came, due = np.array(fresh or [(0.0, 0.0)]).T
    # RFC 3550 section 6.4.1: how unevenly what was evenly spaced arrives.
    pacing_s = np.abs(np.diff(came) - np.diff(due))
    outcomes: dict[str, int] = {}
    for way in found:
        outcomes[way.outcome] = outcomes.get(way.outcome, 0) + 1
    gaps_s = np.diff(came)
    whole = [way for way in found if len(way.stages_s) == len(STAGES)]
    heard_ways = speech_path.ways(noted)
    ms = {
        "glass_to_glass_ms": [way.whole_s * 1e3 for way in found],
        "picture_gap_ms": (gaps_s * 1e3).tolist(),
        "pacing_error_ms": (pacing_s * 1e3).tolist(),
        "av_offset_ms": _offsets_ms(noted),
        **{f"stage {n}_ms": [way.stages_s[n] * 1e3 for way in whole] for n in STAGES},
        "voice_heard_after_due_ms": [way.after_due_s * 1e3 for way in heard_ways],
    }
    painted = {row[0] for row in noted["server"] if row[1] in PAINTED}
    times = {pts: number for number, pts, _ in noted["sent"]}
    numbers = {times[pts] for pts in painted if pts in times}
    first = min((at_s for at_s, n, _, _ in read_back(noted) if n in numbers), default=None)
    heard = np.array(noted["clicks"] or np.zeros((0, 2)))
    click_s = np.diff(heard[:, 0]) - np.round(np.diff(heard[:, 0])) if len(heard) > 1 else []
    last = noted["last"]
    rest = next((row["mean_ms"] for row in rows if row["stage"].startswith("rest")), None)
    total = rows[-1]["mean_ms"]
    figures = {
        **{f"glass_to_glass_{name}": figure(value, "ms")
           for name, value in percentiles([way.whole_s for way in found]).items()},
        "rest_share": figure(abs(rest) / total if total and rest is not None else None, "share",
                             most=REST_SHARE),
        "pictures_misread": figure(len(misread)),
        "pictures_per_s": figure(len(fresh) / seconds, "1/s", least=0.96 * plan.fps),
        "painted_share": figure(sum(outcomes.get(way, 0) for way in PAINTED) / max(len(found), 1),
                                "share", least=0.95),
        **{f"{way}_share": figure(outcomes.get(way, 0) / max(len(found), 1), "share")
           for way in PAINTED},
        "server_delay_p50_ms": figure(last.get("delay_p50_ms"), "ms", most=80),
        "server_delay_p95_ms": figure(last.get("delay_p95_ms"), "ms", most=150),
        **{f"picture_gap_{name}": figure(value, "ms")
           for name, value in percentiles(gaps_s.tolist()).items()},
        "pacing_error_p99_ms": figure(percentiles(pacing_s.tolist())["p99_ms"], "ms", most=40),
        "av_offset_ms": figure(_median(ms["av_offset_ms"]), "ms"),
        "click_error_max_ms": figure(float(np.abs(click_s).max()) * 1e3 if len(click_s) else None,
                                     "ms"),
        "clicks_heard": figure(len(heard)),
        "voice_heard_after_due_p50_ms": figure(_median(ms["voice_heard_after_due_ms"]), "ms"),
        "first_generated_s": figure(None if first is None else first - noted["called_s"], "s"),
        "server_cpu_per_s": figure(noted["server_cpu_per_s"], "core s/s"),
        "client_cpu_per_s": figure(noted["client_cpu_s"] / seconds, "core s/s"),
        "resident_mib": figure(noted["resident_mib"], "MiB"),
        "peak_mib": figure(noted["peak_mib"], "MiB", most=1.2 * 1024),
        "ready_s": figure(noted["ready_s"], "s", most=6),
    }  # fmt: skip
    return {"figures": figures, "samples": ms, "rows": rows, "outcomes": outcomes,
            "voice": speech_path.table(heard_ways)}  # fmt: skip


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

    Raises:
        LipwireError: the server or the caller failed.
        ConfigError: the other server's addresses are none.
    """
    with tempfile.TemporaryDirectory() as scratch:
        clip = video or made_clip(Path(scratch) / "clip.mp4")
        voice = speech or sample_voice()
        if self_check or offer or whip or whep:
            visit = foreign.Visit(str(clip), str(voice), offer, whip, whep, seconds,
                                  width=width, height=height, fps=fps)  # fmt: skip
            measure = foreign.self_check if self_check else foreign.judge
            return measure(visit, progress)
        plan = Plan("", str(clip), str(voice), seconds, width=width, height=height, fps=fps,
                    delay_ms=delay_ms, jitter_ms=jitter_ms, loss=loss)  # fmt: skip
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
    manifest = open_bundle(bundle).manifest
    weather = "none"
    if plan.bad:
        by = "tc netem" if plan.netem else "UDP relay; tc netem is not allowed or not there"
        weather = f"{delay_ms:g} ms, jitter {jitter_ms:g} ms, loss {loss:.1%} each way, by {by}"
    return {
        "bundle": describe_bundle(bundle),
        "figures": figures,
        "samples": {n: [call["samples"][n] for call in calls] for n in calls[0]["samples"]},
        "tables": {"stages": calls[-1]["rows"], "the voice": calls[-1]["voice"]},
        "input": {"video": video.name if video else "made portrait", "width": width,
                  "height": height, "fps": fps, "codec": "VP8", "seconds": seconds,
                  "steps": manifest.default_steps, "weather": weather},
        "outcomes": [call["outcomes"] for call in calls],
        "repeats": [{n: f["value"] for n, f in call["figures"].items()} for call in calls],
    }  # fmt: skip


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
    extra = float(np.median(used[True]) - np.median(used[False])) / usable_cores()
    figures = {
        "overhead_share": figure(extra, "share", most=OVERHEAD_SHARE),
        "overhead_reading_share": figure(float(np.median(own)) / usable_cores(), "share",
                                         most=OVERHEAD_SHARE),
        **{f"echo_glass_to_glass_{n}": figure(v, "ms") for n, v in percentiles(whole_s).items()},
        "client_cpu_marked_per_s": figure(float(np.median(used[True])), "core s/s"),
        "client_cpu_plain_per_s": figure(float(np.median(used[False])), "core s/s"),
    }  # fmt: skip
    return {"figures": figures, "samples": {"echo_glass_to_glass_ms": [s * 1e3 for s in whole_s]},
            "input": {"echo": True, "seconds": plan.seconds}}  # fmt: skip


def main() -> None:
    """One call as JSON asks for, inside a network namespace."""
    asked = json.loads(sys.argv[1])
    plan = Plan(**asked["plan"])
    bundle = asked["bundle"] and Path(asked["bundle"])
    print(json.dumps(_live_here(plan, bundle)))  # the caller makes the weather


if __name__ == "__main__":
    main()
