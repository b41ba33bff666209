"""Two servers behind the real HAProxy and deploy/haproxy.cfg: owners, drains, upgrades, a death."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import re
import socket
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from calling import Calling, calling
from calls import tone, until
from served import Served
from websockets.asyncio.client import connect
from whip_client import Client

REPO = Path(__file__).resolve().parents[2]
# All requests come from one address.
SETTINGS = {"rate_per_s": 1000, "rate_burst": 1000, "drain_s": 60}
AGAIN_S, STILL_S = 0.25, 2.0  # as the page's player has them


def free_port() -> int:
    """A TCP port that nobody has just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Proxied:
    """Servers a and b, and HAProxies before them, of which clients use the first that lives."""

    def __init__(self, haproxy: str, folder: Path, proxies: int = 1, **settings: Any) -> None:
        self.nodes = {
            node: Served(node=node, agent_port=free_port(), **{**SETTINGS, **settings})
            for node in "ab"
        }
        text = (REPO / "deploy" / "haproxy.cfg").read_text()
        for node, served in self.nodes.items():
            address = served.url.removeprefix("http://")
            agent = f" agent-port {served.settings['agent_port']}"
            text, count = re.subn(rf"(server {node}) [0-9.:]+", rf"\1 {address}", text)
            assert count == 2
            text = text.replace(f"{address}\n", f"{address}{agent}\n", 1)
        if proxies > 1:
            text = re.sub(r"^#(peers| +peer )", r"\1", text, flags=re.MULTILINE)
            text = text.replace("expire 24h\n", "expire 24h peers proxies\n", 1)
            for peer in ("one", "two"):
                text = re.sub(rf"(peer {peer}) [0-9.:]+", rf"\1 127.0.0.1:{free_port()}", text)
        self.urls: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for name in ("one", "two")[:proxies]:
            self._folder, port = folder / name, free_port()
            self._folder.mkdir()
            file = self._folder / "haproxy.cfg"
            own = text.replace("/run/haproxy", str(self._folder))
            file.write_text(own.replace(":8080\n", f"127.0.0.1:{port}\n", 1))
            command = [haproxy, "-q", "-L", name, "-f", file]
            self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            self.urls.append(f"http://127.0.0.1:{port}")

    @property
    def url(self) -> str:
        """Of the first HAProxy that lives."""
        return self.urls[0]

    def kill_proxy(self) -> None:
        """End the first HAProxy."""
        process = self._processes.pop(0)
        process.kill()
        process.wait()
        del self.urls[0]

    def close(self) -> None:
        """End all of it."""
        while self._processes:
            self.kill_proxy()
        for each in self.nodes.values():
            each.kill()

    def weights(self) -> dict[str, int]:
        """What HAProxy knows of those that are alive: its `show stat`."""
        rows = csv.DictReader(self._asked("show stat"))
        return {
            row["svname"]: int(row["weight"])
            for row in rows
            if row["# pxname"] == "lipwire"
            and row["svname"] in self.nodes
            and row["status"] == "UP"
        }

    def known(self) -> set[str]:
        """The sessions that the last HAProxy knows the server of."""
        return set(re.findall(r" key=(\S+)", "".join(self._asked("show table lipwire"))))

    def _asked(self, command: str) -> list[str]:
        """What the last HAProxy answers to an operator, in lines."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self._folder / "admin.sock"))
            admin.sendall(f"{command}\n".encode())
            return list(admin.makefile())

    async def ready(self, nodes: str = "ab") -> None:
        """Wait until new calls go to these nodes and no other."""
        for _ in range(300):
            with contextlib.suppress(OSError):
                weights = self.weights()
                if {node for node, weight in weights.items() if weight > 0} == {*nodes}:
                    return
            await asyncio.sleep(0.1)
        raise AssertionError(f"new calls never went to {nodes}")


@pytest.fixture
def proxied(haproxy: str, tmp_path: Path) -> Iterator[Proxied]:
    """Two servers of four calls each."""
    made = Proxied(haproxy, tmp_path, max_sessions=4)
    yield made
    made.close()


@pytest.fixture
async def http(proxied: Proxied) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the proxy."""
    async with httpx.AsyncClient(base_url=proxied.url, timeout=20) as made:
        await proxied.ready()
        yield made


def node_of(location: str) -> str:
    """Whose address it is."""
    found = re.fullmatch("/n/([ab])/(whip|whep)/.+", location)
    assert found, location
    return found[1]


async def watching(http: httpx.AsyncClient, name: str) -> Client:
    """A viewer, as soon as there is something to see."""
    viewer = Client(http).watch()
    for _ in range(100):
        if (await viewer.post(f"/whep/live/{name}")).status_code == 201:
            return viewer
        await asyncio.sleep(0.1)
    raise AssertionError("nothing to watch")


