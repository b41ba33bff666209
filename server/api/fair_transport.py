"""FairTransport: a connection's bytes reach their parser a little at a time, in turn with all
others'.

One read of a socket may bring 256 KiB: 40,000 empty frames of a WebSocket, or as many pieces of a
chunked body. Parsed at once, they hold up every call's pictures by half a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

# Bytes parsed between two looks at the clock: 1 KiB of pings takes 10 ms on a busy core. More: one
# look too late is a stall; fewer: large uploads pay for the looks.
PIECE = 1024
# A connection's turn. Longer: a few hostile ones add up to a stall; shorter: turns cost more than
# what is done in them.
TURN_S = 0.001
MAX_FRAGMENTS = 1024  # of one message: empty ones cost memory that no limit on bytes sees

clock: Callable[[], float] = time.perf_counter


class FairTransport:
    """Stands between a transport and a protocol, and is the transport for the latter."""

    def __init__(
        self,
        transport: asyncio.Transport,
        deliver: Callable[[bytes], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.transport = transport
        self._deliver, self._loop = deliver, loop
        self._unread = bytearray()  # at most one read: the transport is paused while it holds any
        self._wanted = True  # the protocol has not paused
        self._clogged = False  # the peer does not read: what answers itself (pings) must wait, too
        self._turn: asyncio.Handle | None = None
        self._over = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def pause_reading(self) -> None:
        """The protocol wants no more for now."""
        self._wanted = False
        self._settle()

    def resume_reading(self) -> None:
        """The protocol wants more."""
        self._wanted = True
        self._settle()

    def clog(self, clogged: bool) -> None:
        """Whether too much waits to be written."""
        self._clogged = clogged
        self._settle()

    def feed(self, data: bytes) -> None:
        """What a read has brought."""
        self._unread += data
        if self._turn is None:
            self._work()

    def end(self) -> None:
        """The protocol is done with the transport."""
        self._over = True
        self._unread.clear()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _work(self) -> None:
        self._turn = None
        ends = clock() + TURN_S
        while self._ready:
            piece = bytes(self._unread[:PIECE])
            del self._unread[:PIECE]
            self._deliver(piece)
            if clock() >= ends:
                break
        self._settle()

    @property
    def _ready(self) -> bool:
        return bool(self._unread) and self._wanted and not self._clogged and not self._over

    def _settle(self) -> None:
        if self._over or self.transport.is_closing():
            return
        if self._ready and self._turn is None:
            self._turn = self._loop.call_soon(self._work)
        if self._unread or not self._wanted or self._clogged:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()


class _Gated(asyncio.Protocol):
    """Puts a turnstile before the protocol that comes after it in the order of bases."""

    loop: asyncio.AbstractEventLoop

    def connection_made(self, transport: Any) -> None:
        if isinstance(transport, FairTransport):  # of the HTTP that asked for an upgrade
            transport = transport.transport
        self._gate = FairTransport(transport, super().data_received, self.loop)
        super().connection_made(self._gate)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        self._gate.feed(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._gate.clog(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._gate.clog(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.end()
        super().connection_lost(exc)


class FairHttp(_Gated, H11Protocol):
    """uvicorn's HTTP, behind a turnstile."""

    def handle_websocket_upgrade(self, event: Any) -> None:
        """From now on the other protocol reads; nobody may send anything before it has agreed."""
        self._gate.end()
        super().handle_websocket_upgrade(event)


class FairSocket(_Gated, WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, behind a turnstile."""

    def handle_cont(self, event: Frame) -> None:
        """The next fragment of a message."""
        if self.close_sent:
            return
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
            return
        self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {MAX_FRAGMENTS} fragments")
        self.handle_parser_exception()
