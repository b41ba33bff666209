"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference numbers and clips kept beside the checkout; optional everywhere but on CI."""
    path = Path(os.environ.get("LIPWIRE_SHARED", REPO.parent / "shared"))
    if not (path / "goldens").is_dir():
        pytest.skip(f"reference data not found at {path} (set LIPWIRE_SHARED to its folder)")
    return path