@contextlib.asynccontextmanager
async def called(proxied: Proxied, name: str) -> AsyncIterator[Calling]:
    """A call through the proxy, whose pictures come back."""
    async with calling(proxied.url, name=name, fps=5) as made:
        await until(lambda: len(made.pictures) > 2, "pictures come back")
        yield made


async def follow(http: httpx.AsyncClient, name: str, seen: list[float]) -> None:
    """Watch a name as the page does: when nothing comes any more, ask again."""
    while True:
        async with Client(http).watch() as viewer:
            with contextlib.suppress(httpx.HTTPError):
                if (await viewer.post(f"/whep/{name}")).status_code == 201:
                    count, since = 0, time.monotonic()
                    while time.monotonic() < since + STILL_S:
                        await asyncio.sleep(0.05)
                        if viewer.pictures and id(viewer.pictures[-1]) != count:
                            count, since = id(viewer.pictures[-1]), time.monotonic()
                            seen.append(since)
        await asyncio.sleep(AGAIN_S)


async def test_whatever_belongs_to_a_session_goes_to_its_server(
    proxied: Proxied, http: httpx.AsyncClient
) -> None:
    async with contextlib.AsyncExitStack() as peers:
        publishers = {}
        for name in ("one", "two"):
            peer = await peers.enter_async_context(Client(http).publish())
            assert (await peer.post(f"/whip/live/{name}?consent=true")).status_code == 201
            publishers[name] = peer
        owners = {name: node_of(peer.location) for name, peer in publishers.items()}
        assert sorted(owners.values()) == ["a", "b"]
        listed = {}
        for node in "ab":
            for entry in (await http.get(f"/n/{node}/api/sessions")).json():
                listed[entry["id"]] = entry["node"]
        assert listed == owners

        for name, peer in publishers.items():
            async with await watching(http, name) as viewer:
                await until(lambda v=viewer: len(v.pictures) > 3, "seen by the name")
                assert node_of(viewer.location) == owners[name]
                headers = {
                    "Content-Type": "application/trickle-ice-sdpfrag",
                    "If-Match": viewer.etag,
                }
                own = next(
                    line
                    for line in viewer.pc.localDescription.sdp.splitlines()
                    if line.startswith("a=ice-ufrag")
                )
                patched = await http.patch(viewer.location, content=own + "\r\n", headers=headers)
                assert patched.status_code == 204, patched.text
                assert (await http.delete(viewer.location)).status_code == 200
            address = f"{proxied.url.replace('http', 'ws')}/api/sessions/{name}/speech?rate=24000"
            async with connect(address) as voice:
                await voice.send(tone(0.5, 300, 24_000).tobytes())
                await voice.send(json.dumps({"type": "flush"}))
                kinds = {json.loads(await voice.recv())["type"] for _ in range(3)}
                assert kinds == {"ready", "begins", "flushed"}
            async with Client(http).publish() as other:
                taken = await other.post(f"/whip/live/{name}?consent=true")
                assert taken.status_code == 409, "on all of them"
            assert (await http.get(peer.location)).status_code == 200
            assert (await http.delete(peer.location)).status_code == 200

        unnamed = await peers.enter_async_context(Client(http).publish())
        assert (await unnamed.post("/whip?consent=true")).status_code == 201
        async with Client(http).watch() as viewer:
            session = unnamed.location.split("/")[-1]
            await until(lambda: unnamed.pc.connectionState == "connected", "connected")
            assert (await viewer.post(f"/whep/{session}")).status_code in (201, 409)  # not 404
    direct = httpx.AsyncClient(base_url=proxied.nodes["a"].url)
    async with direct:
        assert (await direct.get("/n/a/api/info")).json()["node"] == "a"
        wrong = await direct.get("/n/b/api/info")
        assert wrong.status_code == 421 and "node a" in wrong.json()["error"]


async def test_a_full_server_is_passed_over(haproxy: str, tmp_path: Path) -> None:
    proxied = Proxied(haproxy, tmp_path, max_sessions=1)
    try:
        async with httpx.AsyncClient(base_url=proxied.url, timeout=20) as http:
            await proxied.ready()
            async with Client(http).publish() as one, Client(http).publish() as two:
                # At once: the second finds a full server and is sent on.
                assert (await one.post("/whip?consent=true")).status_code == 201
                assert (await two.post("/whip?consent=true")).status_code == 201
                assert {node_of(one.location), node_of(two.location)} == {"a", "b"}
                async with Client(http).publish() as three:
                    for _ in range(3):  # told by a server, and by HAProxy once it knows
                        refused = await three.post("/whip?consent=true")
                        assert refused.status_code == 503 and refused.json()["error"]
                        assert refused.headers["retry-after"] == "5"
                        await asyncio.sleep(1)
                assert (await http.get(one.location)).status_code == 200  # it is still found
    finally:
        proxied.close()


