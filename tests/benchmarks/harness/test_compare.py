"""What is noise is called noise, and what is not is not."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from lipwire.benchmarks.harness.compare import DRAWS, compare, medians
from lipwire.benchmarks.harness.record import bounded, figure, make_record
from lipwire.engine.errors import LipwireError


def made(name: str, *runs: Any, **machine: Any) -> dict[str, Any]:
    figures = {"x_ms": figure(float(np.median(runs[0])), "ms"), "n": figure(2.0)}
    return {
        **blank(),
        "benchmark": name,
        "machine": {**blank()["machine"], **machine},
        "figures": figures,
        "samples": {"x_ms": bounded([list(run) for run in runs])},
    }


@cache
def blank() -> dict[str, Any]:
    """What all records have in common; asking the machine and git takes a while."""
    return make_record("latency", "L.", {})


def noise(seed: int, middle: float = 60.0, count: int = 400) -> Any:
    return middle + np.random.default_rng(seed).normal(0, 5, count)


def test_the_same_thing_twice_is_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipwire.benchmarks.harness.compare.DRAWS", 500)  # of each of forty records
    verdicts = [
        compare(made("a", noise(2 * k)), made("a", noise(2 * k + 1)))["rows"][0]["verdict"]
        for k in range(20)
    ]
    assert verdicts.count("within noise") >= 17  # 95 % intervals


def test_a_tenth_more_is_more() -> None:
    found = compare(made("a", noise(0)), made("a", noise(1, 66.0)))
    row = found["rows"][0]
    assert row["verdict"] == "more: 1.10x" and row["ratio"] == pytest.approx(1.1, abs=0.02)
    assert row["interval"][0] < row["ratio"] < row["interval"][1]
    other = compare(made("a", noise(1, 66.0)), made("a", noise(0)))["rows"][0]
    assert other["verdict"].startswith("less")


def test_values_that_resemble_their_neighbours_have_wider_intervals() -> None:
    rng = np.random.default_rng(0)
    slow = np.repeat(rng.normal(60, 5, 20), 20)
    quick = rng.permutation(slow)
    wide, narrow = (np.std(medians([list(v)], np.random.default_rng(1))) for v in (slow, quick))
    assert wide > 1.5 * narrow
    assert len(medians([[1.0]], rng)) == DRAWS


def test_runs_that_differ_widen_it_too() -> None:
    one = np.std(medians([list(noise(0))], np.random.default_rng(0)))
    runs = [list(noise(k, 55 + 5 * k)) for k in range(3)]
    assert np.std(medians(runs, np.random.default_rng(0))) > 2 * one


def test_around_zero_differences_count() -> None:
    found = compare(made("a", noise(0, 0.0)), made("a", noise(1, 9.0)))["rows"][0]
    assert found["ratio"] is None and found["verdict"].startswith("changed by +")


def test_other_machines_are_refused_in_words_unless_wanted() -> None:
    here, there = made("a", noise(0)), made("a", noise(1), processor="Another", cores=64)
    with pytest.raises(LipwireError, match=r"different machines \(processor: .* and Another"):
        compare(here, there)
    found = compare(here, there, different_machines=True)
    assert any("Another" in note for note in found["notes"])
    with pytest.raises(LipwireError, match="a record of a, the other of b"):
        compare(here, made("b", noise(0)))


def test_figures_without_raw_values_have_no_verdict() -> None:
    rows = {row["figure"]: row for row in compare(made("a", noise(0)), made("a", noise(1)))["rows"]}
    assert rows["n"]["verdict"] == "no raw values" and rows["n"]["interval"] is None
    few = compare(made("a", [1.0, 2.0]), made("a", [1.0, 2.0]))["rows"][0]
    assert few["verdict"] == "too few values"
