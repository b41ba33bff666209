from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lipwire.engine.errors import LipwireError
from lipwire.training.processes import in_processes

REPO = Path(__file__).resolve().parents[2]


def test_results_of_every_task() -> None:
    assert sorted(in_processes(abs, [-3, 2, -1], 2)) == [1, 2, 3]
    assert list(in_processes(abs, [], 2)) == []


def test_a_killed_worker_is_an_error() -> None:
    with pytest.raises(LipwireError, match="a worker was killed"):
        list(in_processes(os._exit, [1], 1))


def test_a_failing_task_raises_its_own_error() -> None:
    with pytest.raises(FileNotFoundError):
        list(in_processes(os.listdir, ["/does/not/exist"], 1))


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(wish: signal.Signals) -> None:
    # One write for a line: print() may make two, and the other worker's would come between.
    task = "import os, time; os.write(1, b'up\\n'); time.sleep(600)"
    code = (
        # A shell that runs the tests in the background has Ctrl-C ignored for all below it.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lipwire.training.processes import in_processes\n"
        f"if __name__ == '__main__': list(in_processes(exec, 2 * [{task!r}], 2))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    ) as program:
        try:
            assert program.stdout is not None
            assert [program.stdout.readline() for _ in range(2)] == [b"up\n", b"up\n"]
            program.send_signal(wish)
            # Their ends of the pipes close when the last is gone: 600 s later, were one left.
            _, errors = program.communicate(timeout=120)
        finally:
            program.kill()
    assert (b"KeyboardInterrupt" in errors) == (wish == signal.SIGINT)
