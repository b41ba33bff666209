"""Breed inputs for a parser's branches: `python -m fuzzing PARSER [FOLDER] [-option=value …]`.

Atheris (libFuzzer for Python, `pip install atheris`) counts the branches that an input reaches. It
must see modules before they are imported, so this one imports nothing that parses by itself. Inputs
that reach new code are added to FOLDER. It ends at the first fault (whose input is kept) or
after `-max_total_time=SECONDS`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Whose branches count. Not all: what numpy or FastAPI does at import would be instrumented, too,
# which takes a minute and drowns the parsers.
INSTRUMENTED = ["aiortc", "aioice", "server", "fuzzing.parsers"]
# Inputs are as large as messages are; memory and time are limited by the target.
OPTIONS = ("-max_len=65536", "-rss_limit_mb=0", "-detect_leaks=0")


def fuzz(atheris: Any, name: str, rest: Sequence[str], seeds: Path) -> None:
    """Try one parser until libFuzzer ends the process.

    Args:
        atheris: the module.
        name: of `fuzzing.parsers.targets`.
        rest: further options and folders of libFuzzer.
        seeds: a folder for valid inputs.

    Raises:
        SystemExit: no parser of that name.
    """
    with atheris.instrument_imports(include=INSTRUMENTED):
        from fuzzing.parsers import attempt, targets
        from lipwire.server.ops.memory import set_aside

        known = targets()
        if name not in known:
            raise SystemExit(f"no parser {name!r}; there are {', '.join(known)}")
        target = known[name]()
        for number, data in enumerate(target.seeds()):
            (seeds / f"{number:03}").write_bytes(data)
            attempt(target, data)  # what is imported when first used is instrumented, too
    # As the server does: else an input is blamed for the collector's 60 ms among the libraries.
    set_aside()
    folders = [word for word in rest if not word.startswith("-")]
    options = [word for word in rest if word.startswith("-")]
    atheris.Setup(
        [sys.argv[0], *OPTIONS, *options, *folders, str(seeds)], lambda data: attempt(target, data)
    )
    atheris.Fuzz()


def main(words: Sequence[str]) -> None:
    """Parse the command line and fuzz."""
    if not words or words[0].startswith("-"):
        raise SystemExit(__doc__)
    if importlib.util.find_spec("atheris") is None:
        raise SystemExit("this needs atheris: pip install atheris")
    with tempfile.TemporaryDirectory(prefix="lipwire-fuzz-") as scratch:
        fuzz(importlib.import_module("atheris"), words[0], words[1:], Path(scratch))


if __name__ == "__main__":
    main(sys.argv[1:])