async def test_another_proxy_knows_where_names_are(haproxy: str, tmp_path: Path) -> None:
    """The first has died: what it learned is the second's, and media has noticed nothing."""
    proxied = Proxied(haproxy, tmp_path, proxies=2, max_sessions=4)
    try:
        await proxied.ready()
        async with contextlib.AsyncExitStack() as running:
            first = await running.enter_async_context(httpx.AsyncClient(base_url=proxied.url))
            for number in range(4):
                peer = await running.enter_async_context(Client(first).publish())
                answer = await peer.post(f"/whip/live/call{number}?consent=true")
                assert answer.status_code == 201, answer.text
            await until(lambda: len(proxied.known()) == 4, "the other proxy is told")
            proxied.kill_proxy()
            async with httpx.AsyncClient(base_url=proxied.url, timeout=20) as http:
                for number in range(4):
                    for _ in range(3):  # by chance one in two would go right
                        answer = await http.get(f"/api/sessions/call{number}/stats")
                        assert answer.status_code == 200, answer.text
                async with await watching(http, "call3") as viewer:
                    await until(lambda: len(viewer.pictures) > 3, "seen through the other")
    finally:
        proxied.close()


async def test_no_call_is_dropped_by_an_upgrade(proxied: Proxied, http: httpx.AsyncClient) -> None:
    """One server after the other stops and starts again; each call ends when it wants to."""
    calls = 0
    for node, other in ("ab", "ba"):
        async with contextlib.AsyncExitStack() as running:
            made = []
            for number in range(2):
                made.append(await running.enter_async_context(called(proxied, f"{node}{number}")))
            proxied.nodes[node].stop()
            await proxied.ready(other)
            # And one that comes meanwhile.
            made.append(await running.enter_async_context(called(proxied, f"{node}late")))
            on_it = (await http.get(f"/n/{node}/api/sessions")).json()
            assert on_it, "it drains with calls on it"
            async with await watching(http, on_it[0]["id"]) as viewer:  # who comes late to them
                await until(lambda v=viewer: len(v.pictures) > 3, "seen")
                assert node_of(viewer.location) == node
            for each in made:
                count = len(each.pictures)
                await until(lambda e=each, c=count: len(e.pictures) > c + 3, "it goes on")
                assert each.call.reconnects == 0
            calls += len(made)
        assert proxied.nodes[node].wait() == 0, "it ends with the last of its calls"
        proxied.nodes[node].start()
        await proxied.ready()
    print(f"rolling upgrade of two nodes: 0 of {calls} calls dropped")


async def test_a_killed_server_is_replaced(proxied: Proxied, http: httpx.AsyncClient) -> None:
    """Under the same name, for publisher and viewer."""
    watched: list[float] = []
    async with called(proxied, "studio") as made:
        seen = made.times_s
        viewer = asyncio.create_task(follow(http, "studio", watched))
        await until(lambda: len(watched) > 3, "somebody watches")
        for _ in range(int(os.environ.get("LIPWIRE_KILLS", "1"))):
            (owner,) = [
                node
                for node in "ab"
                if "studio" in str((await http.get(f"/n/{node}/api/sessions")).text)
            ]
            other = "b" if owner == "a" else "a"
            proxied.nodes[owner].kill()
            killed_s = time.monotonic()
            # What was under way has come by then.
            await until(lambda t=killed_s: seen[-1] > t + 0.5, "its publisher is back", 60)
            await until(lambda t=killed_s: watched[-1] > t + 0.5, "its viewer is back", 60)
            back_s = [
                next(at for at in times if at > killed_s + 0.5) - killed_s
                for times in (seen, watched)
            ]
            print(
                f"pictures again after the death of a server: {back_s[0]:.1f} s at the "
                f"publisher, {back_s[1]:.1f} s at a viewer"
            )
            assert "studio" in (await http.get(f"/n/{other}/api/sessions")).text
            proxied.nodes[owner].start()
            await proxied.ready()
        assert made.call.reconnects > 0
        viewer.cancel()
        await asyncio.gather(viewer, return_exceptions=True)


async def test_answers_are_the_same_as_without(proxied: Proxied, http: httpx.AsyncClient) -> None:
    """And how much later they come; printed."""
    took: dict[str, list[float]] = {"direct": [], "proxied": []}
    async with httpx.AsyncClient(base_url=proxied.nodes["a"].url) as direct:
        for _ in range(200):
            for way, client in (("direct", direct), ("proxied", http)):
                begun = time.perf_counter()
                answer = await client.get("/n/a/api/sessions")
                took[way].append((time.perf_counter() - begun) * 1000)
                assert answer.json() == []
    for share, name in ((1, "p10"), (5, "p50")):
        direct_ms, proxied_ms = (statistics.quantiles(v, n=10)[share - 1] for v in took.values())
        print(f"{name}: the proxy adds {proxied_ms - direct_ms:.2f} ms to {direct_ms:.2f} ms")
