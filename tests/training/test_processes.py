from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.errors import LipwireError
from training.processes import in_processes

REPO = Path(__file__).resolve().parents[2]


def test_results_of_every_task() -> None:
    assert sorted(in_processes(abs, [-3, 2, -1], 2)) == [1, 2, 3]
    assert list(in_processes(abs, [], 2)) == []


def test_a_fresh_process_for_every_task() -> None:
    pids = list(in_processes(os.getpgid, [0, 0, 0], 1, fresh=True))
    assert len(pids) == 3


def test_a_killed_worker_is_an_error() -> None:
    with pytest.raises(LipwireError, match="a worker was killed"):
        list(in_processes(os._exit, [1], 1))


def test_a_failing_task_raises_its_own_error() -> None:
    with pytest.raises(FileNotFoundError):
        list(in_processes(os.listdir, ["/does/not/exist"], 1))


def test_an_interrupt_ends_the_workers_too() -> None:
    code = (
        "import time\nfrom training.processes import in_processes\n"
        "if __name__ == '__main__':\n"
        "    print('begun', flush=True)\n"
        "    list(in_processes(time.sleep, [600, 600], 2))\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert program.stdout is not None
    assert program.stdout.readline() == b"begun\n"
    time.sleep(2)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)  # would be 600 s with the workers alive
    assert b"KeyboardInterrupt" in errors
