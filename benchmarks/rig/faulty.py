"""A server whose model fails on demand: `python -m lipwire.benchmarks.rig.faulty FILE`, settings by
LIPWIRE_*.

What the file says happens to the next batches: `raise`, `hang`, `memory`; nothing: they succeed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lipwire.engine.backends.articulation
import lipwire.engine.runtime.open
import lipwire.server.api.app
from lipwire.engine.backends import Backend, load_backend
from lipwire.engine.errors import BackendError
from lipwire.engine.types import U8, LipJob
from lipwire.server.config import load_config

HANG_S = 30.0  # at most: a file that is never cleared must not hold a process


class FaultyBackend:
    """Another backend, until the file says otherwise."""

    def __init__(self, inner: Backend, file: Path) -> None:
        self._inner, self._file = inner, file
        self.manifest, self.batch_sizes = inner.manifest, inner.batch_sizes
        self.description = inner.description

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        match fault := self._file.read_text():
            case "raise":
                raise BackendError("the runtime failed, as it was told to")
            case "memory":
                raise MemoryError("no memory, as it was told")
            case "hang":
                ends = time.monotonic() + HANG_S
                while self._file.read_text() == fault and time.monotonic() < ends:
                    time.sleep(0.05)
        return self._inner.generate(jobs)

    def close(self) -> None:
        """Close the other one."""
        self._inner.close()


def main() -> None:
    file = Path(sys.argv[1])

    def loaded(*arguments: Any, **options: Any) -> Backend:
        return FaultyBackend(load_backend(*arguments, **options), file)

    replaced: Any = lipwire.engine.runtime.open
    replaced.load_backend = loaded
    # Every mouth is generated: the person's own ones need no model, and no fault would be seen.
    articulation: Any = lipwire.engine.backends.articulation
    articulation.open_articulation = lambda bundle: None
    lipwire.server.api.app.serve(load_config())


if __name__ == "__main__":
    main()
