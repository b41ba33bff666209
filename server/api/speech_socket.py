"""The WebSocket that takes a new voice as raw PCM, in bursts faster than real time.

In: binary messages, 16-bit little-endian at the declared rate, mono or of `channels`, cut anywhere;
headers of WAV are read and taken off, other formats refused (`lipwire.server.call.pcm_reader`).
With `format=auto` containers are decoded (`container_reader`); `moshi` and `msgpack` are what these
send. With `live=true` in the address they come as they are spoken, and what a stall held up is not
heard late for ever. Text: `{"type": "flush"}` ends an utterance, `{"type": "interrupt"}` drops what
has not been heard, and messages of services that speak are taken as they are (`dialects`); their
words become subtitles.
Out: `ready`; `begins` with `in_s` when an utterance's first sample has its time; `flushed` with
its `seconds` and `heard_in_s` when its last has; both with that time on the clock of the media's
sender reports, `at_s`; `interrupted` with `unheard_s`, what was dropped; `error`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from lipwire.engine import MediaError, SessionClosed
from lipwire.engine.audio.timeline import MAX_RATE_HZ, MIN_RATE_HZ
from lipwire.engine.trace import UNTRACED, Trace
from lipwire.engine.types import I16
from lipwire.server.call.call import Call
from lipwire.server.call.container_reader import AutoReader
from lipwire.server.call.dialects import EXPECTED, read
from lipwire.server.call.pcm_reader import MAX_CHANNELS, PcmReader, decode_mulaw
from lipwire.server.media.subtitles import TooManySubtitles
from lipwire.server.rtc.rtcp import ntp_seconds, to_ntp

POLICY_VIOLATION, GOING_AWAY = 1008, 1001  # RFC 6455 section 7.4.1
# Messages read ahead of a full backlog, so that an interruption behind them is still seen. More:
# memory; fewer: an interruption waits behind sound that it should drop.
READ_AHEAD = 64
# The same in sound: a second socket's worth of memory for each. At least one message is taken.
READ_AHEAD_S = 30.0
# A second of sound as base64 has 64,000; JSON is read on the event loop, 1 ms for these.
MAX_TEXT_CHARS = 262_144
FORMATS = ("pcm", "auto", "moshi", "msgpack")
RATE_HZ = 24_000  # of PCM in a format that says its own rate, mostly
SENTENCE = re.compile(r"[.!?…。！？]['\")»”]?\s*$")  # where words become a subtitle
MAX_WORDS = 160  # characters of one; more: nobody reads it
READ_BYTES = 1 << 16  # looked at without a pause for others
LIVE_CHUNK_S = 0.5  # pushed at once; longer holds up the pictures


@dataclass(frozen=True, slots=True)
class Declared:
    """What an address says of the voice."""

    rate_hz: int
    channels: int = 1
    live: bool = False
    format: str = "pcm"


class Words(str):
    """Text of the voice, queued behind its sound."""


def read_query(query: Mapping[str, str]) -> Declared:
    """What an address declares.

    Raises:
        MediaError: no rate, values that cannot be, or parameters that nobody reads.
    """
    if unknown := sorted(set(query) - {"rate", "channels", "live", "format"}):
        raise MediaError(
            f"unknown parameter {unknown[0]!r}; there are rate, channels, live and format"
        )
    if (form := query.get("format", "pcm")) not in FORMATS:
        raise MediaError(f"format is {form!r}, must be one of {', '.join(FORMATS)}")
    rate = query.get("rate", None if form == "pcm" else str(RATE_HZ))
    channels = query.get("channels", "1")
    if rate is None or not rate.isascii() or not rate.isdigit() or len(rate) > 7:
        raise MediaError("declare the sample rate in the address, e.g. ?rate=24000")
    if not MIN_RATE_HZ <= int(rate) <= MAX_RATE_HZ:
        raise MediaError(f"sample rate {rate} Hz is outside {MIN_RATE_HZ}..{MAX_RATE_HZ} Hz")
    if not re.fullmatch("[1-9]", channels) or int(channels) > MAX_CHANNELS:
        raise MediaError(f"channels is {channels!r}, must be 1 to {MAX_CHANNELS}")
    if (live := query.get("live", "false")) not in ("true", "false"):
        raise MediaError(f"live is {live!r}, must be true or false")
    return Declared(int(rate), int(channels), live == "true", form)


class SpeechSocket:
    """One open socket: reads ahead, pushes in order."""

    def __init__(self, socket: WebSocket, call: Call, declared: Declared) -> None:
        self._socket, self._peer, self._rate_hz = socket, call, declared.rate_hz
        self._live, self._format = declared.live, declared.format
        kind = PcmReader if declared.format == "pcm" else AutoReader
        self._reader: PcmReader | AutoReader = kind(declared.rate_hz, declared.channels)
        self._service: AutoReader | None = None  # of the sound in text
        self._service_hz = 0
        self._words = ""  # of the voice, that are no sentence yet
        self._queue: asyncio.Queue[tuple[I16, int, Trace] | str | None] = asyncio.Queue(READ_AHEAD)
        self._taken_s = 0.0  # since the last flush
        self._ahead_s = 0.0  # in the queue
        self._less = asyncio.Event()  # set when the queue has become shorter

    async def run(self) -> None:
        """Serve until the client leaves or the call ends."""
        await self._send({"type": "ready", "rate": self._rate_hz})
        try:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._watch())
                tasks.create_task(self._read())
                await self._push()
                watch.cancel()
        finally:
            for reader in (self._reader, self._service):
                if isinstance(reader, AutoReader):
                    reader.close()  # its thread waits for more

    async def _watch(self) -> None:
        """Close the socket when the call ends; the reader ends with it."""
        await self._peer.wait_ended()
        await self._send({"type": "error", "error": "the session has ended"})
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.close(GOING_AWAY, "the session has ended")

    async def _read(self) -> None:
        try:
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                if (data := message.get("bytes")) is not None:
                    trace = Trace(time.monotonic)
                    for point in ("received", "decoding"):
                        trace.stamp(point)
                    await self._binary(data, trace)
                else:
                    await self._text(message.get("text") or "")
                # What has come already is received without waiting: a thousand small messages in
                # one read would hold up the pictures.
                await asyncio.sleep(0)
        except (WebSocketDisconnect, RuntimeError):
            pass  # starlette's way of saying that the socket is closed
        await self._finish("the socket closed")
        for reader in (self._reader, self._service):
            if isinstance(reader, AutoReader):
                await self._put(await asyncio.to_thread(reader.close))
        await self._queue.put(None)

    async def _binary(self, data: bytes, trace: Trace) -> None:
        if self._format == "msgpack":
            try:
                await self._heed(_unpack(data))
            except MediaError as error:
                await self._send({"type": "error", "error": str(error)})
            return
        if self._format == "moshi":  # its first byte: 0 hello, 1 Ogg/Opus, 2 words
            kind, data = data[:1], data[1:]
            if kind == b"\x02":
                await self._say(data.decode(errors="replace"))
            if kind != b"\x01":
                return
        for start in range(0, len(data), READ_BYTES):
            await self._take(self._reader, data[start : start + READ_BYTES], trace)

    async def _take(
        self, reader: PcmReader | AutoReader, data: bytes | None, trace: Trace = UNTRACED
    ) -> None:
        """Queue the sound in data, or, without any, what waited for more; say why not."""
        try:
            if isinstance(reader, PcmReader):
                pieces = reader.end() if data is None else reader.feed(data)
            elif data is None:
                pieces = await asyncio.to_thread(reader.end)
            else:
                pieces = await asyncio.to_thread(reader.feed, data)
        except MediaError as error:
            await self._send({"type": "error", "error": str(error)})
            return
        await self._put(pieces, trace)

    async def _put(self, pieces: list[tuple[I16, int]], trace: Trace = UNTRACED) -> None:
        for samples, rate_hz in pieces:
            trace.stamp("decoded")
            seconds = len(samples) / rate_hz
            while self._ahead_s and self._ahead_s + seconds > READ_AHEAD_S:
                self._less.clear()
                await self._less.wait()
            self._ahead_s += seconds
            await self._queue.put((samples, rate_hz, trace))
            trace = UNTRACED

    async def _text(self, text: str) -> None:
        try:
            if len(text) > MAX_TEXT_CHARS:
                raise MediaError(
                    f"the message is longer than {MAX_TEXT_CHARS} characters; sound comes in "
                    "smaller pieces, or in binary messages"
                )
            try:
                message = json.loads(text)
            except (ValueError, RecursionError):
                raise MediaError(EXPECTED) from None
            await self._heed(message)
        except MediaError as error:
            await self._send({"type": "error", "error": str(error)})

    async def _heed(self, message: object) -> None:
        """Do what a message says."""
        said = read(message)
        if said.error is not None:
            await self._send({"type": "error", "error": f"the voice's source says: {said.error}"})
        if said.act == "interrupt":
            await self._interrupt()
            return
        for data in said.audio:
            if said.mulaw:
                await self._put([(decode_mulaw(data), said.rate_hz or RATE_HZ)])
            else:
                await self._take(self._reader_of(said.rate_hz or self._rate_hz), data)
        if said.floats:
            levels = np.clip(np.asarray(said.floats) * 32_768, -32_768, 32_767)
            await self._put([(np.nan_to_num(levels).astype(np.int16), said.rate_hz or RATE_HZ)])
        if said.text:
            await self._say(said.text)
        if said.act == "flush":
            await self._finish("flush")
            await self._queue.put("flush")

    def _reader_of(self, rate_hz: int) -> AutoReader:
        if self._service is None or self._service_hz != rate_hz:
            self._service, self._service_hz = AutoReader(rate_hz), rate_hz
        return self._service

    async def _say(self, text: str) -> None:
        """Gather words; whole sentences are subtitles of the sound before them."""
        self._words = (self._words + text)[-2 * MAX_WORDS :]
        if SENTENCE.search(self._words) or len(self._words) > MAX_WORDS:
            await self._end_words()

    async def _end_words(self) -> None:
        words, self._words = self._words.strip(), ""
        if words:
            await self._queue.put(Words(words))

    async def _interrupt(self) -> None:
        self._words = ""
        for reader in (self._reader, self._service):
            if reader is not None:
                reader.reset()
        waiting_s = 0.0
        while not self._queue.empty():
            if isinstance(item := self._queue.get_nowait(), tuple):
                waiting_s += len(item[0]) / item[1]
        unheard_s = round(self._peer.voice.unheard_s + waiting_s, 3)
        self._taken_s = self._ahead_s = 0.0
        self._peer.interrupt()
        await self._send({"type": "interrupted", "unheard_s": unheard_s})

    async def _finish(self, when: str) -> None:
        """An utterance ends. Half a sample has no other half coming: say so, and keep the rest."""
        for reader in (self._reader, self._service):
            if reader is None:
                continue
            await self._take(reader, None)
            half = reader.dangling
            reader.reset()
            if half:
                reason = f"half a sample was left when {when}; it was dropped"
                await self._send({"type": "error", "error": reason})
        await self._end_words()

    async def _push(self) -> None:
        while (item := await self._queue.get()) is not None:
            # What still comes when the call is over has nowhere to go.
            with contextlib.suppress(SessionClosed):
                if isinstance(item, Words):
                    with contextlib.suppress(MediaError, TooManySubtitles):
                        self._peer.events.subtitle(item, None, None)
                elif isinstance(item, str):
                    self._peer.voice.flush()
                    seconds, self._taken_s = round(self._taken_s, 3), 0.0
                    in_s = self._peer.voice.unheard_s
                    event = {"type": "flushed", "seconds": seconds, "heard_in_s": round(in_s, 3)}
                    await self._send({**event, "at_s": _report_s(in_s)})
                else:
                    await self._push_sound(*item)
            await asyncio.sleep(0)  # what waits in the queue is taken without waiting, too
        self._peer.voice.flush()

    async def _push_sound(self, samples: I16, rate_hz: int, trace: Trace) -> None:
        seconds = len(samples) / rate_hz
        self._ahead_s = max(0.0, self._ahead_s - seconds)
        self._less.set()
        if self._live:
            chunk = max(1, int(LIVE_CHUNK_S * rate_hz))
            for start in range(0, len(samples), chunk):
                piece = samples[start : start + chunk]
                self._peer.voice.push_live(piece, rate_hz, UNTRACED if start else trace)
                await asyncio.sleep(0)
            self._taken_s += seconds
        elif await self._peer.voice.push(samples, rate_hz, trace):
            if not self._taken_s:
                in_s = max(0.0, self._peer.voice.unheard_s - seconds)
                event = {"type": "begins", "in_s": round(in_s, 3), "at_s": _report_s(in_s)}
                await self._send(event)
            self._taken_s += seconds

    async def _send(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it left while we spoke
            if self._socket.application_state is WebSocketState.CONNECTED:
                await self._socket.send_json(event)


def _unpack(data: bytes) -> object:
    """A MessagePack message."""
    try:
        import msgpack
    except ImportError:
        raise MediaError("format=msgpack needs the package msgpack on the server") from None
    try:
        return cast(object, msgpack.unpackb(data))
    except Exception as error:  # of many kinds
        raise MediaError("the message is no MessagePack") from error


def _report_s(in_s: float) -> float:
    """A moment ahead as sender reports name it, seconds since 1900."""
    return ntp_seconds(to_ntp(time.monotonic() + in_s))


async def refuse(socket: WebSocket, reason: str) -> None:
    """Accept, say why not, and close: a browser sees the reason of a close, not of a refusal."""
    await socket.accept()
    await socket.send_json({"type": "error", "error": reason})
    await socket.close(POLICY_VIOLATION, reason)
