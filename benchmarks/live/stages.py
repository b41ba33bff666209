"""Each picture's way in `bench latency`: the points it passed, and how long each stage took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lipwire.benchmarks.harness.timing import percentiles
from lipwire.engine.errors import LipwireError

# More pictures with times that contradict each other are no misread markers.
MISREAD_SHARE = 0.02
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
}  # every stage of a picture's way, in order, and the points between which it lies
PAINTED = ("pasted", "generated", "held")  # what becomes of a picture that speaks the new voice
# Points of the two processes' clocks may be so much out of order: what sends notes its time after
# the last packet, which the other may have by then. More: pictures were mistaken for each other.
DISORDER_S = 0.05


@dataclass(frozen=True)
class Way:
    """One picture's, there and back."""

    number: int
    outcome: str
    stages_s: dict[str, float]  # by name; only those whose both ends it passed
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
        rest = {
            name: (total[name] or 0.0) - sum(row[name] for row in rows)
            for name in ("mean_ms", "p50_ms")
        }
        rows.append({"stage": "rest (no stage's)", **percentiles([]), **rest})
    rows.append({"stage": "glass to glass", **total, "sum": True})
    return rows
