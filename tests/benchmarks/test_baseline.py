"""Our work in units of what this machine can do: it may not have doubled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.baseline import ALLOWANCE, grown, stored

ROUNDS = (25, 100, 200)  # a busy machine gets more chances of a quiet moment


def test_nothing_has_grown_beyond_the_allowance() -> None:
    # One thread each, set before the libraries are loaded: neighbours on the other cores hit the
    # one with many threads harder.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    found: dict[str, float] = {}
    for rounds in ROUNDS:
        code = f"from benchmarks.baseline import *; print(json.dumps(measure({rounds})))"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                              text=True, check=True, cwd=Path(__file__).parents[2])  # fmt: skip
        found = __import__("json").loads(done.stdout)
        if not grown(found, stored()):
            break
    assert set(found) == set(stored())
    assert not grown(found, stored()), f"slower than the baseline: {grown(found, stored())}"


def test_what_has_grown_is_named() -> None:
    assert grown({"a": 1.0 * ALLOWANCE, "b": 1.0}, {"a": 1.0, "b": 1.0}) == {}
    assert grown({"a": 2.1 * ALLOWANCE}, {"a": 2.0}) == {"a": pytest.approx(1.05 * ALLOWANCE)}
