"""The examples as users run them; those for Pipecat and LiveKit: tests/clients, `make clients`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import pytest
from clips import write_clip

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_a_film_is_relipped_live(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mp4", 50)
    command = [sys.executable, EXAMPLES / "relip.py", film, film, "-o", tmp_path / "out.mp4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert out.streams.video[0].frames > 0 and out.streams.audio[0].frames > 0
        assert "AI-generated" in out.metadata["comment"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_says_how_it_is_run(path: Path) -> None:
    code = compile(path.read_text(), path.name, "exec")
    assert f"examples/{path.name}" in (code.co_consts[0] or "")
