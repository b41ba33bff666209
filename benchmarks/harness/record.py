"""One schema for what every benchmark found: who measured what, on what, when, and the raw data.

    {schema, benchmark, what, date, command, commit, machine, bundle,
     figures: {name: {value, unit, target, ok}}, samples: {name: [[...] for each run]},
     tables: {title: [{column: value}]}, details: {...}, incomplete: why, if it is}

A benchmark's `run` returns a dict with `figures` (of this shape, or plain numbers whose names end
in their unit, beside `targets` and `met`) and, where it has them, `samples`, `tables`, `bundle`;
whatever else it returns becomes `details`. One that was interrupted and keeps what it measured so
far says so in `incomplete`.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lipwire.benchmarks.harness.machine import describe_machine
from lipwire.benchmarks.harness.timing import percentiles
from lipwire.engine.errors import ConfigError, LipwireError
from lipwire.engine.model.bundle import Bundle, open_bundle

SCHEMA = 1
# Raw values kept of each run and figure; more are thinned evenly. Fewer: intervals widen; more:
# records of long runs cannot be mailed.
KEPT = 5000
UNITS = {
    "_per_s": "1/s",
    "_ms": "ms",
    "_s": "s",
    "_mib": "MiB",
    "_share": "share",
    "_ppm": "ppm",
    "_db": "dB",
    "_kbps": "kbit/s",
    "_px": "px",
    "_gflops": "GFLOP/s",
    "_ratio": "ratio",
    "_factor": "ratio",
    "_frames": "frames",
}
OWN = (
    "benchmark",
    "command",
    "machine",
    "figures",
    "targets",
    "met",
    "samples",
    "tables",
    "bundle",
    "incomplete",
)

Record = dict[str, Any]


def figure(
    value: Any, unit: str = "", *, most: float | None = None, least: float | None = None
) -> dict[str, Any]:
    """One figure beside its target.

    Args:
        value: measured; None where it could not be.
        unit: of it; "share" is shown in percent.
        most: it should not be above this.
        least: it should not be below this.
    """
    target, ok = None, None
    if most is not None or least is not None:
        target = f"≤ {most:g}" if most is not None else f"≥ {least:g}"
        known = isinstance(value, int | float) and math.isfinite(value)
        ok = known and (value <= most if most is not None else value >= (least or 0.0))
    return {"value": _plain(value), "unit": unit, "target": target, "ok": ok}


def figures_ms(name: str, values_s: Sequence[float]) -> dict[str, Any]:
    """Mean, percentiles and the largest of some times as figures."""
    return {f"{name}_{end}": figure(ms, "ms") for end, ms in percentiles(values_s).items()}


def judged(
    figures: Mapping[str, float], targets: Mapping[str, float], at_least: Sequence[str] = ()
) -> dict[str, bool]:
    """Whether each figure that has a target meets it: at most so much, or at least."""
    return {
        name: figures[name] >= target if name in at_least else figures[name] <= target
        for name, target in targets.items()
        if name in figures
    }


def unit_of(name: str) -> str:
    """What a figure's name says of its unit."""
    return next((unit for end, unit in UNITS.items() if name.endswith(end)), "")


def make_record(name: str, what: str, found: Mapping[str, Any]) -> Record:
    """What a benchmark's `run` returned, in the one schema."""
    return {
        "schema": SCHEMA,
        "benchmark": name,
        "what": what,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        # Where somebody keeps his files is nobody else's business.
        "command": " ".join(
            [Path(sys.argv[0]).name]
            + [Path(w).name if Path(w).is_absolute() else w for w in sys.argv[1:]]
        ),
        "commit": commit(),
        "machine": found.get("machine") or describe_machine(),
        "bundle": describe_bundle() if found.get("bundle") is None else found["bundle"],
        "figures": _figures(found),
        "samples": {key: bounded(runs) for key, runs in found.get("samples", {}).items()},
        "tables": _plain(found.get("tables", {})),
        "details": _plain({key: value for key, value in found.items() if key not in OWN}),
    } | ({"incomplete": str(found["incomplete"])} if found.get("incomplete") else {})


