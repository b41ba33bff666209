"""`lipwire bench fuzz`: everything that a stranger's bytes reach (`benchmarks/parsers.py`), broken.

Each parser runs in a process of its own (`python -m benchmarks.fuzz NAME`), so that a crash of
native code is seen. Inputs are chance mutations of valid ones, or bred for the branches that they
reach (`benchmarks.guided`). An input fails that raises what
the parser may not raise, or takes longer than the event loop may stand still; it is kept, and
tried first the next time.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from benchmarks.guided import check_installed
from benchmarks.parsers import Target, targets
from engine.errors import LipwireError
from server.allocator import set_aside

GROWTH_MIB = 50.0
ENGINES = {"chance": "benchmarks.fuzz", "atheris": "benchmarks.guided"}
WARM = 500  # inputs before memory is first looked at: caches fill, native libraries load
LARGEST = 65_536


def mutate(data: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """One to eight small damages: flips, cuts, repeats, lengths at their limits, splices."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(made) + 1)
        match rng.randrange(7):
            case 0 if made:
                made[place % len(made)] ^= 1 << rng.randrange(8)
            case 1 if made:
                made[place % len(made)] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                del made[place : place + rng.randint(1, 32)]
            case 3:
                made[place:place] = rng.randbytes(rng.randint(1, 16))
            case 4:
                made[place:place] = made[place : place + rng.randint(1, 64)] * rng.randint(1, 20)
            case 5:
                other = rng.choice(corpus)
                cut = rng.randrange(len(other) + 1)
                made[place:] = other[cut:]
            case 6:
                value = rng.choice((0, 1, 0xFFFF, 0x7FFF, 0x8000)).to_bytes(2)
                made[place : place + 2] = value
    return bytes(made[:LARGEST])


class Watch:
    """Runs a target on inputs and keeps what went wrong.

    Args:
        target: parses.
        folder: where failing inputs are kept; None keeps none.
    """

    def __init__(self, target: Target, folder: Path | None) -> None:
        self._target, self._folder = target, folder
        self.inputs = self.refused = 0
        self.slowest_s = 0.0
        self.faults: list[str] = []
        self._begin_mib: float | None = None

    def __call__(self, data: bytes) -> None:
        """Try one input."""
        begun = time.thread_time()  # of the processor: others may be using it
        try:
            self._target.run(data)
        except self._target.refuses:
            self.refused += 1
        except Exception as error:
            self._keep(data, f"{type(error).__name__}: {str(error)[:200]}")
        took_s = time.thread_time() - begun
        self.slowest_s = max(self.slowest_s, took_s)
        if took_s > self._target.stall_s:
            self._keep(data, f"took {took_s:.3f} s")
        self.inputs += 1
        if self.inputs == WARM:
            self._begin_mib = _resident_mib()

    def _keep(self, data: bytes, why: str) -> None:
        if len(self.faults) < 20:
            self.faults.append(why)
            if self._folder is not None:
                name = f"{len(self.faults):02}-{abs(hash(data)) % 10**8:08}"
                (self._folder / name).write_bytes(data)

    def figures(self) -> dict[str, Any]:
        """What was found."""
        growth = 0.0 if self._begin_mib is None else _resident_mib() - self._begin_mib
        return {
            "inputs": self.inputs,
            "refused": self.refused,
            "slowest_ms": self.slowest_s * 1000,
            "growth_mib": growth,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "faults": self.faults,
        }


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def fuzz_one(name: str, seconds: float, corpus: Path | None, seed: int = 0) -> dict[str, Any]:
    """Try one parser for some time, in this process.

    Args:
        name: of `benchmarks.parsers.targets`.
        seconds: how long.
        corpus: folder of inputs that are tried first; failing ones are added. None: no folder.
        seed: of chance.

    Raises:
        LipwireError: no parser of that name.
    """
    known = targets()
    if name not in known:
        raise LipwireError(f"no parser {name!r}; there are {', '.join(known)}")
    target = known[name]()
    folder = None
    if corpus is not None:
        folder = corpus / name
        folder.mkdir(parents=True, exist_ok=True)
    inputs = list(target.seeds())
    if folder is not None:
        inputs += [path.read_bytes() for path in sorted(folder.iterdir())]
    watch, rng = Watch(target, folder), random.Random(seed)
    ends = time.monotonic() + seconds
    for data in inputs:
        watch(data)
    while time.monotonic() < ends:
        watch(mutate(rng.choice(inputs), rng, inputs))
    return watch.figures()


def run(
    *,
    minutes: Annotated[float, Ge(0.01)] = 10,
    only: str | None = None,
    corpus: Path | None = None,
    engine: str = "chance",
    jobs: Annotated[int, Ge(1)] = 1,
) -> dict[str, Any]:
    """Try every parser, each in a process of its own.

    Args:
        minutes: for each.
        only: one parser alone.
        corpus: folder for inputs that failed.
        engine: chance, or atheris (pip install atheris): guided by coverage.
        jobs: parsers tried at a time. What is measured is each one's own processor time.

    Raises:
        LipwireError: no parser or engine of that name.
        ConfigError: atheris is asked for and not installed.
    """
    if engine not in ENGINES:
        raise LipwireError(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
    if engine == "atheris":
        check_installed()
    names = list(targets())
    if only is not None and only not in names:
        raise LipwireError(f"no parser {only!r}; there are {', '.join(names)}")

    def tried(name: str) -> dict[str, Any]:
        command = [sys.executable, "-m", ENGINES[engine], name, "--seconds", str(minutes * 60)]
        if corpus is not None:
            command += ["--corpus", str(corpus)]
        # FFmpeg tells stderr about every broken picture.
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            return {"faults": [f"the process ended with code {done.returncode}"]}
        figures: dict[str, Any] = json.loads(done.stdout)
        return figures

    chosen = names if only is None else [only]
    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(chosen, pool.map(tried, chosen), strict=True))
    met = {
        name: not figures["faults"] and figures["growth_mib"] <= GROWTH_MIB
        for name, figures in found.items()
    }
    return {
        "minutes_each": minutes,
        "jobs": jobs,
        "engine": engine,
        "figures": found,
        "met": met,
    }


def main() -> None:
    """Parse, try, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    # As the server does: else an input is blamed for the collector's 60 ms among the libraries.
    set_aside()
    print(json.dumps(fuzz_one(a.name, a.seconds, a.corpus, a.seed)))


if __name__ == "__main__":
    main()
