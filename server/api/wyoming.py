"""Wyoming's *snd* role: what Home Assistant's and Rhasspy's voices play is a session's voice.

An event is a line of JSON, then `data_length` bytes of more JSON and `payload_length` bytes of
sound. In: `describe`, `audio-start`, `audio-chunk`, `audio-stop`; others are passed over, as their
protocol wants. Out: `info`, `played` when an utterance has been heard, `error`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from lipwire.engine import LipwireError, MediaError
from lipwire.engine.audio.timeline import MAX_RATE_HZ, MIN_RATE_HZ
from lipwire.server import __version__
from lipwire.server.api.listener import listen_at
from lipwire.server.call.call import Call
from lipwire.server.call.pcm_reader import MAX_CHANNELS, PcmReader
from lipwire.server.call.sessions import Sessions
from lipwire.server.config import ServerConfig

log = logging.getLogger(__name__)

MAX_JSON, MAX_PAYLOAD = 65_536, 2**20  # bytes of an event's; sound comes by 2 KiB
MAX_CLIENTS = 8  # each may hold an event in memory
LOOK_S = 0.1  # how soon an interruption is seen
FORMAT = {"rate": 48_000, "width": 2, "channels": 1}  # what needs no conversion
PROGRAM = {
    **{"name": "lipwire", "description": "a face that speaks it", "installed": True},
    **{"version": __version__, "attribution": {"name": "lipwire", "url": ""}},
    "snd_format": FORMAT,
}


class BadEvent(LipwireError):
    """This is no event; what follows cannot be told either."""


@dataclass(frozen=True, slots=True)
class Event:
    """One message."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def __bytes__(self) -> bytes:
        return json.dumps({"type": self.type, "data": self.data}).encode() + b"\n"


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """The next event; None at the end.

    Raises:
        BadEvent: it is none.
        asyncio.IncompleteReadError: it ends in the middle.
    """
    try:
        if not (line := await reader.readline()):
            return None
        head = json.loads(line)
        data = dict(head.get("data") or {})
        sizes = [head.get(name) or 0 for name in ("data_length", "payload_length")]
        for size, most in zip(sizes, (MAX_JSON, MAX_PAYLOAD), strict=True):
            if type(size) is not int or not 0 <= size <= most:
                raise BadEvent(f"an event's length is {str(size)[:40]}, must be 0 to {most}")
        if sizes[0]:
            data |= dict(json.loads(await reader.readexactly(sizes[0])))
        return Event(str(head["type"]), data, await reader.readexactly(sizes[1]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadEvent("this is no event of the Wyoming protocol") from error


def _reader(data: dict[str, Any]) -> PcmReader:
    """Of the sound that an event declares."""
    rate, width, channels = (data.get(name) for name in ("rate", "width", "channels"))
    if width != 2:
        raise MediaError(f"samples have {str(width)[:20]} bytes, must have 2")
    if type(rate) is not int or not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise MediaError(f"rate is {str(rate)[:20]}, must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
    if type(channels) is not int:
        raise MediaError(f"channels is {str(channels)[:20]}, must be 1 to {MAX_CHANNELS}")
    return PcmReader(rate, channels)


class _Client:
    """One connection: its utterances, one after the other."""

    def __init__(self, sessions: Sessions, name: str, writer: asyncio.StreamWriter) -> None:
        self._sessions, self._name, self._writer = sessions, name, writer
        self._voice = contextlib.ExitStack()  # holds a place among the session's sources
        self._call: Call | None = None
        self._reader: PcmReader | None = None
        self._refused = False  # the rest of the utterance is passed over
        self._told: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Until the client leaves; what has come by then is heard."""
        try:
            while (event := await read_event(reader)) is not None:
                await self._take(event)
        except BadEvent as error:
            await self._send(Event("error", {"text": str(error)}))
        except (OSError, asyncio.IncompleteReadError):
            pass  # it left in the middle
        finally:
            self._end()
            for task in self._told:
                task.cancel()

    async def _send(self, event: Event) -> None:
        with contextlib.suppress(OSError):  # it left while we spoke
            self._writer.write(bytes(event))
            await self._writer.drain()

    async def _take(self, event: Event) -> None:
        if event.type == "describe":
            none: dict[str, list[Any]] = {
                name: [] for name in ("asr", "tts", "handle", "intent", "wake", "mic")
            }
            await self._send(Event("info", {**none, "snd": [PROGRAM]}))
        elif event.type in ("audio-start", "audio-chunk", "audio-stop"):
            try:
                if event.type != "audio-chunk":
                    self._refused = False
                if event.type == "audio-stop":
                    await self._stop()
                elif event.type == "audio-start":
                    self._begin(event.data)
                elif not self._refused:
                    await self._push(event.payload, event.data)
            except LipwireError as error:
                self._refused = True
                await self._send(Event("error", {"text": str(error)}))

    def _begin(self, data: dict[str, Any]) -> None:
        self._end()
        call = self._sessions.get(self._name)
        reader = _reader(data)
        self._voice.enter_context(call.source())
        self._call, self._reader = call, reader

    async def _push(self, sound: bytes, data: dict[str, Any]) -> None:
        if self._call is None:  # some send no start
            self._begin(data)
        assert self._call is not None and self._reader is not None
        for samples, rate_hz in self._reader.feed(sound):
            await self._call.voice.push(samples, rate_hz)

    async def _stop(self) -> None:
        call = self._call
        try:
            if self._reader is not None and call is not None:
                for samples, rate_hz in self._reader.end():
                    await call.voice.push(samples, rate_hz)
        finally:
            self._end()
            task = asyncio.create_task(self._tell_played(call))
            self._told.add(task)
            task.add_done_callback(self._told.discard)

    async def _tell_played(self, call: Call | None) -> None:
        """Say so when what has been pushed has been heard or dropped; clients wait for it."""
        clock = asyncio.get_running_loop().time
        if call is not None:
            until_s = clock() + call.voice.unheard_s
            while not call.ended and (left_s := min(until_s - clock(), call.voice.unheard_s)) > 0:
                await asyncio.sleep(min(left_s, LOOK_S))
        await self._send(Event("played"))

    def _end(self) -> None:
        """The utterance is complete."""
        if self._call is not None and not self._call.ended:
            self._call.voice.flush()
        self._voice.close()
        self._call = self._reader = None


def listen(settings: ServerConfig) -> socket.socket | None:
    """The listening socket, where the settings want one.

    Raises:
        ConfigError: it cannot be had.
    """
    if settings.wyoming is None:
        return None
    parts = urlsplit(settings.wyoming)
    return listen_at(parts.hostname or "", parts.port or 0, "--wyoming")


@contextlib.asynccontextmanager
async def listening(sessions: Sessions, listener: socket.socket, name: str) -> AsyncIterator[None]:
    """Serve clients meanwhile."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(sessions, name, writer)
        if len(tasks) >= MAX_CLIENTS:
            writer.write(bytes(Event("error", {"text": f"{MAX_CLIENTS} clients are connected"})))
        else:
            tasks.add(task := asyncio.ensure_future(client.serve(reader)))
            task.add_done_callback(tasks.discard)
            await asyncio.wait({task})
        writer.close()

    server = await asyncio.start_server(serve, sock=listener, limit=MAX_JSON)
    log.info("Wyoming clients may speak into %s on port %d", name, listener.getsockname()[1])
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
