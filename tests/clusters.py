"""A cluster as seen from outside: a publisher, a viewer, and what is said of its nodes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from calling import calling
from calls import until

from lipwire.benchmarks.rig.chromium import find_chromium, headless

PATIENCE_S = 120.0  # of a machine that has other things to do


class Watched:
    """When each picture came, of a publisher or of a viewer."""

    def __init__(self, times_s: list[float]) -> None:
        self.times_s = times_s

    async def more(self, pictures: int) -> None:
        """Wait until so many more have come."""
        enough = len(self.times_s) + pictures
        await until(lambda: len(self.times_s) >= enough, "pictures come", PATIENCE_S)

    def longest_s(self, since_s: float) -> float:
        """The longest time without a picture."""
        times_s = np.array([since_s, *(t for t in self.times_s if t > since_s)])
        return float(np.diff(times_s).max(initial=0))


@contextlib.asynccontextmanager
async def publishing(url: str, name: str, token: str | None = None) -> AsyncIterator[Watched]:
    """A call that sends 25 pictures a second, and connects again by itself."""
    async with calling(url, name=name, token=token) as made:
        yield Watched(made.times_s)
        for event in made.told("lost"):
            print(f"  {name}: {event['why']}")


@contextlib.asynccontextmanager
async def viewing(url: str, name: str, token: str | None = None) -> AsyncIterator[Watched]:
    """The shipped page `/view/NAME` in a Chromium that nobody clicks into."""
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    from playwright.async_api import async_playwright

    seen = Watched([])
    async with async_playwright() as playwright:
        options = headless(program, "--allow-loopback-in-peer-connection")
        browser = await playwright.chromium.launch(**options)
        page = await browser.new_page()
        await page.goto(f"{url}/view/{name}#quiet" + (f"&token={token}" if token else ""))

        async def count() -> None:
            last = 0
            while True:
                shown = await page.evaluate(
                    "document.getElementById('video').getVideoPlaybackQuality().totalVideoFrames"
                )
                if shown != last:
                    last = shown
                    seen.times_s.append(time.monotonic())
                await asyncio.sleep(0.05)

        task = asyncio.create_task(count())
        try:
            yield seen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await browser.close()


def server_of(node: str) -> int:
    """The process of a node's server."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"LIPWIRE_NODE={node}".encode() in path.read_bytes().split(b"\0"):
                return int(path.parent.name)
    raise AssertionError(f"node {node} has no server")


async def nodes_of(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    """What the Director says of the nodes."""
    with contextlib.suppress(httpx.HTTPError):
        return list((await http.get("/readyz")).json()["nodes"])
    return []


async def wait_for(what: str, condition: Callable[[], Any]) -> float:
    """Seconds until a coroutine's answer is true."""
    began_s = time.monotonic()
    while not await condition():
        assert time.monotonic() < began_s + PATIENCE_S, what
        await asyncio.sleep(0.1)
    return time.monotonic() - began_s


async def followed(
    http: httpx.AsyncClient, session: str, old: str, publisher: Watched, viewer: Watched
) -> None:
    """Wait until a session is under its name on another node than `old`, and is seen there."""

    async def elsewhere() -> bool:
        return await node_of(http, session) not in (None, old)

    await wait_for("under its name on another node", elsewhere)
    await publisher.more(50)
    await viewer.more(25)


async def node_of(http: httpx.AsyncClient, session: str) -> str | None:
    """Where a session runs."""
    with contextlib.suppress(httpx.HTTPError):
        listed = (await http.get("/api/sessions")).json()
        return next((each["node"] for each in listed if each["id"] == session), None)
    return None
