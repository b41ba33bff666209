"""The Director before two servers: it places, finds, forwards, and notices who is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from calling import calling
from calls import tone, until
from served import Served
from starlette.responses import Response
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from whip_client import Client

from lipwire.server.cluster.director import Director
from lipwire.server.cluster.node import look


@pytest.fixture
def start() -> Iterator[Callable[..., Served]]:
    """Starts nodes of one call each, and ends them."""
    running: list[Served] = []

    def begin(node: str, **settings: Any) -> Served:
        running.append(Served(node=node, max_sessions=1, **settings))
        return running[-1]

    yield begin
    for each in running:
        each.kill()


@contextlib.asynccontextmanager
async def directed(*nodes: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a Director that hears these nodes as their replicas would tell it."""
    director = Director()
    app = director.__serve_build_asgi_app__()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started, "the Director listens")
    port = server.servers[0].sockets[0].getsockname()[1]

    async def tell() -> None:
        async with contextlib.AsyncExitStack() as stack:
            asked = [
                await stack.enter_async_context(httpx.AsyncClient(base_url=n.url)) for n in nodes
            ]
            while True:
                for node, http in zip(nodes, asked, strict=True):
                    with contextlib.suppress(httpx.HTTPError):
                        await director.hear(await look(http, node.settings["node"]))
                await asyncio.sleep(0.1)

    telling = asyncio.create_task(tell())
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            await until(lambda: len(director.directory.nodes()) == len(nodes), "all are heard")
            yield client
    finally:
        telling.cancel()
        server.should_exit = True
        await serving


async def test_calls_are_spread_and_everything_finds_its_node(start: Callable[..., Served]) -> None:
    async with directed(start("a"), start("b")) as http:
        async with Client(http).publish() as one, Client(http).publish() as two:
            for name, publisher in (("one", one), ("two", two)):
                answer = await publisher.post(f"/whip/live/{name}?consent=true")
                assert answer.status_code == 201, answer.text
            assert {one.location.split("/")[2], two.location.split("/")[2]} == {"a", "b"}
            full = await http.post("/whip/live/three?consent=true", content=await one.offer())
            assert full.status_code == 503 and full.headers["retry-after"]
            assert {each["id"] for each in (await http.get("/api/sessions")).json()} == {
                "one",
                "two",
            }
            for name in ("one", "two"):
                async with Client(http).watch() as viewer:
                    while (await viewer.post(f"/whep/{name}")).status_code == 409:
                        await asyncio.sleep(0.1)
                    await until(lambda: len(viewer.pictures) > 3, f"{name} is seen")
                    assert (await http.delete(viewer.location)).status_code == 200
                socket = f"{http.base_url}/api/sessions/{name}/speech?rate=24000"
                async with connect(socket.replace("http", "ws")) as voice:
                    await voice.send(tone(0.5, rate_hz=24_000).tobytes())
                    await voice.send(json.dumps({"type": "flush"}))
                    async for message in voice:
                        if json.loads(message)["type"] == "flushed":
                            break
            assert (await http.delete(one.location)).status_code == 200
            await until_listed(http, {"two"})


async def until_listed(http: httpx.AsyncClient, names: set[str]) -> None:
    """Wait until just these sessions run."""
    for _ in range(100):
        listed = (await http.get("/api/sessions")).json()
        if {each["id"] for each in listed} == names:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"{listed} instead of {names}")


async def test_what_is_not_there_is_said(start: Callable[..., Served]) -> None:
    async with directed() as http:
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/api/info")).json() == {"error": "no node is running"}
        assert (await http.post("/whip", content="x")).status_code == 503
    async with directed(start("a")) as http:
        told = (await http.get("/readyz")).json()
        assert told["room"] == 1 and [each["node"] for each in told["nodes"]] == ["a"]
        assert (await http.get("/api/info")).json()["node"] == "a"
        for _ in range(3):  # what cannot begin takes no room of what can
            headers = {"Content-Type": "application/sdp"}
            wrong = await http.post("/whip?consent=true", content="no offer", headers=headers)
            assert wrong.status_code == 400
        assert (await http.get("/n/b/api/info")).status_code == 404
        assert (await http.get("/n/a/api/info")).status_code == 200
        assert "lipwire" in (await http.get("/")).text
        gone = await http.get("/api/sessions/nobody/stats")
        assert gone.status_code == 404 and "no session" in gone.json()["error"]
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"{http.base_url}/api/sessions/nobody/speech".replace("http", "ws")):
                pass
        assert refused.value.response.status_code == 404
        assert b"no session" in refused.value.response.body


async def test_a_page_of_the_director_s_own_origin_may_use_it_and_no_other(
    start: Callable[..., Served],
) -> None:
    """The servers compare a page's origin with the host that it asked, which is the Director's."""
    async with directed(start("a")) as http:
        own = {"Origin": str(http.base_url)}
        assert (await http.get("/api/info", headers=own)).status_code == 200
        other = {"Origin": "https://elsewhere.example"}
        assert (await http.get("/api/info", headers=other)).status_code == 403


async def test_only_a_proxy_that_is_trusted_says_of_whom_a_request_is() -> None:
    director, seen = Director(None, ("192.0.2.1",)), []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])
        await Response()(scope, receive, send)

    director.answer = answer  # type: ignore[method-assign]
    app = director.__serve_build_asgi_app__()
    for address in ("192.0.2.1", "192.0.2.9"):
        transport = httpx.ASGITransport(app=app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://cluster") as http:
            await http.get("/", headers={"X-Forwarded-For": "203.0.113.5"})
    assert seen == ["203.0.113.5", "192.0.2.9"]


async def test_a_call_whose_node_is_killed_goes_on_under_its_name_on_another(
    start: Callable[..., Served],
) -> None:
    nodes = {"a": start("a"), "b": start("b")}
    async with directed(*nodes.values()) as http:
        async with calling(str(http.base_url), name="studio") as made:
            await until(lambda: len(made.pictures) > 3, "it runs")
            (listed,) = (await http.get("/api/sessions")).json()
            nodes.pop(listed["node"]).kill()
            await until(lambda: made.call.reconnects == 1, "another node has it")
            seen = len(made.pictures)
            await until(lambda: len(made.pictures) > seen + 3, "pictures again")
            (listed,) = (await http.get("/api/sessions")).json()
            assert listed["id"] == "studio" and listed["node"] in nodes
            async with Client(http).watch() as viewer:
                assert (await viewer.post("/whep/studio")).status_code == 201
                await until(lambda: len(viewer.pictures) > 3, "its viewers find it")
