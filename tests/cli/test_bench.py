"""Every benchmark in one form: options from signatures, tables and records."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Ge
from typer.testing import CliRunner

from lipwire.benchmarks.harness import registry
from lipwire.benchmarks.harness.registry import Bench
from lipwire.cli.main import app


def measured(
    *,
    seconds: Annotated[float, Ge(1)] = 2,
    loud: bool = False,
    clips: Sequence[Path] = (),
    name: str | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Measure nothing.

    Args:
        seconds: of it, in
            two lines.
        loud: or not.
        clips: some.
        name: of something.
        progress: told.
    """
    progress("nothing")
    return {
        "figures": {
            "wait_ms": {"value": seconds, "unit": "ms", "target": "≤ 3", "ok": seconds <= 3}
        },
        "samples": {"wait_ms": [seconds + k for k in range(20)]},
        "tables": {"growth": [{"sessions": k, "cpu": 2.0 * k} for k in (1, 2)]},
        "asked": [loud, [str(clip) for clip in clips], name],
    }


def stopped() -> dict[str, Any]:
    """Be told to end, and keep what there is."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    except KeyboardInterrupt:
        return {"figures": {"wait_ms": 3.0}, "incomplete": "interrupted after 1 of 9"}
    raise AssertionError("nothing interrupted it")


@pytest.fixture
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("made_benchmarks")
    for run in (measured, stopped):
        setattr(module, run.__name__, run)
    monkeypatch.setitem(sys.modules, "made_benchmarks", module)
    benches = (
        Bench("nothing", "Nothing at all.", "made_benchmarks:measured"),
        Bench("stopped", "Is told to end.", "made_benchmarks:stopped"),
        Bench("lacking", "Needs more.", "made_benchmarks:measured", ("no_such_package",)),
    )
    monkeypatch.setattr(registry, "BENCHES", benches)


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["bench", *map(str, words)])


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_options_are_those_of_the_signature(only_ours: None) -> None:
    shown = plain(call("nothing", "--help").stdout)
    assert "Of it, in two lines." in " ".join(shown.replace("│", " ").split())
    assert "--no-loud" in shown and "--progress" not in shown
    found = call("nothing", "--json", "-", "--loud", "--clips", "a", "--clips", "b", "--name", "n")
    assert json.loads(found.stdout)["details"] == {"asked": [True, ["a", "b"], "n"]}
    assert call("nothing", "--seconds", 0.5).exit_code == 2


def test_a_table_or_a_record_and_a_code_for_what_was_missed(
    only_ours: None, tmp_path: Path
) -> None:
    fine = call("nothing", "--json", tmp_path / "a.json")
    assert fine.exit_code == 0 and "wait_ms" in fine.stdout and "met" in fine.stdout
    assert json.loads((tmp_path / "a.json").read_text())["figures"]["wait_ms"]["value"] == 2
    late = call("nothing", "--seconds", 4)
    assert late.exit_code == 1 and "MISSED" in late.stdout


def test_an_interrupted_one_leaves_a_record_that_says_so(only_ours: None, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    done = call("stopped", "--json", tmp_path / "a.json")
    assert (
        done.exit_code == 130 and "stopped is incomplete: interrupted after 1 of 9" in done.stderr
    )
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["incomplete"] == "interrupted after 1 of 9"
    assert record["figures"]["wait_ms"]["value"] == 3
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_cannot_be_done_is_one_line(only_ours: None, tmp_path: Path) -> None:
    for words, says in (
        (("lacking",), "needs no_such_package"),
        (("compare", tmp_path / "none", tmp_path / "none"), "not a file of"),
    ):
        done = call(*words)
        assert done.exit_code == 2 and says in " ".join(done.stderr.split())
