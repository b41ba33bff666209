"""The speech socket of a running server, with a real call behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx
import numpy as np
import pytest
import websockets
from calls import HttpCall, Running, error_of, http_call, loudness, strongest_hz, tone, until

from lipwire.engine import Engine
from lipwire.server.api.listener import MAX_MESSAGE
from lipwire.server.call.call import MAX_SOURCES


async def event(socket: Any, kind: str) -> dict[str, Any]:
    """The next event, which must be of this kind; when a voice begins may be said before."""
    while True:
        message = json.loads(await asyncio.wait_for(socket.recv(), 5))
        if kind == "begins" or message["type"] != "begins":
            break
    assert message["type"] == kind, message
    return dict(message)


async def test_bursts_cut_anywhere_are_heard(call: HttpCall) -> None:
    raw = tone(2.0, 500, 24_000).astype("<i2").tobytes()
    async with call.socket() as socket:
        assert (await event(socket, "ready"))["rate"] == 24_000
        for start in range(0, len(raw), 3001):  # odd: every message ends inside a sample
            await socket.send(raw[start : start + 3001])
        await socket.send('{"type":"flush"}')
        begins = await event(socket, "begins")
        flushed = await event(socket, "flushed")
        assert flushed["seconds"] == 2.0
        assert 0 < begins["in_s"] < 1 and abs(flushed["heard_in_s"] - begins["in_s"] - 2) < 0.5
        await until(lambda: loudness(call.caller.heard(0.5)) > 1000, "the voice")
        assert abs(strongest_hz(call.caller.heard(0.5)) - 500) < 10
        await socket.send('{"type":"interrupt"}')
        assert 0 < (await event(socket, "interrupted"))["unheard_s"] < 2
        await until(lambda: loudness(call.caller.heard(0.2)) < 2, "silence")


async def test_a_live_socket_catches_up_in_its_pauses(call: HttpCall) -> None:
    """What a stall held up comes at once: the second of silence in it is not heard in full."""
    held_up = np.concatenate([tone(1.0, 500), np.zeros(48_000, np.int16), tone(1.0, 500)])
    waiting_s = []
    for rate in ("?rate=48000&live=true", "?rate=48000"):
        async with call.socket(rate) as socket:
            await event(socket, "ready")
            for piece in np.split(held_up, 50):
                await socket.send(piece.astype("<i2").tobytes())
            await socket.send('{"type":"flush"}')
            assert (await event(socket, "flushed"))["seconds"] == 3.0
            waiting_s.append((await call.stats())["backlog_s"])
            await socket.send('{"type":"interrupt"}')
            await event(socket, "interrupted")
    assert waiting_s[0] < waiting_s[1] - 0.5


async def test_half_a_sample_is_reported_and_the_rest_kept(call: HttpCall) -> None:
    raw = tone(1.0, 500, 24_000).astype("<i2").tobytes()
    async with call.socket() as socket:
        await event(socket, "ready")
        await socket.send(raw + b"\x01")
        await socket.send('{"type":"flush"}')
        assert "half a sample" in (await event(socket, "error"))["error"]
        assert (await event(socket, "flushed"))["seconds"] == 1.0
        await socket.send(raw + b"\x01")  # and now the socket ends mid-sample
    await until(lambda: loudness(call.caller.heard(0.5)) > 1000, "all before it")
    assert (await call.stats())["backlog_s"] > 0.9  # both whole seconds were kept


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"type":"fly"}', '"flush"', "null"])
async def test_text_that_is_no_command(call: HttpCall, text: str) -> None:
    async with call.socket() as socket:
        await event(socket, "ready")
        await socket.send(text)
        assert "flush" in (await event(socket, "error"))["error"]
        await socket.send('{"type":"flush"}')
        await event(socket, "flushed")


async def test_a_session_has_few_voices_at_once(call: HttpCall) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_SOURCES):
            socket = await stack.enter_async_context(call.socket("?rate=24000"))
            await event(socket, "ready")
        one_more = await stack.enter_async_context(call.socket("?rate=24000"))
        assert "under way" in (await event(one_more, "error"))["error"]
        await asyncio.wait_for(one_more.wait_closed(), 20)
        assert one_more.close_code == 1008
        answer = await call.client.post(f"{call.path}/say", json={"text": "hello"})
        assert "under way" in error_of(answer, 429)
    async with call.socket() as socket:  # those that have left count no more
        await event(socket, "ready")


async def test_a_message_too_large_ends_its_socket_only(call: HttpCall) -> None:
    async with call.socket("?rate=24000") as socket:
        await event(socket, "ready")
        await socket.send(bytes(MAX_MESSAGE + 1))
        await asyncio.wait_for(socket.wait_closed(), 20)
    assert socket.close_code == 1009
    async with call.socket("?rate=24000&live=true") as socket:
        await event(socket, "ready")
        await socket.send(bytes(MAX_MESSAGE))
        await socket.send("[" * 50_000)
        assert "text must be" in (await event(socket, "error"))["error"]


@pytest.mark.parametrize(
    "rate",
    ["", "?rate=", "?rate=fast", "?rate=100", "?rate=9999999", "?rate=-24000", "?rate=24000.5"],
)
async def test_a_bad_rate_closes_with_a_reason(call: HttpCall, rate: str) -> None:
    async with call.socket(rate) as socket:
        assert "rate" in (await event(socket, "error"))["error"]
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), 5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008 and "rate" in closed.value.rcvd.reason


async def test_a_socket_of_no_session_is_a_404(server: Running) -> None:
    url = server.url.replace("http", "ws") + "/api/sessions/never-was/speech?rate=24000"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(url):
            pass
    assert refused.value.response.status_code == 404
    assert b"no session" in refused.value.response.body


async def test_pages_of_other_origins_are_kept_out(call: HttpCall) -> None:
    async with call.socket(origin="https://elsewhere.example") as socket:
        assert "origin" in (await event(socket, "error"))["error"]
    own = str(call.client.base_url).rstrip("/")
    async with call.socket(origin=own) as socket:
        await event(socket, "ready")


async def test_the_socket_ends_with_its_session(call: HttpCall) -> None:
    async with call.socket() as socket:
        await event(socket, "ready")
        await call.client.delete(call.path)
        assert "ended" in (await event(socket, "error"))["error"]
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 5)


async def test_a_full_backlog_stops_the_reading_but_not_an_interruption(engine: Engine) -> None:
    with Running(engine, speech_backlog_max_s=1.0) as server:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=20) as client,
            http_call(client) as call,
            call.socket() as socket,
        ):
            await event(socket, "ready")
            second = tone(1.0, 500, 24_000).astype("<i2").tobytes()
            for _ in range(30):
                await socket.send(second)
            await asyncio.sleep(0.3)
            assert (await call.stats())["backlog_s"] <= 1.0
            await socket.send('{"type":"interrupt"}')
            await event(socket, "interrupted")
            await asyncio.sleep(0.3)
            assert (await call.stats())["backlog_s"] == 0
