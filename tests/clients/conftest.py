"""Servers in processes of their own, for those who call them with aiortc as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from served import Served


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Starts servers, and ends them."""
    running: list[Served] = []

    def start(**settings: Any) -> Served:
        running.append(Served(**settings))
        return running[-1]

    yield start
    for each in running:
        each.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """A server for all tests of a module, each of which ends its calls."""
    made = Served()
    yield made
    made.kill()
