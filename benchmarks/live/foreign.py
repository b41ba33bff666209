"""Any server judged from outside: `bench latency` and `bench capacity` with --offer or --whip.

What is measured and how is docs/live-lipsync-benchmark.md. `self_check` holds the measurement
against a peer that delays everything by a known time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from socket import socket
from typing import Any

import numpy as np

from lipwire.benchmarks.harness.record import figure
from lipwire.benchmarks.harness.timing import percentiles
from lipwire.benchmarks.rig.foreign_client import GAPS_S, PATTERN_S, Visit
from lipwire.engine.errors import LipwireError
from lipwire.engine.types import F64

SHARE, PACING_MS = 0.95, 40.0
"""smooth: so many of the pictures come back, and their pacing error's 99th percentile"""
FREEZE_S = 0.5
# A click that is heard so far from where it should be by most others is another one.
SAME_CLICK_S = 0.06
CHECK_DELAY_S = 0.2
UNKNOWN = {"name": "another server's"}  # what a record says of the model
CHECK_MS = 2.0  # by which the measurement may be wrong
LEAST = 10  # percentile that is compared: what a busy machine adds to others is no error of ours


def delays(sent_s: Sequence[float], heard_s: Sequence[float]) -> F64:
    """How long each click took, s: by the one delay below `PATTERN_S` that most agree on."""
    sent, heard = np.array(sent_s), np.array(heard_s)
    if not len(sent) or not len(heard):
        return np.zeros(0)
    apart = heard[:, None] - sent[None]
    offered = np.sort(apart[(apart >= 0) & (apart < PATTERN_S)])
    best, most = 0.0, 0
    for delay in offered:
        agree = int((np.abs(apart - delay) < SAME_CLICK_S).any(1).sum())
        if agree > most:
            best, most = float(delay), agree
    found = apart[np.abs(apart - best) < SAME_CLICK_S]
    return np.asarray(found if most >= min(3, len(heard)) else np.zeros(0))


def digest(noted: dict[str, Any], fps: int) -> dict[str, Any]:
    """Figures and raw values of one call that `foreign_client.look` has noted."""
    since_s, until_s = noted["since_s"], noted["until_s"]
    seconds = until_s - since_s
    captured = {n: at_s for n, at_s in noted["sent"] if since_s <= at_s < until_s}
    shown = dict(noted["sent"])
    first_back: dict[int, float] = {}
    fresh: list[tuple[float, float]] = []
    newest, numbered = -1, 0
    for at_s, number, due_s in noted["back"]:
        real = number is not None and number in shown and at_s >= shown[number]
        numbered += real
        if real:
            first_back.setdefault(number, at_s)
        if since_s <= at_s < until_s and real and number > newest:
            newest = number
            fresh.append((at_s, due_s))
    every = [(at_s, due_s) for at_s, _, due_s in noted["back"] if since_s <= at_s < until_s]
    # Without numbers every picture counts: a server that draws its own shows none of ours.
    rows = np.array(fresh if numbered else every) if (fresh or every) else np.zeros((0, 2))
    came, due = rows.reshape(-1, 2).T
    # RFC 3550 section 6.4.1: how unevenly what was evenly spaced arrives.
    pacing_s = np.abs(np.diff(came) - np.diff(due))
    gaps_s = np.diff(came)
    picture_s = [first_back[n] - at_s for n, at_s in captured.items() if n in first_back]
    ended_s = max((at_s for at_s in noted["clicks_heard"]), default=0.0)
    clicked = [s for s in noted["clicks_sent"] if since_s <= s < until_s]
    sound_s = delays(clicked, noted["clicks_heard"])
    offsets = noted["offsets"]
    heard = bool(len(sound_s))
    due_clicks = [
        s for s in clicked if not heard or s + float(np.median(sound_s)) <= ended_s + SAME_CLICK_S
    ]
    share = len(picture_s) / max(len(captured), 1)
    rate = len(rows) / seconds
    complete = share if numbered else rate / fps
    pacing_ms = percentiles(pacing_s.tolist())["p99_ms"]
    smooth = complete >= SHARE and pacing_ms is not None and pacing_ms <= PACING_MS
    both = bool(picture_s) and heard
    apart = [(p - float(np.median(offsets["audio"]))) * 1e3 for p in offsets.get("video", ())] if (
        offsets.get("audio")) else []  # fmt: skip
    figures = {
        **{f"picture_delay_{name}": figure(value, "ms")
           for name, value in percentiles(picture_s).items()},
        "pictures_back_share": figure(share if numbered else None, "share", least=SHARE),
        "pictures_per_s": figure(rate, "1/s", least=SHARE * fps),
        "pictures_without_number": figure(len(noted["back"]) - numbered),
        "pacing_error_p99_ms": figure(pacing_ms, "ms", most=PACING_MS),
        "freeze_max_ms": figure(float(gaps_s.max()) * 1e3 if len(gaps_s) else None, "ms"),
        "freezes_over_500_ms": figure(int((gaps_s > FREEZE_S).sum())),
        **{f"sound_delay_{name}": figure(value, "ms")
           for name, value in percentiles(sound_s.tolist()).items()},
        "clicks_heard_share": figure(len(sound_s) / max(len(due_clicks), 1) if heard else None,
                                     "share"),
        "picture_after_sound_ms": figure(
            float(np.median(picture_s) - np.median(sound_s)) * 1e3 if both else None, "ms"),
        "av_offset_ms": figure(float(np.median(apart)) if apart else None, "ms"),
        "first_picture_s": figure(
            noted["back"][0][0] - noted["called_s"] if noted["back"] else None, "s"),
        "smooth": figure("yes" if smooth else "no"),
    }  # fmt: skip
    samples = {"picture_delay_ms": [s * 1e3 for s in picture_s],
               "sound_delay_ms": (sound_s * 1e3).tolist(),
               "pacing_error_ms": (pacing_s * 1e3).tolist(),
               "picture_gap_ms": (gaps_s * 1e3).tolist()}  # fmt: skip
    return {"figures": figures, "samples": samples}


