"""Every benchmark in one form: options from signatures, records, pages, and all of them at once."""

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

from benchmarks import registry, whole
from benchmarks.record import make_record, write_record
from benchmarks.registry import BENCHES, Bench
from benchmarks.report import draw, page
from engine.errors import ConfigError
from server.cli import app


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
        "figures": {"wait_ms": {"value": seconds, "unit": "ms", "target": "≤ 3",
                                "ok": seconds <= 3}},
        "samples": {"wait_ms": [seconds + k for k in range(20)]},
        "tables": {"growth": [{"sessions": k, "cpu": 2.0 * k} for k in (1, 2)]},
        "asked": [loud, [str(clip) for clip in clips], name],
    }  # fmt: skip


def broken() -> dict[str, Any]:
    """Fail."""
    raise RuntimeError("it broke")


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
    for run in (measured, broken, stopped):
        setattr(module, run.__name__, run)
    monkeypatch.setitem(sys.modules, "made_benchmarks", module)
    benches = (
        Bench("nothing", "Nothing at all.", "made_benchmarks:measured", short={"seconds": 1}),
        Bench("broken", "Fails.", "made_benchmarks:broken"),
        Bench("stopped", "Is told to end.", "made_benchmarks:stopped", whole=None),
        Bench("lacking", "Needs more.", "made_benchmarks:measured", ("no_such_package",)),
    )
    monkeypatch.setattr(registry, "BENCHES", benches)
    monkeypatch.setattr(whole, "BENCHES", benches)


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["bench", *map(str, words)])


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_options_are_those_of_the_signature(only_ours: None) -> None:
    shown = plain(call("nothing", "--help").stdout)
    assert "Of it, in two lines." in " ".join(shown.replace("│", " ").split())
    assert "--no-loud" in shown and "--progress" not in shown and "--plot" in shown
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
    assert "It is incomplete: interrupted after 1 of 9." in page([record])
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_cannot_be_done_is_one_line(only_ours: None, tmp_path: Path) -> None:
    for words, says in (
        (("lacking",), "needs no_such_package"),
        (("nothing", "--plot", "x.gif"), "must end in .png, .svg or .html"),
        (("compare", tmp_path / "none", tmp_path / "none"), "not a file of"),
    ):
        done = call(*words)
        assert done.exit_code == 2 and says in " ".join(done.stderr.split())


@pytest.mark.parametrize("kind", ["png", "svg", "html"])
def test_plots_are_what_their_names_say(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"x.{kind}"
    found = measured()
    found["tables"]["stages"] = [{"stage": "a", "p50_ms": 1.0, "p99_ms": 2.0}]
    draw(make_record("nothing", "Nothing.", found), path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "html": b"<!doctype html>"}[kind]
    assert path.read_bytes().startswith(start)


def test_a_page_needs_nothing_else_and_escapes() -> None:
    record = make_record("nothing", "A <b>bold</b> claim.", measured())
    text = page([record], {"broken": "<script>"})
    assert "<b>bold" not in text and "<script>" not in text and "broken: failed" in text
    assert not re.findall(r'(?:src|href)=["\']?(?!#|http://www.w3.org)[^"\'# >]*//', text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_all_goes_on_after_a_failure_and_names_it(
    only_ours: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The processes know nothing of made benchmarks: a script stands in for each.
    def stand_in(one: Bench, options: Any, out: Path) -> list[str]:
        if one.name != "nothing":
            return [sys.executable, "-c", "raise SystemExit('it broke')"]
        record = make_record(one.name, one.help, measured(**options))
        write_record(record, str(tmp_path / "made.json"))
        code = f"import shutil; shutil.copy({str(tmp_path / 'made.json')!r}, {str(out)!r})"
        return [sys.executable, "-c", code]

    monkeypatch.setattr(whole, "command_line", stand_in)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "broken.json").write_text("an older run's")
    done = call("all", "-o", tmp_path / "out", "--short")
    assert done.exit_code == 1 and "broken failed: it broke" in done.stderr
    text = (tmp_path / "out" / "report.html").read_text()
    assert "broken: failed" in text and "Nothing at all." in text and "met" in text
    assert not (tmp_path / "out" / "broken.json").exists()
    with pytest.raises(ConfigError, match="no benchmark 'none': nothing, broken, stopped, lacking"):
        whole.run(tmp_path / "out", only=["none"])


def test_every_benchmark_takes_what_all_gives_it() -> None:
    from inspect import signature

    for one in BENCHES:
        if any(__import__("importlib.util").util.find_spec(name) is None for name in one.needs):
            continue
        known = set(signature(one.load()).parameters)
        assert {*(one.whole or {}), *one.short} <= known, one.name
        words = whole.command_line(one, {**(one.whole or {}), **one.short}, Path("x"))
        assert words[3:5] == ["bench", one.name]
