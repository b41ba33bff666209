"""`lipwire cluster` on several hosts: a host with calls dies, or its cable is pulled, and returns.

Hosts are network namespaces (`tests/hosts.py`), so this is for root on Linux. It takes two to five
minutes on two cores.
"""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from clusters import (
    PATIENCE_S,
    Watched,
    followed,
    node_of,
    nodes_of,
    publishing,
    server_of,
    viewing,
    wait_for,
)
from hosts import Host, hosts, why_not

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: lipwire[ray]"
    ),
]

PORT, RAY_PORT = 8080, 6379
TOKEN = secrets.token_urlsafe(32)
RAY = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


@dataclass
class Cluster:
    """Hosts with Ray, and one without it for peers."""

    head: Host
    workers: list[Host]
    peers: Host

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.head.address}:{PORT}"

    def worker_of(self, node: str) -> Host:
        """The host that a node runs on."""
        server = server_of(node)
        return next(host for host in self.workers if server in host.processes())


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head, two hosts with a node each, and the peers' host, where the test itself runs."""
    if reason := why_not():
        pytest.skip(reason)
    with hosts(4) as (head, first, second, peers):
        made = Cluster(head, [first, second], peers)
        start_ray(head, "--head", "--port", str(RAY_PORT), "--include-dashboard=false", cpus=0)
        for host in made.workers:
            join_ray(host, head)
        process = head.start(
            *(sys.executable, "-m", "lipwire", "cluster", "--host", "0.0.0.0"),
            *("--port", str(PORT), "--nodes", "2", "--cpus", "1"),
            **RAY,
            RAY_ADDRESS=f"{head.address}:{RAY_PORT}",
            LIPWIRE_TOKEN=TOKEN,
            LIPWIRE_MAX_SESSIONS="2",
            LIPWIRE_THREADS="1",
        )
        while "lipwire is ready" not in head.log.read_text():
            assert process.poll() is None, head.log.read_text()[-3000:]
            time.sleep(0.5)
        with peers.inside():
            yield made


def start_ray(host: Host, *arguments: str, cpus: int) -> None:
    """Start Ray with these arguments there."""
    starting = host.start(
        *(sys.executable, "-m", "ray.scripts.scripts", "start", *arguments),
        *("--node-ip-address", host.address, "--num-cpus", str(cpus)),
        *("--temp-dir", str(host.folder / "ray"), "--object-store-memory", "100000000"),
        **RAY,
    )
    assert starting.wait(PATIENCE_S) == 0, host.log.read_text()[-3000:]


def join_ray(host: Host, head: Host) -> None:
    """Start Ray there, for one node."""
    start_ray(host, "--address", f"{head.address}:{RAY_PORT}", cpus=1)


async def test_a_call_goes_on_when_its_host_is_gone(cluster: Cluster) -> None:
    async with httpx.AsyncClient(
        base_url=cluster.url, timeout=10, headers={"Authorization": f"Bearer {TOKEN}"}
    ) as http:

        async def two_nodes() -> bool:
            return sum(each["room"] + each["sessions"] > 0 for each in await nodes_of(http)) == 2

        await wait_for("two nodes", two_nodes)
        assert {cluster.worker_of(each["node"]).name for each in await nodes_of(http)} == {
            host.name for host in cluster.workers
        }
        async with (
            publishing(cluster.url, "studio", TOKEN) as publisher,
            viewing(cluster.url, "studio", TOKEN) as viewer,
        ):
            await viewer.more(25)
            await check_path(cluster, await node_of(http, "studio") or "", publisher)

            for how in ("unplugged", "killed"):
                node = await node_of(http, "studio")
                assert node is not None
                host = cluster.worker_of(node)
                gone_s = time.monotonic()
                print(f"\n  {gone_s % 1000:.1f} s: {host.name} is {how}")
                if how == "killed":
                    host.kill()
                else:
                    host.plug(False)

                async def gone(old: str = node) -> bool:
                    return old not in [each["node"] for each in await nodes_of(http)]

                print(f"/readyz is without it after {await wait_for('gone', gone):.1f} s")

                await followed(http, "studio", node, publisher, viewer)
                gaps = [f"{seen.longest_s(gone_s):.1f} s" for seen in (publisher, viewer)]
                print(f"host {how}: no picture for {gaps[0]}, {gaps[1]} at a viewer")
                back_s = time.monotonic()
                if how == "killed":
                    await asyncio.to_thread(join_ray, host, cluster.head)
                    print(f"Ray is back there after {time.monotonic() - back_s:.1f} s")
                else:
                    host.plug(True)
                await wait_for("the host is used again", two_nodes)
                print(f"host back: a node is ready there after {time.monotonic() - back_s:.1f} s")


async def check_path(cluster: Cluster, node: str, publisher: Watched) -> None:
    """Media goes between the peers and the node's host, and not through the head."""
    watched = {"the node's host": cluster.worker_of(node), "the head": cluster.head}
    before = {name: host.datagrams() for name, host in watched.items()}
    await publisher.more(100)
    passed = {name: host.datagrams() - before[name] for name, host in watched.items()}
    print(f"\nUDP packets of 100 pictures: {passed}")
    assert passed["the node's host"] > 200 and passed["the head"] == 0
