"""`lipwire bench fuzz --engine atheris`: inputs that reach new code are kept and bred from.

Atheris (libFuzzer for Python) counts which branches of the parsers an input takes. It must see
them before they are imported, so this module imports nothing that parses by itself:
`python -m benchmarks.guided NAME`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, LipwireError

# Whose branches count. Not all: what numpy or FastAPI does at import would be instrumented, too,
# which takes a minute and drowns the parsers.
INSTRUMENTED = ["aiortc", "aioice", "server", "benchmarks.parsers"]


def check_installed() -> None:
    """Refuse before anything is begun.

    Raises:
        ConfigError: atheris is not installed.
    """
    if importlib.util.find_spec("atheris") is None:
        raise ConfigError("this needs atheris, not installed here: pip install atheris")


def guide(
    atheris: Any,
    name: str,
    seconds: float,
    corpus: Path | None,
    leave: Callable[[dict[str, Any]], None],
    seed: int = 1,
) -> None:
    """Try one parser for some time; libFuzzer never returns, so `leave` must end the process.

    Args:
        atheris: the module.
        name: of `benchmarks.parsers.targets`.
        seconds: how long.
        corpus: folder whose `NAME` holds inputs that failed and `NAME-reached` those that reached
            new code, both tried first and added to. None: kept for this run only.
        leave: is given the figures when time is up.
        seed: of chance, not 0, which means any.

    Raises:
        LipwireError: no parser of that name.
    """
    with atheris.instrument_imports(include=INSTRUMENTED):
        from benchmarks import fuzz, parsers
        from server.allocator import set_aside

        known = parsers.targets()
        if name not in known:
            raise LipwireError(f"no parser {name!r}; there are {', '.join(known)}")
        target = known[name]()
        seeds = list(target.seeds())
        for data in seeds:  # what is imported when first used is instrumented, too
            with ExitStack() as quiet:
                quiet.push(lambda kind, *_: kind is not None and issubclass(kind, target.refuses))
                target.run(data)
    set_aside()
    with tempfile.TemporaryDirectory(prefix="lipwire-fuzz-", ignore_cleanup_errors=True) as scratch:
        kept = corpus if corpus is not None else Path(scratch)
        failed, reached, first = kept / name, kept / f"{name}-reached", Path(scratch) / "seeds"
        for folder in (failed, reached, first):
            folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(seeds):
            (first / f"{number:03}").write_bytes(data)
        watch = fuzz.Watch(target, failed if corpus is not None else None)
        ends = time.monotonic() + seconds

        def one(data: bytes) -> None:
            watch(data)
            if time.monotonic() >= ends:
                figures = watch.figures() | {"reached": len(list(reached.iterdir()))}
                shutil.rmtree(scratch)  # nothing is unwound
                leave(figures)

        options = [
            f"-max_len={fuzz.LARGEST}", f"-seed={seed}", "-rss_limit_mb=0", "-detect_leaks=0",
            f"-artifact_prefix={failed}/crash-",
        ]  # fmt: skip
        folders = [str(folder) for folder in (reached, first, failed)]
        atheris.Setup([sys.argv[0], *options, *folders], one)
        atheris.Fuzz()


def _print_and_leave(figures: dict[str, Any]) -> None:
    print(json.dumps(figures), flush=True)
    os._exit(0)  # libFuzzer's own way out reports a fault


def main() -> None:
    """Parse, try, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    check_installed()
    guide(importlib.import_module("atheris"), a.name, a.seconds, a.corpus, _print_and_leave, a.seed)


if __name__ == "__main__":
    main()
