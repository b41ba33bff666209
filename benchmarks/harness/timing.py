"""Timing that survives a busy machine: rivals take turns, medians count, SGEMM goes along."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lipwire.engine.backends import Backend, blank_job
from lipwire.engine.types import F64

SGEMM_SIDE = 2048


def take_turns(
    rivals: Mapping[str, Callable[[], object]],
    rounds: int,
    progress: Callable[[], None] = lambda: None,
    warm: bool = True,
) -> dict[str, list[float]]:
    """Seconds of each call, every rival once a round; so drift and neighbours hit all alike."""
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(0 if warm else 1, rounds + 1):
        for name, call in rivals.items():
            begun_s = time.perf_counter()
            call()
            took_s = time.perf_counter() - begun_s
            if number:
                taken[name].append(took_s)
            progress()
    return taken


def sgemm() -> Callable[[], object]:
    """Multiply two square float32 matrices, as numpy's BLAS does it on all cores."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SGEMM_SIDE, SGEMM_SIDE), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def sgemm_gflops(took_s: list[float]) -> float:
    """The rate of `sgemm`, a multiply-add counting as two."""
    return 2 * SGEMM_SIDE**3 / statistics.median(took_s) / 1e9


def batch_times(
    backend: Backend,
    steps: int,
    sizes: tuple[int, ...],
    rounds: int = 15,
    progress: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """Median seconds of one batch of each size."""
    job = blank_job(backend.manifest, steps)
    rivals = {str(n): (lambda n=n: backend.generate([job] * n)) for n in sizes}
    taken = take_turns(rivals, rounds, progress)
    return {n: statistics.median(taken[str(n)]) for n in sizes}


def pacing_errors_s(pictures: Sequence[tuple[float, float]]) -> F64:
    """How unevenly arrives what was evenly spaced, s, of (came, due) pairs.

    RFC 3550 section 6.4.1.
    """
    came, due = np.array(pictures or [(0.0, 0.0)]).T
    return np.asarray(np.abs(np.diff(came) - np.diff(due)))


def percentiles(values_s: Sequence[float]) -> dict[str, float | None]:
    """Mean, p50, p95, p99 and the largest, ms; None of nothing."""
    names = ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms")
    if not len(values_s):
        return dict.fromkeys(names)
    ms = np.asarray(values_s) * 1000
    values = [float(ms.mean()), *np.percentile(ms, (50, 95, 99, 100)).tolist()]
    return dict(zip(names, values, strict=True))