def visit(plan: Visit) -> dict[str, Any]:
    """What the caller noted.

    Raises:
        LipwireError: it failed; the server's words are above it.
    """
    plan.doors  # noqa: B018  said here, in one line, if they are none
    command = [sys.executable, "-m", "lipwire.benchmarks.rig.foreign_client"]
    done = subprocess.run(
        [*command, json.dumps(asdict(plan))],
        capture_output=True, text=True, timeout=plan.seconds + 240, check=False,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines()
        cause = said[-1].partition("Error: ")[2] or said[-1] if said else "no message"
        raise LipwireError(f"the caller failed: {cause}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def judge(plan: Visit, progress: Callable[[str], None]) -> dict[str, Any]:
    """One call to a server, as `bench latency` gives it."""
    progress(f"a call to {plan.offer or plan.whip}, {plan.seconds:g} s")
    return {"bundle": UNKNOWN, **digest(visit(plan), plan.fps), "input": _input(plan)}


def _input(plan: Visit) -> dict[str, Any]:
    return {"offer": plan.offer, "whip": plan.whip, "whep": plan.whep, "width": plan.width,
            "height": plan.height, "fps": plan.fps, "codec": "VP8", "seconds": plan.seconds,
            "clicks_apart_s": list(GAPS_S)}  # fmt: skip


def load(plan: Visit) -> dict[str, Any]:
    """Some calls at once, as `bench capacity` gives them: a row, and the pacing errors."""
    calls = visit(replace(plan, blind=True))["calls"]
    pacing_ms = [value for call in calls for value in call["pacing_ms"]]
    row = {
        "sessions": plan.calls,
        "size": f"{plan.width}x{plan.height}",
        "pictures_share": min(call["pictures_share"] for call in calls),
        "pacing_p99_ms": float(np.percentile(pacing_ms or [0], 99)),
        "smooth": all(is_smooth(call) for call in calls),
    }
    return {"row": row, "pacing_ms": pacing_ms}


def is_smooth(call: dict[str, Any]) -> bool:
    """Whether one call is, by what can be known from outside."""
    pacing_ms = call["pacing_ms"] or [2 * PACING_MS]
    return bool(
        call["pictures_share"] >= SHARE and float(np.percentile(pacing_ms, 99)) <= PACING_MS
    )


def self_check(plan: Visit, progress: Callable[[str], None]) -> dict[str, Any]:
    """The measurement held against a peer that delays by a known time.

    Both kinds of door; each with no delay and with one: the difference must be it.
    """
    figures: dict[str, Any] = {}
    samples: dict[str, list[float]] = {}
    for kind in ("offer", "whip and whep"):
        least: dict[str, list[float]] = {"picture": [], "sound": []}
        for delay_s in (0.0, CHECK_DELAY_S):
            progress(f"{kind}, a peer that delays by {delay_s * 1e3:g} ms")
            with peer(delay_s) as url:
                doors = ({"offer": f"{url}/offer"} if kind == "offer"
                         else {"whip": f"{url}/whip", "whep": f"{url}/whep"})  # fmt: skip
                found = digest(visit(replace(plan, **doors)), plan.fps)
            for name, values in least.items():
                values_ms = found["samples"][f"{name}_delay_ms"]
                samples[f"{kind}: {name}, {delay_s * 1e3:g} ms_ms"] = values_ms
                values.append(float(np.percentile(values_ms, LEAST)) if values_ms else float("nan"))
        for name, (plain_ms, later_ms) in least.items():
            wrong_ms = abs(later_ms - plain_ms - CHECK_DELAY_S * 1e3)
            key = kind.replace(" ", "_")
            figures[f"{key}_{name}_delay_plain_ms"] = figure(plain_ms, "ms")
            figures[f"{key}_{name}_delay_error_ms"] = figure(
                None if np.isnan(wrong_ms) else wrong_ms, "ms", most=CHECK_MS
            )
    return {"figures": figures, "samples": samples,
            "input": {"delay_ms": CHECK_DELAY_S * 1e3, "seconds": plan.seconds}}  # fmt: skip


@contextmanager
def peer(delay_s: float) -> Iterator[str]:
    """A server that sends back what it gets, so much later; its address."""
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "lipwire.benchmarks.rig.echo", str(port), str(delay_s)]
    )
    try:
        _wait_for(f"{url}/api/info", process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(url: str, process: subprocess.Popen[bytes], patience_s: float = 60.0) -> None:
    begun_s = time.monotonic()
    while process.poll() is None and time.monotonic() < begun_s + patience_s:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise LipwireError("the peer of the self-check did not start")
