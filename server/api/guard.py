"""RequestGuard: what every request meets before a route sees it. Origin, rate, size; CORS on the
way out.

Plain ASGI, so that a request that is refused here costs next to nothing and no body is read.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lipwire.engine.units.bank_file import MAX_BYTES
from lipwire.server.api.auth import RateLimit
from lipwire.server.config import ServerConfig
from lipwire.server.rtc.sdp import MAX_SDP_BYTES

# JSON writes a line end of SDP in four characters, and much else may be escaped.
MAX_BODY = 4 * MAX_SDP_BYTES
READS = ("GET", "HEAD", "OPTIONS")
EXPOSED = "Location, ETag, Link, Retry-After, Accept-Post"
ALLOWED = "Authorization, Content-Type, If-Match, traceparent, tracestate"
METHODS = "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"
PREFLIGHT_AGE_S = 600
POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1


class RequestGuard:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerConfig,
        refused: Callable[[str], None],
        answered: Callable[[str, str, int, float], None],
    ) -> None:
        self._app, self._settings = app, settings
        self._refused, self._answered = refused, answered
        self._rate = RateLimit(settings.rate_per_s, settings.rate_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        # A page may also come from this very server.
        admitted = origin is None or self._admits(origin, headers.get("host"))
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send, admitted)
            return
        method = scope["method"]
        if method == "OPTIONS" and "access-control-request-method" in headers:
            await _answer(send, 200, None, _cors(origin if admitted else None, preflight=True))
            return
        if not admitted:
            await self._refuse(send, 403, "origin", f"pages of {origin} may not use this server")
            return
        if method not in READS and (wait_s := self._rate.take(_address(scope))) > 0:
            headers_out = _cors(origin) | {"Retry-After": str(math.ceil(wait_s))}
            await self._refuse(send, 429, "rate", "too many requests; slow down", headers_out)
            return
        begun_s, status = time.monotonic(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            bounded = self._bounded(scope, headers, receive)
            await self._app(scope, bounded, self._open(origin, noted))
        finally:
            # Of addresses that are nobody's there are as many as anybody likes.
            route = getattr(scope.get("route"), "path", "none")
            self._answered(method, route, status, time.monotonic() - begun_s)

    def _admits(self, origin: str, host: str | None) -> bool:
        allowed = self._settings.allowed_origins
        return origin.partition("://")[2] == host or "*" in allowed or origin in allowed

    async def _socket(self, scope: Scope, receive: Receive, send: Send, admitted: bool) -> None:
        """Browsers do not keep foreign pages off WebSockets themselves."""
        if not admitted:
            reason = "a page of another origin may not speak here"
            self._refused("origin")
        elif self._rate.take(_address(scope)) > 0:
            reason = "too many requests; slow down"
            self._refused("rate")
        else:
            await self._app(scope, receive, send)
            return
        # Accepted first: a browser sees the reason of a close, not of a refusal.
        await receive()
        await send({"type": "websocket.accept"})
        await send(
            {"type": "websocket.send", "text": json.dumps({"type": "error", "error": reason})}
        )
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason})

    def _bounded(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """`receive` that raises once a body is larger than any that is wanted there."""
        upload = scope["path"].endswith("/speech") or scope["method"] == "PUT"
        limit = int(self._settings.max_upload_mb * 1_000_000) if upload else MAX_BODY
        if scope["path"].endswith("/bank"):
            limit = MAX_BYTES
        shown = f"{limit / 1_000_000:g} MB" if limit != MAX_BODY else f"{limit // 1024} kB"
        too_large = HTTPException(413, f"the body is larger than {shown}")
        declared = headers.get("content-length", "")
        size = 0

        async def bounded() -> Message:
            nonlocal size
            if declared.isdigit() and int(declared) > limit:
                raise too_large
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise too_large
            return message

        return bounded

    def _open(self, origin: str | None, send: Send) -> Send:
        async def with_cors(message: Message) -> None:
            if message["type"] == "http.response.start" and origin is not None:
                MutableHeaders(scope=message).update(_cors(origin))
            await send(message)

        return with_cors

    async def _refuse(
        self, send: Send, status: int, cause: str, text: str, headers: dict[str, str] | None = None
    ) -> None:
        self._refused(cause)
        await _answer(send, status, {"error": text}, headers or {})


def _cors(origin: str | None, preflight: bool = False) -> dict[str, str]:
    """Headers that let a page of this origin read the answer; no cookies are ever used."""
    headers = {"Vary": "Origin"}
    if origin is not None:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = EXPOSED
    if preflight:
        headers["Accept-Post"] = "application/sdp"
        headers["Access-Control-Allow-Methods"] = METHODS
        headers["Access-Control-Allow-Headers"] = ALLOWED
        headers["Access-Control-Max-Age"] = str(PREFLIGHT_AGE_S)
    return headers


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


async def _answer(
    send: Send, status: int, body: dict[str, str] | None, headers: dict[str, str]
) -> None:
    content = b"" if body is None else json.dumps(body).encode()
    if body is not None:
        headers = headers | {"Content-Type": "application/json"}
    headers = headers | {"Content-Length": str(len(content))}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})
