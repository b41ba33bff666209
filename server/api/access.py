"""How routes ask for a right, `grant = Depends(require(Right.WATCH))`, and for the sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from lipwire.server.api.auth import Authenticator, Claims, Right
from lipwire.server.call.sessions import Sessions

# A browser cannot set headers on a WebSocket; it may offer this subprotocol with the token behind.
SUBPROTOCOL = "lipwire.bearer."


def require(right: Right) -> Callable[[HTTPConnection], Claims]:
    """A dependency that lets a request with this right pass.

    The session is the route's `{name}`, if it has one.
    """

    def check(connection: HTTPConnection) -> Claims:
        authenticator: Authenticator = connection.app.state.authenticator
        return authenticator.admit(
            _authorization(connection), right, connection.path_params.get("name")
        )

    return check


def identify(connection: HTTPConnection) -> Claims:
    """What a request's token is for, whatever that is."""
    authenticator: Authenticator = connection.app.state.authenticator
    return authenticator.identify(_authorization(connection))


def sessions_of(connection: HTTPConnection) -> Sessions:
    """The server's calls."""
    found: Sessions = connection.app.state.sessions
    return found


Live = Annotated[Sessions, Depends(sessions_of)]


def bearer_subprotocol(connection: HTTPConnection) -> str | None:
    """The subprotocol that carries a token: a server that accepts must name it."""
    offered = connection.headers.get("sec-websocket-protocol", "").split(",")
    return next((p.strip() for p in offered if p.strip().startswith(SUBPROTOCOL)), None)


def _authorization(connection: HTTPConnection) -> str | None:
    header = connection.headers.get("authorization")
    protocol = bearer_subprotocol(connection) if connection.scope["type"] == "websocket" else None
    if header is None and protocol is not None:
        return "Bearer " + protocol.removeprefix(SUBPROTOCOL)
    return header
