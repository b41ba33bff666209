"""The script for the first GPU, with programs that stand for those of such a machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_check.sh"


def run(folder: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """The script, with these programs before all others."""
    stubs = folder / "bin"
    stubs.mkdir(exist_ok=True)
    for name, body in programs.items():
        path = stubs / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    return subprocess.run(
        [str(SCRIPT), str(folder / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}"},
    )


def test_without_a_gpu_it_says_so_and_ends(tmp_path: Path) -> None:
    done = run(tmp_path, nvidia_smi="exit 9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpu_check: nvidia-smi finds no GPU here\n"
    done = run(tmp_path, nvidia_smi="exit 0", python="exit 1")
    assert done.returncode == 2 and "torch sees no GPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_does_not_run_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    programs = {"nvidia_smi": "echo 'GPU 0: some'", "python": "exit 0"}
    done = run(tmp_path, **programs, lipwire='echo "$@"; [ "$1 $6" != "bench 4" ]')
    assert done.returncode == 1 and done.stderr == "gpu_check: did not run: paper-4\n"
    assert [line.split(" (")[0] for line in done.stdout.splitlines()] == [
        "ran: doctor",
        "ran: tests",
        "ran: paper-1",
        "did not run: paper-4",
        "ran: paper-16",
    ]
    said = (tmp_path / "out" / "paper-16.txt").read_text()
    assert said.startswith("bench paper --device cuda:0 --batch 16")
    assert run(tmp_path, **programs, lipwire="exit 0").returncode == 0
