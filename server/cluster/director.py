"""Director: one address for all nodes. It places calls, and forwards what belongs to them.

    POST /whip, /whip/live/{name}, /api/sessions[/{name}], PUT    to the node of that name, or the
                                                                  one that wants a call most
    /n/{node}/...                                                 to that node
    everything with a session in it                               to the node that runs it
    /readyz, GET /api/sessions                                    of all
    everything else                                               to any

Media does not pass: it goes over UDP between the peer and the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lipwire.server.cluster.directory import Directory, State
from lipwire.server.cluster.keepalive import OPTIONS, watch

log = logging.getLogger("ray.serve")

# A node on the same network answers within milliseconds. Longer: who was on a machine that vanished
# waits so long until it is placed elsewhere.
CONNECT_S = 1.5
RETRY_S = "2"  # a node that is started takes longer, one that is full may not
NODE = re.compile(r"/n/(?P<node>[^/]+)(?P<rest>/.*)")
PUBLISHES = re.compile(r"/whip|/whip/live/(?P<name>[^/]+)|/api/sessions(?:/(?P<other>[^/]+))?")
SESSION = re.compile(r"/(?:whip/live|whep/live|whip|whep|api/sessions)/(?P<name>[^/]+)(?:/.*)?")
# Of one connection and not of the message (RFC 9110 section 7.6.1).
HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"}
HOP |= {"upgrade"}
HOP_WS = HOP | {"host", "content-length"}  # the host stands in the address there
MAX_MESSAGE = 1024 * 1024  # as the servers take them


class NoNode(Exception):
    """Nobody can answer this."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.response = JSONResponse(
            {"error": text}, status, {"Retry-After": RETRY_S} if status == 503 else None
        )


