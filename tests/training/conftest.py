"""Prepared shards of clips that the tests make, and a clean slate for accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clips import write_clip


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers' clips, prepared, beside three that cannot be; speaker09 is held out."""
    from lipwire.training.data.prepare import prepare

    source = tmp_path_factory.mktemp("clips")
    for number in (0, 1, 2, 9):
        (source / f"speaker{number:02d}").mkdir()
        # Names of different lengths: the mouths of `write_clip` follow them.
        write_clip(source / f"speaker{number:02d}" / f"clip{'0' * number}.mp4")
    write_clip(source / "speaker00" / "mute.mp4", frames=8, sound=False)
    write_clip(source / "speaker01" / "faceless.mp4", frames=8, blank=True)
    (source / "speaker02" / "broken.mp4").write_bytes(b"not a film")
    out = tmp_path_factory.mktemp("shards")
    prepare(source, out, workers=1)
    return out


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Precision and device are process-wide in accelerate; a test must not inherit them."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)
