"""`lipwire bench compare`: what changed between two records beyond noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lipwire.benchmarks.harness.record import Record
from lipwire.engine.errors import LipwireError

DRAWS = 2000
FEW = 8  # raw values below which an interval would be made up
ROUNDING = 1e-9  # of the other value: nothing, whatever floating point left of it
F64 = npt.NDArray[np.float64]
# What makes a machine another one; how busy it was does not.
MACHINE = ("processor", "cores", "memory_gib", "system", "python", "versions")
WHERE = ("processor", "cores", "memory_gib")


def compare(before: Record, after: Record, *, different_machines: bool = False) -> dict[str, Any]:
    """Each figure with raw values: ratio of medians after / before, and its 95 % interval."""
    if before["benchmark"] != after["benchmark"]:
        raise LipwireError(
            f"one is a record of {before['benchmark']}, the other of {after['benchmark']}"
        )
    differing = {
        name: (before["machine"].get(name), after["machine"].get(name))
        for name in MACHINE
        if before["machine"].get(name) != after["machine"].get(name)
    }
    where = {name: pair for name, pair in differing.items() if name in WHERE}
    if where and not different_machines:
        words = "; ".join(f"{name}: {a} and {b}" for name, (a, b) in where.items())
        raise LipwireError(
            f"these were measured on different machines ({words}): what differs is the machines. "
            "To compare them all the same: --different-machines"
        )
    rows = [
        _row(name, before["samples"][name], after["samples"][name])
        for name in before["samples"]
        if any(before["samples"][name]) and any(after["samples"].get(name, []))
    ]
    seen = {row["figure"] for row in rows}
    for name, one in before["figures"].items():
        other = after["figures"].get(name, {"value": None})
        if name not in seen and all(_number(f["value"]) for f in (one, other)):
            rows.append(_bare(name, float(one["value"]), float(other["value"])))
    notes = [f"{name}: {a} -> {b}" for name, (a, b) in differing.items()]
    if before["bundle"] != after["bundle"]:
        notes.append(f"model: {_model(before)} -> {_model(after)}")
    for name, record in (("before", before), ("after", after)):
        if "incomplete" in record:
            notes.append(f"{name} is incomplete: {record['incomplete']}")
    if any(len(runs) < 2 for record in (before, after) for runs in record["samples"].values()):
        notes.append("intervals know what varies within a run; --repeat lets them know of runs too")
    return {
        "benchmark": before["benchmark"],
        "commits": [before["commit"], after["commit"]],
        "rows": rows,
        "notes": notes,
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _model(record: Record) -> str:
    bundle = record["bundle"]
    return f"{bundle['name']} {bundle['version']} ({bundle['sha256'][:8]})"


def _bare(name: str, a: float, b: float) -> dict[str, Any]:
    ratio = b / a if abs(a) > ROUNDING * abs(b) else None
    return {
        "figure": name,
        "before": a,
        "after": b,
        "ratio": ratio,
        "interval": None,
        "verdict": "no raw values",
    }


def _row(name: str, before: list[list[float]], after: list[list[float]]) -> dict[str, Any]:
    a, b = (
        float(np.median(np.concatenate([np.array(r) for r in runs]))) for runs in (before, after)
    )
    if min(sum(map(len, before)), sum(map(len, after))) < FEW:
        return {**_bare(name, a, b), "verdict": "too few values"}
    rng = np.random.default_rng(0)
    ones, others = medians(before, rng), medians(after, rng)
    if a <= 0 or (ones <= 0).any():  # around zero a ratio says nothing: take the difference
        low, high = np.percentile(others - ones, (2.5, 97.5))
        changed = not low <= 0 <= high
        verdict = f"changed by {b - a:+.3g}" if changed else "within noise"
        return {
            "figure": name,
            "before": a,
            "after": b,
            "ratio": None,
            "interval": None,
            "difference": [float(low), float(high)],
            "verdict": verdict,
        }
    low, high = np.percentile(others / ones, (2.5, 97.5))
    verdict = "within noise" if low <= 1 <= high else f"{'more' if b > a else 'less'}: {b / a:.2f}x"
    return {
        "figure": name,
        "before": a,
        "after": b,
        "ratio": b / a,
        "interval": [float(low), float(high)],
        "verdict": verdict,
    }


def medians(runs: Sequence[Sequence[float]], rng: np.random.Generator) -> F64:
    """Medians of DRAWS resamplings: of runs, and within each of blocks of neighbouring values.

    A value resembles the one before it (a busy neighbour stays for a second): single values drawn
    apart would make intervals too narrow. Künsch 1989, blocks of sqrt(N), wrapped around.
    """
    arrays = [np.asarray(run, np.float64) for run in runs if len(run)]
    found = np.empty(DRAWS)
    for draw in range(DRAWS):
        chosen = rng.integers(len(arrays), size=len(arrays))
        found[draw] = np.median(np.concatenate([_blocks(arrays[k], rng) for k in chosen]))
    return found


def _blocks(values: F64, rng: np.random.Generator) -> F64:
    size = max(1, round(len(values) ** 0.5))
    starts = rng.integers(len(values), size=-(-len(values) // size))
    places = (starts[:, None] + np.arange(size)).ravel() % len(values)
    return values[places[: len(values)]]
