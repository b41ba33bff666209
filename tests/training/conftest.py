"""Prepared shards of clips that the tests make."""

from __future__ import annotations

from pathlib import Path

import pytest
from clips import write_clip


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve speakers' clips, prepared; the tenth speaker is the held-out one."""
    from training.prepare import prepare

    source = tmp_path_factory.mktemp("clips")
    for number in range(10):
        (source / f"speaker{number:02d}").mkdir()
        write_clip(source / f"speaker{number:02d}" / f"clip{number}.mp4")
    write_clip(source / "speaker00" / "mute.mp4", sound=False)
    write_clip(source / "speaker01" / "faceless.mp4", blank=True)
    (source / "speaker02" / "broken.mp4").write_bytes(b"not a film")
    out = tmp_path_factory.mktemp("shards")
    prepare(source, out, workers=1)
    return out
