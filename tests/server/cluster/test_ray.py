"""`lipwire cluster` on a real Ray, with the model that ships and real media over loopback.

    pip install 'ray[serve]>=2.60,<3'           into the tests' environment
    pytest -n 0 -s tests/server/cluster/test_ray.py     -s shows the figures

It takes three minutes on two idle cores and 2.5 GB.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from clusters import followed, node_of, nodes_of, publishing, server_of, viewing, wait_for

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: lipwire[ray]"
    ),
]

PORT = 8791
SETTINGS = {"LIPWIRE_MAX_SESSIONS": "2", "LIPWIRE_DRAIN_S": "600", "LIPWIRE_THREADS": "1"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Its address: one node, and a second one when the first has a call."""
    arguments = ["--nodes", "1-2", "--spare", "1", "--cpus", "0.5", "--port", str(PORT)]
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "lipwire", "cluster", *arguments],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **SETTINGS},
    )
    try:
        url = f"http://127.0.0.1:{PORT}"
        while f"ready: open {url}" not in (tmp_path / "log").read_text():
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.5)
        yield url
    finally:
        for _ in range(2):  # the second does not wait for calls
            process.send_signal(signal.SIGINT)
            time.sleep(2)
        try:
            process.wait(60)
        finally:
            process.kill()
            log.close()


async def test_calls_go_on_when_nodes_are_killed_and_when_they_stop(cluster: str) -> None:
    import ray
    from ray import serve

    from lipwire.server.cluster.app import build
    from lipwire.server.cluster.node import APP

    async with httpx.AsyncClient(base_url=cluster, timeout=30) as http:

        async def two_nodes() -> bool:
            return sum(each["sessions"] + each["room"] > 0 for each in await nodes_of(http)) == 2

        assert len(await nodes_of(http)) == 1
        async with publishing(cluster, "studio") as publisher, viewing(cluster, "studio") as viewer:
            await publisher.more(25)
            took_s = await wait_for("a second node", two_nodes)
            print(f"\nautoscaling: a second node is ready {took_s:.1f} s after the first call")
            await viewer.more(25)
            for victim in ("server", "replica"):
                node = await node_of(http, "studio")
                assert node is not None
                server = server_of(node)
                replica = int(
                    Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1]
                )
                killed_s = time.monotonic()
                print(f"  {killed_s % 1000:.1f} s: {victim} is killed")
                os.kill(server if victim == "server" else replica, signal.SIGKILL)

                await followed(http, "studio", node, publisher, viewer)
                gaps = [f"{seen.longest_s(killed_s):.1f} s" for seen in (publisher, viewer)]
                print(
                    f"{victim} killed: no picture for {gaps[0]} at the publisher, {gaps[1]} at a "
                    "viewer"
                )
                assert not Path(f"/proc/{server}/cwd").exists()  # it does not outlive its replica
                await wait_for("a node in place of it", two_nodes)
                print(f"a node in place of it: {time.monotonic() - killed_s:.1f} s")

            direct, by_director = await asking(http, await node_of(http, "studio") or "")
            print(f"a request, p50 and p95: {direct} ms to the node, {by_director} through Ray")

            async with publishing(cluster, "other") as other:
                await other.more(25)
                # Each where there is most room.
                assert len({await node_of(http, name) for name in ("studio", "other")}) == 2
                # Deployed again with one node less: the one that stops keeps its call, and a new
                # Director finds it.
                ray.init(address="auto", log_to_driver=False)
                with pytest.MonkeyPatch.context() as patch:
                    for name, value in SETTINGS.items():
                        patch.setenv(name, value)
                    again = build({"nodes": "1", "cpus": 0.5, "host": "127.0.0.1", "port": PORT})
                deploying = asyncio.create_task(asyncio.to_thread(serve.run, again, name=APP))

                async def one_stops() -> bool:
                    nodes = await nodes_of(http)  # one that is too busy to answer has no sessions
                    return [each["weight"] for each in nodes if each["sessions"]].count(0) == 1

                await wait_for("a node stops", one_stops)
                await asyncio.gather(publisher.more(100), other.more(100))
                (stops,) = (each for each in await nodes_of(http) if not each["weight"])
                assert stops["sessions"] == 1 and server_of(stops["node"])
                listed = (await http.get("/api/sessions")).json()
                assert {each["id"] for each in listed} == {"studio", "other"}
        await deploying  # now that the calls have ended
        ray.shutdown()
        assert len(await nodes_of(http)) == 1


async def asking(http: httpx.AsyncClient, node: str) -> tuple[str, str]:
    """p50 and p95 of a request to a node itself, and through Ray and the Director."""
    found = []
    for url in (direct_url(node), str(http.base_url)):
        took_ms = []
        async with httpx.AsyncClient(base_url=url) as client:
            for _ in range(100):
                began_s = time.monotonic()
                assert (await client.get("/api/ice-servers")).status_code == 200
                took_ms.append((time.monotonic() - began_s) * 1000)
        found.append("{:.1f}, {:.1f}".format(*np.percentile(took_ms, (50, 95))))
    return found[0], found[1]


def direct_url(node: str) -> str:
    """Where a node's server listens."""
    pid = server_of(node)
    inodes = {
        os.readlink(path)[8:-1]
        for path in Path(f"/proc/{pid}/fd").iterdir()
        if os.readlink(path).startswith("socket:")
    }
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes and fields[3] == "0A":  # LISTEN
            return f"http://127.0.0.1:{int(fields[1].rpartition(':')[2], 16)}"
    raise AssertionError("it does not listen")
