"""Our work in units of what this machine can do: it may not have doubled."""

from __future__ import annotations

import pytest

from lipwire.benchmarks.harness.baseline import ALLOWANCE, grown, measure_apart, stored

ROUNDS = (25, 100, 200)  # a busy machine gets more chances of a quiet moment


def test_nothing_has_grown_beyond_the_allowance() -> None:
    found: dict[str, float] = {}
    for rounds in ROUNDS:
        found = measure_apart(rounds)
        if not grown(found, stored()):
            break
    assert set(found) == set(stored())
    assert not grown(found, stored()), f"slower than the baseline: {grown(found, stored())}"


def test_what_has_grown_is_named() -> None:
    assert grown({"a": 1.0 * ALLOWANCE, "b": 1.0}, {"a": 1.0, "b": 1.0}) == {}
    assert grown({"a": 2.1 * ALLOWANCE}, {"a": 2.0}) == {"a": pytest.approx(1.05 * ALLOWANCE)}
