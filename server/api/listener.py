"""The socket a server listens on, and the uvicorn server behind it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from lipwire.engine import ConfigError
from lipwire.server.api.fair_transport import FairHttp, FairSocket
from lipwire.server.config import ServerConfig

MAX_MESSAGE = 1024 * 1024  # bytes of a WebSocket's: 22 s of voice at 24 kHz
# Sockets hold what is not read yet in memory, so few and small messages. Sound hardly shrinks, and
# inflating what a stranger has squeezed costs the event loop.
SOCKETS: dict[str, Any] = {
    "http": FairHttp,
    "ws": FairSocket,
    "ws_max_size": MAX_MESSAGE,
    "ws_max_queue": 4,
    "ws_per_message_deflate": False,
}


class Server(uvicorn.Server):
    """uvicorn, which also says when it is ready and ends the calls before it waits for them.

    Args:
        config: uvicorn's.
        url: where people find the page.
        end_calls: called first when it stops, with the seconds that calls may still go on; requests
            that wait for a call end with it.
        drain_s: those seconds after SIGTERM. Ctrl-C ends all at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        url: str,
        end_calls: Callable[[float], Awaitable[None]],
        drain_s: float = 0.0,
    ) -> None:
        super().__init__(config)
        self._url, self._end_calls, self._drain_s = url, end_calls, drain_s
        self._patience_s = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first SIGTERM drains; whatever comes second ends at once."""
        if self.should_exit:
            self.force_exit = True
        elif sig == signal.SIGTERM:
            self._patience_s = self._drain_s
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"lipwire is ready: open {self._url}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # The sockets still listen: load balancers see /readyz fail, and new calls are told why not.
        draining = asyncio.ensure_future(self._end_calls(self._patience_s))
        while not draining.done() and not self.force_exit:
            await asyncio.wait({draining}, timeout=0.1)
        if not draining.done():
            draining.cancel()
            await asyncio.wait({draining})
            await self._end_calls(0.0)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A wish to stop is not a failure: unlike uvicorn's own, this does not raise it again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wishes = (signal.SIGINT, signal.SIGTERM)
        before = {wish: signal.signal(wish, self.handle_exit) for wish in wishes}
        try:
            yield
        finally:
            for wish, handler in before.items():
                signal.signal(wish, handler)


def listen(settings: ServerConfig, port: int | None = None) -> socket.socket:
    """The listening socket of the server, or another one at its address.

    Raises:
        ConfigError: the address or port cannot be had.
    """
    return listen_at(settings.host, settings.port if port is None else port, "--host or --port")


def listen_at(host: str, port: int, options: str) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address or port cannot be had.
    """
    where = f"{host}:{port}"
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {where}: {error.strerror}; choose another with {options}"
        ) from error
    return listener


def listen_for_agent(
    settings: ServerConfig,
) -> contextlib.AbstractContextManager[socket.socket | None]:
    """The socket of HAProxy's agent check, or none.

    Raises:
        ConfigError: the address or port cannot be had.
    """
    if settings.agent_port is None:
        return contextlib.nullcontext()
    return listen(settings, settings.agent_port)


def page_url(settings: ServerConfig, port: int) -> str:
    """Where a person on this machine finds the page."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
