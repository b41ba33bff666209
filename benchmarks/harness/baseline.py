"""A small baseline for CI: what this machine takes for our work, in units of what it can do.

Absolute times differ from machine to machine and from hour to hour; the ratio of a frame's time to
the time of this machine's own matrix product hardly does. Both take turns, and the least of each
counts, as a busy neighbour only ever makes things slower.

    python -m lipwire.benchmarks.harness.baseline --write     # after a change that is meant to cost
    more, or less
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lipwire.benchmarks.harness.timing import take_turns
from lipwire.engine.audio.mel import log_mel
from lipwire.engine.backends import blank_job, load_backend
from lipwire.engine.model.bundle import open_bundle
from lipwire.engine.types import SPEECH_RATE_HZ

BASELINE = Path(__file__).with_name("baseline.json")
# A ratio may grow so much. Less: other processors' caches and vector units fail the build; more:
# it would have to be three times as slow before somebody hears of it.
ALLOWANCE = 2.0
SIDE = 512  # of the matrices: 5 ms on a slow core, so that many rounds fit into a second


def product() -> Callable[[], object]:
    """Multiply two square float32 matrices."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIDE, SIDE), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    return lambda: [np.matmul(a, b, out=out) for _ in range(4)]


def measure(rounds: int = 25) -> dict[str, float]:
    """Each of our works in units of four matrix products."""
    backend = load_backend(open_bundle(), "ort", threads=1)
    job = blank_job(backend.manifest)
    second = np.random.default_rng(1).standard_normal(SPEECH_RATE_HZ).astype(np.float32) / 10

    try:
        taken = take_turns(
            {
                "product": product(),
                "lite frame": lambda: backend.generate([job]),
                "mel of a second": lambda: log_mel(second),
            },
            rounds,
        )
    finally:
        backend.close()
    unit_s = min(taken.pop("product"))
    return {name: min(times) / unit_s for name, times in taken.items()}


def measure_apart(rounds: int = 25) -> dict[str, float]:
    """As `measure`, in a process of its own with one thread for each library.

    They read it when they are loaded. With more, the product takes every idle core and a frame one,
    so the ratio would say how busy the machine is.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    code = (
        "import json, lipwire.benchmarks.harness.baseline as b; "
        f"print(json.dumps(b.measure({rounds})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=BASELINE.parents[3],
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def grown(found: dict[str, float], stored: dict[str, float]) -> dict[str, float]:
    """By how much each ratio exceeds the stored one, of those beyond the allowance."""
    factors = {name: found[name] / ratio for name, ratio in stored.items()}
    return {name: factor for name, factor in factors.items() if factor > ALLOWANCE}


def stored() -> dict[str, float]:
    """The ratios that count as normal."""
    found: dict[str, float] = json.loads(BASELINE.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    found = {name: round(ratio, 3) for name, ratio in measure_apart(100).items()}
    if parser.parse_args().write:
        BASELINE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
