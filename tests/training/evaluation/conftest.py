"""Clips that the tests make, and a list of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from clips import write_clip


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips with a face and a voice, one without a face, one without a voice, one broken."""
    folder = tmp_path_factory.mktemp("root")
    for number in range(4):
        # Names of different lengths: the mouths of `write_clip` follow them.
        write_clip(folder / f"clip{'x' * number}.mp4", frames=16)
    write_clip(folder / "faceless.mp4", frames=12, blank=True)
    write_clip(folder / "mute.mp4", frames=12, sound=False)
    (folder / "broken.mp4").write_bytes(b"not a film")
    return folder


@pytest.fixture
def reconstruction(tmp_path: Path) -> Path:
    """A list of the good clips."""
    path = tmp_path / "good.txt"
    path.write_text("".join(f"clip{'x' * n} clip{'x' * n}\n" for n in range(4)), encoding="utf-8")
    return path
