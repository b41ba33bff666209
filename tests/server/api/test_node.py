"""A server among several: its name in addresses, and how many calls it asks for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from calls import Running
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from whip_client import Client

from lipwire.engine import ConfigError, Engine
from lipwire.server.api.listener import listen_for_agent
from lipwire.server.api.node import serve_weight, weight
from lipwire.server.config import ServerConfig


def sessions(*rungs: str, places: int = 4, draining: bool = False) -> Any:
    """Sessions on these rungs."""
    calls = [SimpleNamespace(stats=lambda r=rung: SimpleNamespace(rung=r)) for rung in rungs]

    class Some(list[Any]):
        pass

    some: Any = Some(calls)
    some.peers, some.draining = calls, draining
    some.settings = ServerConfig(max_sessions=places)
    return some


@pytest.mark.parametrize(
    ("some", "percent"),
    [
        (sessions(), 100),
        (sessions("full"), 75),
        (sessions("full", "half"), 31),  # half of the places, and of the sessions one is low
        (sessions("none", "none"), 1),  # it has places, and nobody should get them
        (sessions(*["full"] * 4), 0),
        (sessions(draining=True), 0),
    ],
    ids=["idle", "one", "overloaded", "drowned", "full", "draining"],
)
def test_a_server_wants_calls_by_its_room_and_its_quality(some: Any, percent: int) -> None:
    assert weight(some) == percent


async def test_haproxy_is_told() -> None:
    with listen_for_agent(ServerConfig(agent_port=0)) as listener:
        assert listener is not None
        port = listener.getsockname()[1]
        served = await serve_weight(sessions("full"), listener)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b"up 75%\n"
        writer.close()
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            listen_for_agent(ServerConfig(agent_port=port))
        served.close()


async def test_a_server_answers_to_its_name_alone(engine: Engine) -> None:
    with Running(engine, node="a") as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as http:
            async with Client(http).publish() as made:
                assert (await made.post("/n/a/whip/live/studio?consent=true")).status_code == 201
                assert made.location.startswith("/n/a/whip/live/studio/")
                (listed,) = (await http.get("/n/a/api/sessions")).json()
                assert (listed["id"], listed["node"]) == ("studio", "a")
                assert (await http.get(made.location.removeprefix("/n/a"))).status_code == 200
                # What it can be is what is behind the name: routes, their rights and limits.
                assert (await http.get("/n/a/n/a/healthz")).status_code == 404
                refused = await http.delete(made.location.replace("/a/", "/b/", 1))
                assert refused.status_code == 421 and "this is node a" in refused.json()["error"]
                socket = f"{server.url.replace('http', 'ws')}/n/b/api/sessions/studio/speech"
                with pytest.raises(InvalidStatus, match="421"):
                    await connect(socket)
                assert (await http.delete(made.location)).status_code == 200
