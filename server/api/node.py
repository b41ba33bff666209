"""A server among several behind a proxy: its name in addresses, and how many calls it should get.

/n/<node>/...      what a proxy sends to the server of that name; it takes its own with or without
agent port         "up 70%", for HAProxy's agent check: the share of its weight that it wants
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from lipwire.engine.overload.levels import RUNGS
from lipwire.server.call.sessions import Sessions

PREFIX = "/n/"


class NodeAddress:
    """ASGI middleware: takes `/n/<node>` off addresses, and puts it before `Location`s."""

    def __init__(self, app: ASGIApp, node: str, refused: Callable[[str], None]) -> None:
        self._app, self._node, self._refused = app, node, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path.startswith(PREFIX):
            asked, slash, rest = path.removeprefix(PREFIX).partition("/")
            if asked != self._node:
                await self._misdirected(scope, receive, send)
                return
            raw = (slash + rest).encode()
            scope = {**scope, "path": slash + rest, "raw_path": raw}

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("location", "").startswith("/"):
                    headers["location"] = f"{PREFIX}{self._node}{headers['location']}"
            await send(message)

        await self._app(scope, receive, named)

    async def _misdirected(self, scope: Scope, receive: Receive, send: Send) -> None:
        """421 (RFC 9110 section 15.5.20): another server's address, which perhaps is gone."""
        self._refused("node")
        error = f"this is node {self._node}; the one of this address does not answer here"
        response = JSONResponse({"error": error}, 421)
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(response)
        else:
            await response(scope, receive, send)


def weight(sessions: Sessions) -> int:
    """How many new calls a server wants, beside what it could take, in percent.

    The share of its places that are free, lowered by how far its sessions stand down the overload
    ladder; 0 when it is full or about to stop.
    """
    places = sessions.settings.max_sessions
    room = places - len(sessions)
    if sessions.draining or room <= 0:
        return 0
    rungs = [RUNGS.index(call.stats().rung) for call in sessions.peers]
    down = sum(rungs) / len(rungs) / (len(RUNGS) - 1) if rungs else 0.0
    return max(1, round(100 * room / places * (1 - down)))


async def serve_weight(sessions: Sessions, listener: socket.socket) -> asyncio.Server:
    """Answer HAProxy's agent check (its documentation, `agent-check`) until the server is closed.

    At 0 % what belongs to the server's own sessions still comes, and nothing new does.
    """

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"up {weight(sessions)}%\n".encode())
        writer.close()

    return await asyncio.start_server(answer, sock=listener)
