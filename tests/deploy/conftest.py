"""Programs of others that judge what is in deploy/."""

from __future__ import annotations

import os
import shutil

import pytest


def found(name: str, how: str) -> str:
    """Where a program is."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed: {how}")
    return path


@pytest.fixture
def haproxy() -> str:
    """HAProxy."""
    return found("haproxy", "apt-get install haproxy")


@pytest.fixture
def promtool() -> str:
    """Prometheus' own judge of rules."""
    return found("promtool", "apt-get install prometheus")
