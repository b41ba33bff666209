"""Bytes are parsed in turns: what one connection may do before all others are served."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import IO, Any

import httpx
import pytest
import uvicorn
import websockets
from calls import Caller, Running, sound_file, tone

from lipwire.server.api import fair_transport
from lipwire.server.api.fair_transport import MAX_FRAGMENTS, PIECE, FairTransport
from lipwire.server.api.listener import SOCKETS
from lipwire.server.api.speech_socket import Declared, SpeechSocket
from lipwire.server.call import speech_queue


class Wire(asyncio.Transport):
    """A transport that only remembers whether it may read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return False


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is up whenever somebody looks."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(fair_transport, "clock", lambda: float(next(ticks)))


Made = tuple[Wire, list[bytes], FairTransport]


def made() -> Made:
    wire, got = Wire(), []  # type: tuple[Wire, list[bytes]]
    return wire, got, FairTransport(wire, got.append, asyncio.get_running_loop())


@pytest.mark.usefixtures("slow")
async def test_a_turn_is_one_piece_when_time_is_up() -> None:
    wire, got, gate = made()
    data = bytes(range(256)) * (PIECE // 64)  # four pieces
    gate.feed(data)
    for turn in range(1, 5):
        assert len(got) == turn, "others have their turn after each piece"
        assert wire.reading is (turn == 4), "no more is read before this is parsed"
        await asyncio.sleep(0)
    assert b"".join(got) == data and max(map(len, got)) == PIECE


async def test_what_is_quickly_parsed_takes_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_transport, "clock", lambda: 0.0)
    wire, got, gate = made()
    gate.feed(bytes(50 * PIECE))
    assert len(got) == 50 and wire.reading


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("clogged", [False, True], ids=["the parser pauses", "nobody reads"])
async def test_nothing_is_parsed_that_is_not_wanted(clogged: bool) -> None:
    wire, got, gate = made()
    stop, go = gate.pause_reading, gate.resume_reading
    if clogged:
        stop, go = (lambda: gate.clog(True)), (lambda: gate.clog(False))
    gate.feed(bytes(3 * PIECE))
    stop()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(got) == 1 and not wire.reading
    go()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(got) == 3 and wire.reading


@pytest.mark.usefixtures("slow")
async def test_nothing_is_parsed_after_the_end() -> None:
    _, got, gate = made()
    gate.feed(bytes(3 * PIECE))
    gate.end()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(got) == 1


# --- behind a real server ---

App = Callable[[Any, Any, Any], Any]


@contextlib.contextmanager
def serving(app: App) -> Iterator[str]:
    """The address of a server of this application, set up as ours is."""
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", **SOCKETS)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.01)
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """HTTP: how long the body was. WebSocket: how many messages there were, when asked."""
    if scope["type"] == "http":
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})
        return
    await receive()
    await send({"type": "websocket.accept"})
    count = 0
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text"):
            await send({"type": "websocket.send", "text": str(count)})
        count += 1


async def test_many_frames_in_one_write_all_arrive_and_the_loop_turns_meanwhile() -> None:
    with serving(echo) as where:
        async with websockets.connect(f"ws://{where}") as socket:
            socket.transport.write(b"\x82\x81\0\0\0\0x" * 20_000)  # masked by zeros: as it is
            await socket.send("how many?")
            assert await asyncio.wait_for(socket.recv(), 60) == "20000"


async def test_a_body_in_tiny_pieces_arrives() -> None:
    with serving(echo) as where:
        host, port = where.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")  # pipelined
        answers = await asyncio.wait_for(reader.read(), 60)
        assert answers.count(b"200 OK") == 2 and b"10000" in answers
        writer.close()


async def test_a_message_of_too_many_fragments_is_refused() -> None:
    with serving(echo) as where:
        async with websockets.connect(f"ws://{where}") as socket:
            await socket.send([b""] * (MAX_FRAGMENTS - 10))
            await socket.send("how many?")
            assert await asyncio.wait_for(socket.recv(), 60) == "1"
            with contextlib.suppress(websockets.ConnectionClosed):
                await socket.send([b""] * (MAX_FRAGMENTS + 10))
            await asyncio.wait_for(socket.wait_closed(), 60)
            # What was on its way when the server closed may reset the connection before that.
            assert socket.close_code in (1009, 1006)


# --- behind the parser ---


@pytest.mark.parametrize(
    "message",
    [{"text": "nonsense"}, {"text": '{"type":"flush"}'}, {"bytes": b"x"}, {"bytes": bytes(4)}],
    ids=["nonsense", "flush", "half a sample", "samples"],
)
async def test_each_message_has_a_turn_of_its_own(message: dict[str, Any]) -> None:
    """Messages that are there already, as `receive` gives them: without ever waiting."""
    left, turns = 200, 0

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        if left < 0:
            return {"type": "websocket.disconnect"}
        return {"type": "websocket.receive", **message}

    async def nothing(*_: object) -> bool:
        return True

    async def ticking() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    voice = SimpleNamespace(push=nothing, flush=lambda: None, unheard_s=0.0)
    peer: Any = SimpleNamespace(voice=voice, wait_ended=asyncio.Event().wait)
    socket: Any = SimpleNamespace(
        receive=receive, send_json=nothing, application_state=None, close=nothing
    )
    ticker = asyncio.create_task(ticking())
    await asyncio.wait_for(SpeechSocket(socket, peer, Declared(16_000)).run(), 60)
    ticker.cancel()
    assert turns >= 200


async def test_uploads_are_written_beside_the_event_loop(
    server: Running, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    scratch_file = speech_queue.scratch_file

    @contextlib.asynccontextmanager
    async def watched() -> AsyncIterator[IO[bytes]]:
        async with scratch_file() as file:
            write = file.write

            def noted(data: bytes) -> int:
                threads.add(threading.current_thread().name)
                return write(data)

            file.write = noted  # type: ignore[method-assign,assignment]
            yield file

    monkeypatch.setattr(speech_queue, "scratch_file", watched)
    async with Caller() as caller:
        offer = {"sdp": await caller.offer(), "consent": True}
        answer = await client.post("/api/sessions", json=offer)
        path = f"/api/sessions/{answer.json()['id']}/speech"
        spoken = await client.post(path, content=sound_file(tone(0.5)))
        assert spoken.status_code == 200, spoken.text
    assert threads and "server" not in threads
