"""`lipwire bench all`: every benchmark one after the other, and one page with all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Record, read_record
from benchmarks.registry import BENCHES, Bench, bench
from benchmarks.report import page
from engine.errors import LipwireError

LAST_LINES = 12  # of what a benchmark that failed said
MISSED = 1  # its exit code when a figure is not what it should be


def command_line(one: Bench, options: Mapping[str, Any], out: Path) -> list[str]:
    """What a user would type for one benchmark."""
    words = [sys.executable, "-m", "server.cli", "bench", one.name, "--json", str(out)]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, str(value)]
    return words


def run(
    out: Path,
    *,
    short: bool = False,
    only: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, str]:
    """Measure all; returns those that failed, and why. The others' records are in the page.

    Each has a process of its own, so that none fails another, nor leaves threads behind.

    Args:
        out: folder for NAME.json of each and report.html.
        short: minutes instead of hours.
        only: names; None takes all.
        progress: told what is being measured.

    Raises:
        ConfigError: there is no benchmark of a name.
    """
    chosen = [bench(name) for name in only] if only else [b for b in BENCHES if b.whole is not None]
    out.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    failed: dict[str, str] = {}
    for number, one in enumerate(chosen, 1):
        progress(f"{one.name}, {number} of {len(chosen)}")
        path = out / f"{one.name}.json"
        path.unlink(missing_ok=True)  # an older run's must not pass for this one's
        options = {**(one.whole or {}), **(one.short if short else {})}
        done = subprocess.run(command_line(one, options, path), capture_output=True, text=True,
                              errors="replace", check=False)  # fmt: skip
        try:
            if done.returncode not in (0, MISSED):
                raise LipwireError(_last(done.stderr) or f"it ended with code {done.returncode}")
            if not path.exists():
                raise LipwireError(_last(done.stderr) or "it wrote no record")
            records.append(read_record(path))
        except LipwireError as error:
            failed[one.name] = str(error)
        # Written each time: whoever stops after an hour has an hour's results.
        (out / "report.html").write_text(page(records, failed), encoding="utf-8")
    (out / "failed.json").write_text(json.dumps(failed), encoding="utf-8")
    return failed


def _last(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])
