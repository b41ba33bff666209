"""Any server judged from outside: `bench latency` and `bench capacity` with --offer or --whip.

What is measured and how is docs/live-lipsync-benchmark.md. `self_check` holds the measurement
against a peer that delays everything by a known time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from lipwire.benchmarks.harness.record import figure, figures_ms
from lipwire.benchmarks.harness.timing import pacing_errors_s, percentiles
from lipwire.benchmarks.rig.clicks import GAPS_S, PATTERN_S
from lipwire.benchmarks.rig.foreign_client import Visit
from lipwire.benchmarks.rig.server import end_server, free_port, start_server
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
    rows = fresh if numbered else every
    pacing_s = pacing_errors_s(rows).tolist()
    gaps_s = np.diff([at_s for at_s, _ in rows or [(0.0, 0.0)]])
    picture_s = [first_back[n] - at_s for n, at_s in captured.items() if n in first_back]
    ended_s = max(noted["clicks_heard"], default=0.0)
    clicked = [s for s in noted["clicks_sent"] if since_s <= s < until_s]
    sound_s = delays(clicked, noted["clicks_heard"]).tolist()
    # Those sent too late to be heard do not count.
    due_s = ended_s + SAME_CLICK_S - (_median(sound_s) or 0.0)
    due_clicks = [s for s in clicked if not sound_s or s <= due_s]
    share = len(picture_s) / max(len(captured), 1)
    rate = len(rows) / seconds
    pacing_ms = percentiles(pacing_s)["p99_ms"]
    even = pacing_ms is not None and pacing_ms <= PACING_MS
    smooth = even and (share if numbered else rate / fps) >= SHARE
    offsets = noted["offsets"]
    apart_s = _apart(offsets.get("video", ()), _median(offsets.get("audio", ())))
    heard_share = len(sound_s) / max(len(due_clicks), 1) if sound_s else None
    first_s = noted["back"][0][0] - noted["called_s"] if noted["back"] else None
    figures = {
        **figures_ms("picture_delay", picture_s),
        "pictures_back_share": figure(share if numbered else None, "share", least=SHARE),
        "pictures_per_s": figure(rate, "1/s", least=SHARE * fps),
        "pictures_without_number": figure(len(noted["back"]) - numbered),
        "pacing_error_p99_ms": figure(pacing_ms, "ms", most=PACING_MS),
        "freeze_max_ms": figure(float(gaps_s.max()) * 1e3 if len(gaps_s) else None, "ms"),
        "freezes_over_500_ms": figure(int((gaps_s > FREEZE_S).sum())),
        **figures_ms("sound_delay", sound_s),
        "clicks_heard_share": figure(heard_share, "share"),
        "picture_after_sound_ms": figure(_ms(_median(_apart(picture_s, _median(sound_s)))), "ms"),
        "av_offset_ms": figure(_ms(_median(apart_s)), "ms"),
        "first_picture_s": figure(first_s, "s"),
        "smooth": figure("yes" if smooth else "no"),
    }
    samples = {
        "picture_delay_ms": picture_s,
        "sound_delay_ms": sound_s,
        "pacing_error_ms": pacing_s,
        "picture_gap_ms": gaps_s.tolist(),
    }
    return {"figures": figures, "samples": {n: [s * 1e3 for s in v] for n, v in samples.items()}}


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _apart(values: Sequence[float], middle: float | None) -> list[float]:
    """By how much each lies above `middle`; nothing where that is not known."""
    return [] if middle is None else [value - middle for value in values]


def visit(plan: Visit) -> dict[str, Any]:
    """What the caller noted."""
    plan.doors  # noqa: B018  said here, in one line, if they are none
    command = [sys.executable, "-m", "lipwire.benchmarks.rig.foreign_client"]
    done = subprocess.run(
        [*command, json.dumps(asdict(plan))],
        capture_output=True,
        text=True,
        timeout=plan.seconds + 240,
        check=False,
    )
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
    names = ("offer", "whip", "whep", "width", "height", "fps", "seconds")
    asked = {name: getattr(plan, name) for name in names}
    return {**asked, "codec": "VP8", "clicks_apart_s": list(GAPS_S)}


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
                by_offer = replace(plan, offer=f"{url}/offer")
                by_pair = replace(plan, whip=f"{url}/whip", whep=f"{url}/whep")
                found = digest(visit(by_offer if kind == "offer" else by_pair), plan.fps)
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
    return {
        "figures": figures,
        "samples": samples,
        "input": {"delay_ms": CHECK_DELAY_S * 1e3, "seconds": plan.seconds},
    }


@contextmanager
def peer(delay_s: float) -> Iterator[str]:
    """A server that sends back what it gets, so much later; its address."""
    port = free_port()
    echo = ("-m", "lipwire.benchmarks.rig.echo", str(port), str(delay_s))
    process, _ = start_server(port, None, echo)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        end_server(process)
