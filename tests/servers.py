"""Fixtures of the server's tests: an engine that paints stripes, and a server around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from calls import HttpCall, Running, StripedBackend, http_call, keep_aiortc
from fakes import FakeBackend, FakeTracker, SceneTracker

from lipwire.engine import Engine


@pytest.fixture(autouse=True)
def untouched_aiortc(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server replaces in aiortc and aioice is put back after each test."""
    keep_aiortc(monkeypatch)


@pytest.fixture
def backend() -> FakeBackend:
    """The model of `engine`."""
    return StripedBackend()


@pytest.fixture
def tracker() -> SceneTracker:
    """The tracker of every session of `engine`, for a test that asks for it."""
    return SceneTracker()


@pytest.fixture
def engine(backend: FakeBackend, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine whose model paints stripes on whatever face it is told."""
    wanted = "tracker" in request.fixturenames
    scene = request.getfixturevalue("tracker") if wanted else None
    make = FakeTracker if scene is None else lambda: scene
    with Engine(backend, make) as made:
        yield made


@pytest.fixture
def server(engine: Engine) -> Iterator[Running]:
    """A server of at most two calls."""
    with Running(engine, max_sessions=2, max_upload_mb=2) as running:
        yield running


@pytest.fixture
async def client(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of `server`."""
    async with httpx.AsyncClient(base_url=server.url, timeout=20) as made:
        yield made


@pytest.fixture
async def call(client: httpx.AsyncClient) -> AsyncIterator[HttpCall]:
    """A call of `server`, connected."""
    async with http_call(client) as made:
        yield made