def describe_bundle(bundle: Bundle | Path | None = None) -> dict[str, Any]:
    """Name, version and hash of a model: the hash of its manifest, which lists all files' own."""
    if not isinstance(bundle, Bundle):
        bundle = open_bundle(bundle)
    manifest = bundle.manifest
    digest = hashlib.sha256(json.dumps(manifest.files, sort_keys=True).encode()).hexdigest()
    return {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": digest,
        "steps": manifest.default_steps,
        "gflop_per_frame": manifest.gflop_per_frame,
    }


def commit() -> str | None:
    """The commit that this runs from, `+` where files differ from it; None outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def bounded(runs: Any) -> list[list[float]]:
    """Raw values as a list for each run, at most KEPT of each."""
    runs = [runs] if not runs or not isinstance(runs[0], list | tuple) else runs
    # Six digits are more than any clock here is worth, and halve the record.
    return [_thinned([float(f"{value:.6g}") for value in run]) for run in runs]


def _thinned(values: list[float]) -> list[float]:
    if len(values) <= KEPT:
        return values
    return [values[k * len(values) // KEPT] for k in range(KEPT)]


def _figures(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    targets, met = found.get("targets", {}), dict(found.get("met", {}))
    figures: dict[str, dict[str, Any]] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            if {"value", "ok"} <= value.keys():
                figures[name] = {"unit": unit_of(name), "target": None, **_plain(value)}
                return
            for key, inner in value.items():
                add(f"{name}: {key}" if name else str(key), inner)
        elif value is None or isinstance(value, int | float | str):
            ok, target = met.pop(name, None), targets.get(name)
            if target is not None:
                target = f"{_sign(value, target, ok)} {target}"
            figures[name] = {
                "value": _plain(value),
                "unit": unit_of(name),
                "target": target,
                "ok": ok,
            }
        elif isinstance(value, Sequence):
            if value and all(isinstance(each, Mapping) for each in value):
                for number, each in enumerate(value, 1):
                    add(f"{name} {number}", each)
            else:
                figures[name] = {
                    "value": ", ".join(map(str, value)),
                    "unit": "",
                    "target": None,
                    "ok": None,
                }

    add("", found.get("figures", {}))
    for promise, ok in met.items():  # those that are sentences of their own
        figures[promise] = {"value": None, "unit": "", "target": "holds", "ok": bool(ok)}
    return figures


def _sign(value: Any, target: Any, ok: bool | None) -> str:
    """Which way a target of the older form goes."""
    if ok is None or not isinstance(value, int | float) or value == target:
        return "target"
    return "≤" if (value < target) == ok else "≥"


def _plain(value: Any) -> Any:
    """As JSON has it: numbers that are none become null, numpy's become Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def missed(record: Record) -> list[str]:
    """Names of figures that are not what they should be."""
    return [name for name, one in record["figures"].items() if one["ok"] is False]


def write_record(record: Record, where: str) -> None:
    """Write a record to a file, or to stdout for `-`."""
    text = json.dumps(record, ensure_ascii=False)
    if where == "-":
        print(text)
        return
    try:
        Path(where).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{where}: cannot be written ({error.strerror})") from error


def read_record(path: Path) -> Record:
    """A record that was written before."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LipwireError(f"{path}: not a file of `lipwire bench … --json` ({error})") from error
    if not isinstance(record, dict) or "benchmark" not in record:
        raise LipwireError(f"{path}: not a file of `lipwire bench … --json`")
    if record.get("schema") != SCHEMA:
        raise LipwireError(
            f"{path}: a record of schema {record.get('schema')}, this reads {SCHEMA}; measure again"
        )
    return record


def shown(value: Any, unit: str) -> str:
    """A value for people."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if unit == "share":
        return f"{value:.1%}"
    text = f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return f"{text} {unit}" if unit not in ("", "ratio") else text