class Director:
    """An ASGI application before the nodes that `hear` is told of.

    Args:
        nodes: their deployment; Ray starts what is named here.
        trusted_proxies: whose X-Forwarded-For is believed. Nodes believe the Director's.
    """

    def __init__(self, nodes: object = None, trusted_proxies: Sequence[str] = ()) -> None:
        self._trusted = list(trusted_proxies)
        self.directory = Directory()
        self._unnamed = itertools.count()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        # How long a request takes is the node's affair: it answers when a voice has been heard.
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            transport=httpx.AsyncHTTPTransport(limits=limits, socket_options=OPTIONS),
            trust_env=False,
        )

    def __serve_build_asgi_app__(self) -> Any:
        """What Ray Serve shows to the world; Starlette answers what else it asks."""
        app = Starlette(routes=[Mount("/", self.answer)], lifespan=self._lifespan)
        return ProxyHeadersMiddleware(app, self._trusted)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self._http:
            yield

    async def hear(self, state: State) -> None:
        """Note what a node says of itself."""
        self.directory.hear(state)

    async def lose(self, node: str) -> None:
        """A node says that its server has ended."""
        self.directory.forget(node)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(WebSocket(scope, receive, send))
        else:
            request = Request(scope, receive)
            try:
                response = await self._request(request)
            except NoNode as error:
                response = error.response
            await response(scope, receive, send)

    def _route(self, request: HTTPConnection) -> tuple[State, str, str | None]:
        """The node that shall answer, the path there, and under which name a call was placed."""
        path = request.url.path
        if (given := NODE.fullmatch(path)) is not None:
            if (state := self.directory.find(given["node"])) is None:
                raise NoNode(404, f"there is no node {given['node']}; it may have ended")
            return state, given["rest"], None
        method = request.scope.get("method", "GET")
        publishes = PUBLISHES.fullmatch(path) if method in ("POST", "PUT") else None
        named = publishes or SESSION.fullmatch(path)
        session = named and (named["name"] or named.groupdict().get("other"))
        state = self.directory.owner(session) if session else None
        if publishes is not None and (state is None or state.draining):
            placed = session or f"?{next(self._unnamed)}"
            if (state := self.directory.place(placed)) is None:
                raise NoNode(503, "all calls that the cluster takes are running")
            return state, path, placed
        state = state or self.directory.anyone()
        if state is None:
            raise NoNode(503, "no node is running")
        return state, path, None

    async def _request(self, request: Request) -> Response:
        path = request.url.path
        if path == "/healthz":
            return JSONResponse({"status": "ok"})
        if path == "/readyz":
            return self._ready()
        if path == "/api/sessions" and request.method == "GET":
            return await self._list(request)
        while True:
            state, path, placed = self._route(request)
            try:
                response = await self._forward(request, state, path)
                if placed is not None and response.status_code >= 400:
                    self.directory.release(placed)  # what strangers try takes no room
                return response
            except (httpx.ConnectError, httpx.ConnectTimeout):
                log.warning("node %s does not answer", state.node)
                self.directory.forget(state.node)  # nothing was sent: another one may have it
            except httpx.HTTPError as error:
                log.warning("node %s went away: %r", state.node, error)
                if placed is not None:
                    self.directory.release(placed)  # it is not sought there
                raise NoNode(502, f"node {state.node} went away: {error!r}") from error

    async def _forward(self, request: Request, state: State, path: str) -> Response:
        has_body = {"content-length", "transfer-encoding"} & set(request.headers)
        url = httpx.URL(state.url).copy_with(path=path, query=request.url.query.encode())
        asked = self._http.build_request(
            request.method,
            url,
            headers=_onward(request),
            content=request.stream() if has_body else None,
        )
        reply = await self._http.send(asked, stream=True)
        response = StreamingResponse(_body(reply), reply.status_code)
        response.raw_headers = [
            (name.lower(), value)
            for name, value in reply.headers.raw
            if name.decode().lower() not in HOP
        ]
        return response

    def _ready(self) -> Response:
        """Of the cluster, and each node of it."""
        nodes = self.directory.nodes()
        room = sum(state.room for state in nodes if state.weight)
        each = [
            {"node": s.node, "sessions": len(s.sessions), "room": s.room, "weight": s.weight}
            for s in nodes
        ]
        found = {"status": "ready" if nodes else "starting", "room": room, "nodes": each}
        return JSONResponse(found, 200 if nodes else 503)

    async def _list(self, request: Request) -> Response:
        """What each node lists for this token, in one list."""
        headers = _onward(request)
        replies = await asyncio.gather(
            *(
                self._http.get(f"{state.url}/api/sessions", headers=headers)
                for state in self.directory.nodes()
            ),
            return_exceptions=True,
        )
        found = [reply for reply in replies if isinstance(reply, httpx.Response)]
        refused = next((reply for reply in found if reply.is_error), None)
        if refused is not None:
            return Response(refused.content, refused.status_code, media_type="application/json")
        return JSONResponse([listed for reply in found for listed in reply.json()])

    async def _socket(self, socket: WebSocket) -> None:
        try:
            state, path, _ = self._route(socket)
            there = httpx.URL(state.url)
            asked = (
                f"ws://{socket.headers.get('host', there.netloc.decode())}{path}?{socket.url.query}"
            )
            node = await connect(
                asked,
                host=there.host,
                port=there.port,
                additional_headers=_onward(socket, HOP_WS),
                subprotocols=socket.scope["subprotocols"] or None,
                compression=None,
                max_size=MAX_MESSAGE,
                open_timeout=CONNECT_S,
                proxy=None,
            )
            watch(node.transport.get_extra_info("socket"))
        except NoNode as error:
            await socket.send_denial_response(error.response)
        except InvalidStatus as error:
            kind = error.response.headers.get("Content-Type")
            response = Response(
                bytes(error.response.body), error.response.status_code, media_type=kind
            )
            await socket.send_denial_response(response)
        except (OSError, TimeoutError):
            self.directory.forget(state.node)
            await socket.send_denial_response(NoNode(503, "the session's node is gone").response)
        else:
            await socket.accept(node.subprotocol)
            await _bridge(socket, node)


def _onward(request: HTTPConnection, without: set[str] = HOP) -> dict[str, str]:
    """A request's headers as a node gets them; the Director says of whom it is."""
    headers = {
        name: value
        for name, value in request.headers.items()
        if name not in without and not name.startswith("sec-websocket")
    }
    scheme = {"ws": "http", "wss": "https"}.get(request.url.scheme, request.url.scheme)
    headers["x-forwarded-for"] = request.client.host if request.client else ""
    headers["x-forwarded-proto"] = scheme
    return headers


async def _body(reply: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in reply.aiter_raw():
            yield piece
    finally:
        await reply.aclose()


async def _bridge(socket: WebSocket, node: ClientConnection) -> None:
    """Carry messages both ways until either end closes; the other is then closed alike."""

    async def up() -> None:
        with contextlib.suppress(ConnectionClosed, WebSocketDisconnect):
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                await node.send(message["bytes"] if text is None else text)

    async def down() -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in node:
                if isinstance(message, str):
                    await socket.send_text(message)
                else:
                    await socket.send_bytes(message)

    tasks = {asyncio.create_task(up()), asyncio.create_task(down())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await node.close()
        with contextlib.suppress(RuntimeError):  # its end was what ended this
            await socket.close(node.close_code or 1011, node.close_reason)
