"""One schema, whatever a benchmark returns."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lipwire.benchmarks.harness import record
from lipwire.benchmarks.harness.record import (
    bounded,
    figure,
    make_record,
    missed,
    read_record,
    shown,
    write_record,
)
from lipwire.engine.errors import ConfigError, LipwireError


def test_a_figure_knows_its_target() -> None:
    assert figure(70.0, "ms", most=80) == {
        "value": 70.0,
        "unit": "ms",
        "target": "≤ 80",
        "ok": True,
    }
    assert figure(0.9, "share", least=0.95)["ok"] is False
    assert figure(3)["ok"] is None
    assert figure(None, "ms", most=80)["ok"] is False  # what was not measured is not met
    assert figure(math.nan, most=1) == {"value": None, "unit": "", "target": "≤ 1", "ok": False}


def test_older_results_become_figures_with_units_and_targets() -> None:
    found = {
        "figures": {
            "delay_p50_ms": 90.0,
            "fps": np.float64(25),
            "calls": [{"x_share": 0.5}],
            "before": {"fds": 3},
            "names": ["a", "b"],
        },
        "targets": {"delay_p50_ms": 80},
        "met": {"delay_p50_ms": False, "no hole in the sound": True},
        "seconds": 5,
    }
    made = make_record("soak", "Calls.", found)
    figures = made["figures"]
    assert figures["delay_p50_ms"] == {"value": 90.0, "unit": "ms", "target": "≤ 80", "ok": False}
    assert figures["calls 1: x_share"]["unit"] == "share"
    assert figures["before: fds"]["value"] == 3 and figures["names"]["value"] == "a, b"
    assert figures["no hole in the sound"]["ok"] is True
    assert missed(made) == ["delay_p50_ms"]
    assert made["details"] == {"seconds": 5}
    assert json.loads(json.dumps(made)) == made


def test_a_record_says_what_was_measured_on_what() -> None:
    made = make_record("x", "X.", {"figures": {"a": 1.0}})
    assert made["schema"] == record.SCHEMA and made["machine"]["versions"]["numpy"]
    assert len(made["bundle"]["sha256"]) == 64 and made["bundle"]["name"] == "lite"
    assert made["commit"] is None or len(made["commit"].rstrip("+")) == 40


def test_raw_values_are_bounded_and_keep_their_runs() -> None:
    assert bounded([1, 2]) == [[1.0, 2.0]]
    (kept,) = bounded(list(range(3 * record.KEPT)))
    assert len(kept) == record.KEPT and kept[:2] == [0.0, 3.0]
    assert bounded([[1], [2]]) == [[1.0], [2.0]] and bounded([]) == [[]]


def test_records_are_written_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_record("x", "X.", {"figures": {"a": 1.0}})
    write_record(made, str(tmp_path / "x.json"))
    assert read_record(tmp_path / "x.json") == made
    write_record(made, "-")
    assert json.loads(capsys.readouterr().out) == made
    with pytest.raises(ConfigError, match="cannot be written"):
        write_record(made, str(tmp_path / "none" / "x.json"))


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not a file of"), ("[]", "not a file of"), ('{"benchmark": "x"}', "schema None")],
)
def test_what_is_no_record_is_named(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(LipwireError, match=says):
        read_record(path)


def test_values_are_shown_with_their_units() -> None:
    assert shown(0.5, "share") == "50.0%" and shown(12.3456, "ms") == "12.35 ms"
    assert shown(None, "ms") == "–" and shown("yes", "") == "yes" and shown(123456, "") == "123456"
