from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lipwire.engine.model.bundle import DEFAULT_BUNDLE


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """A copy of the shipped bundle, to be changed; its checksums are put right by `reseal`."""
    path = tmp_path / "spoilt"
    shutil.copytree(DEFAULT_BUNDLE, path)
    return path
