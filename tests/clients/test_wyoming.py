"""Wyoming clients: their speech is a session's voice; what else they may send ends nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from calling import calling
from calls import loudness, tone, until
from served import Served

from lipwire.engine import ConfigError
from lipwire.server.api import wyoming
from lipwire.server.config import load_config
from lipwire_client import Sound

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / "build" / "clients" / "pipecat" / "bin" / "python"
START = {"type": "audio-start", "data": {"rate": 24_000, "width": 2, "channels": 1}}


@pytest.fixture
def address() -> str:
    """A port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}/studio"


@contextlib.asynccontextmanager
async def studio(server: Served) -> AsyncIterator[list[Sound]]:
    """The session whose voice it is; what is heard there."""
    async with calling(server.url, name="studio") as made:
        yield made.sounds


class Wire:
    """A client by hand."""

    def __init__(self, address: str) -> None:
        self._host, self._port = "127.0.0.1", int(address.rpartition(":")[2].partition("/")[0])

    async def __aenter__(self) -> Wire:
        self.reader, self.writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, event: dict[str, Any] | bytes, payload: bytes = b"") -> None:
        if isinstance(event, dict):
            event = json.dumps({**event, "payload_length": len(payload)}).encode() + b"\n"
        self.writer.write(event + payload)
        await self.writer.drain()

    async def answer(self) -> dict[str, Any]:
        """The next event; one without a type where the server has hung up."""
        line = await asyncio.wait_for(self.reader.readline(), 20)
        return dict(json.loads(line or b'{"type":""}'))


async def test_wyomings_own_client_is_heard_and_told_when(
    serve: Callable[..., Served], address: str
) -> None:
    if not PYTHON.exists():
        pytest.skip("no build/clients/pipecat: make clients")
    async with studio(serve(wyoming=address)) as heard:
        command = [PYTHON, "-I", HERE / "wyoming_peer.py", address.rpartition("/")[0]]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        seen = json.loads(done.stdout)
        assert seen["snd"] == [["lipwire", 48_000]] and seen["played"] and seen["played_nothing"]
        assert seen["after_s"] > 1.0  # a second of sound is not heard sooner
        assert seen["refused"] == "samples have 4 bytes, must have 2"
        assert sum(loudness(sound.samples) > 1000 for sound in heard) > 25


async def test_what_is_no_event_ends_its_connection_alone(
    serve: Callable[..., Served], address: str
) -> None:
    async with studio(serve(wyoming=address)) as heard:
        for junk in (
            b"GET / HTTP/1.1\r\n",
            b"[]\n",
            b'{"type":"x","payload_length":-1}\n',
            b'{"type":"x","payload_length":%d}\n' % (wyoming.MAX_PAYLOAD + 1),
            b"x" * 2 * wyoming.MAX_JSON,
        ):
            async with Wire(address) as wire:
                await wire.send(junk)
                refusal = await wire.answer()
                assert refusal["type"] == "error" and "\n" not in refusal["data"]["text"]
                assert (await wire.answer())["type"] == ""
        sound = tone(1.0, 400, 24_000).tobytes()
        async with Wire(address) as wire:
            await wire.send({"type": "detection", "data": {"name": "hey"}})  # no matter of ours
            await wire.send({**START, "data": {**START["data"], "rate": 1}})
            assert "rate is 1" in (await wire.answer())["data"]["text"]
            await wire.send({"type": "audio-stop"})
            assert (await wire.answer())["type"] == "played"
            await wire.send(START)
            await wire.send({**START, "type": "audio-chunk"}, b"ID3\4" + bytes(2000))  # an MP3
            assert "MP3" in (await wire.answer())["data"]["text"]
            await wire.send({"type": "audio-stop"})
            assert (await wire.answer())["type"] == "played"
            chunk = {**START, "type": "audio-chunk"}  # without a start, as some send it
            await wire.send(chunk, sound[:20_000])
            await wire.send(b'{"type":"audio-chunk","payload_length":9000}\n' + sound[:100])
        # It left in the middle of a word: what came is heard.
        await until(lambda: any(loudness(each.samples) > 1000 for each in heard), "heard")


async def test_a_session_that_is_not_there_and_too_many_clients_are_said(
    serve: Callable[..., Served], address: str
) -> None:
    serve(wyoming=address)
    async with Wire(address) as wire:
        await wire.send(START)
        refusal = await wire.answer()
        assert refusal["type"] == "error" and "\n" not in refusal["data"]["text"]
        await wire.send({"type": "audio-chunk", "data": START["data"]}, struct.pack("<h", 9) * 100)
        await wire.send({"type": "audio-stop"})
        assert (await wire.answer())["type"] == "played"  # clients wait for it
    async with contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(address)) for _ in range(MOST + 1)]
        assert f"{MOST} clients" in (await wires[-1].answer())["data"]["text"]


MOST = wyoming.MAX_CLIENTS


@pytest.mark.parametrize(
    "wrong",
    [
        "127.0.0.1:10700",
        "tcp://0.0.0.0:10700/studio",
        "tcp://127.0.0.1:10700",
        "tcp://127.0.0.1:70000/studio",
        "tcp://127.0.0.1:10700/a b",
        "tcp://host:10700/studio",
    ],
)
def test_an_address_that_cannot_be_is_named(wrong: str) -> None:
    with pytest.raises(ConfigError, match="loopback address, with the name of a session"):
        load_config(wyoming=wrong)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"{port}.*--wyoming"):
            wyoming.listen(load_config(wyoming=f"tcp://127.0.0.1:{port}/studio"))
    assert wyoming.listen(load_config()) is None
