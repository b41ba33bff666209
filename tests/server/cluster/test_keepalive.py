"""A Director's connections notice a machine that is gone; `test_ray_hosts.py` pulls its cable."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from lipwire.server.cluster.director import Director
from lipwire.server.cluster.keepalive import OPTIONS, VANISHED_S, watch


def watched(connected: socket.socket) -> bool:
    """Whether all of it is set."""
    return all(connected.getsockopt(*option[:2]) for option in OPTIONS)


def test_a_connection_is_watched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as connected:
            assert not connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            watch(connected)
            assert watched(connected)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have fewer options")
def test_what_is_sent_and_what_is_waited_for_ends_alike() -> None:
    with socket.socket() as made:
        watch(made)
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * VANISHED_S
        probes = [
            made.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]
        assert probes[1] * probes[2] == VANISHED_S and probes[0] <= VANISHED_S


async def test_a_director_watches_its_requests() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with (
            Director()._http as http,
            http.stream("GET", f"http://127.0.0.1:{port}") as reply,
        ):
            stream = reply.extensions["network_stream"]
            assert watched(stream.get_extra_info("socket"))
