"""The WebSocket that takes a new voice as raw PCM, in bursts faster than real time.

In: binary messages, 16-bit little-endian at the declared rate, mono or of `channels`, cut anywhere;
headers of WAV are read and taken off, other formats refused (`lipwire.server.call.pcm_reader`).
With `live=true` in the address they come as they are spoken, and what a stall held up is not heard
late for ever; `{"type": "flush"}` ends an utterance, `{"type": "interrupt"}` drops what has not
been heard.
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
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from lipwire.engine import MediaError, SessionClosed
from lipwire.engine.audio.timeline import MAX_RATE_HZ, MIN_RATE_HZ
from lipwire.engine.trace import UNTRACED, Trace
from lipwire.engine.types import I16
from lipwire.server.call.call import Call
from lipwire.server.call.pcm_reader import MAX_CHANNELS, PcmReader
from lipwire.server.rtc.rtcp import ntp_seconds, to_ntp

POLICY_VIOLATION, GOING_AWAY = 1008, 1001  # RFC 6455 section 7.4.1
# Messages read ahead of a full backlog, so that an interruption behind them is still seen. More:
# memory; fewer: an interruption waits behind sound that it should drop.
READ_AHEAD = 64
# The same in sound: a second socket's worth of memory for each. At least one message is taken.
READ_AHEAD_S = 30.0
MAX_TEXT_CHARS = 1024  # commands have forty; JSON is read on the event loop
READ_BYTES = 1 << 16  # looked at without a pause for others
LIVE_CHUNK_S = 0.5  # pushed at once; longer holds up the pictures


def read_query(query: Mapping[str, str]) -> tuple[int, int, bool]:
    """What an address declares: sample rate, channels, and whether the voice is live.

    Raises:
        MediaError: no rate, values that cannot be, or parameters that nobody reads.
    """
    if unknown := sorted(set(query) - {"rate", "channels", "live"}):
        raise MediaError(f"unknown parameter {unknown[0]!r}; there are rate, channels and live")
    rate, channels = query.get("rate"), query.get("channels", "1")
    if rate is None or not rate.isascii() or not rate.isdigit() or len(rate) > 7:
        raise MediaError("declare the sample rate in the address, e.g. ?rate=24000")
    if not MIN_RATE_HZ <= int(rate) <= MAX_RATE_HZ:
        raise MediaError(f"sample rate {rate} Hz is outside {MIN_RATE_HZ}..{MAX_RATE_HZ} Hz")
    if not re.fullmatch("[1-9]", channels) or int(channels) > MAX_CHANNELS:
        raise MediaError(f"channels is {channels!r}, must be 1 to {MAX_CHANNELS}")
    if (live := query.get("live", "false")) not in ("true", "false"):
        raise MediaError(f"live is {live!r}, must be true or false")
    return int(rate), int(channels), live == "true"


class SpeechSocket:
    """One open socket: reads ahead, pushes in order.

    Args:
        socket: accepted already.
        call: whose voice it feeds.
        rate_hz: of the samples.
        live: they come as they are spoken.
        channels: of the samples, which are mixed into one.
    """

    def __init__(
        self, socket: WebSocket, call: Call, rate_hz: int, live: bool = False, channels: int = 1
    ) -> None:
        self._socket, self._peer, self._rate_hz, self._live = socket, call, rate_hz, live
        self._reader = PcmReader(rate_hz, channels)
        self._queue: asyncio.Queue[tuple[I16, int, Trace] | str | None] = asyncio.Queue(READ_AHEAD)
        self._taken_s = 0.0  # since the last flush
        self._ahead_s = 0.0  # in the queue
        self._less = asyncio.Event()  # set when the queue has become shorter

    async def run(self) -> None:
        """Serve until the client leaves or the call ends."""
        await self._send({"type": "ready", "rate": self._rate_hz})
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._watch())
            tasks.create_task(self._read())
            await self._push()
            watch.cancel()

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
                    for start in range(0, len(data), READ_BYTES):
                        await self._take(data[start : start + READ_BYTES], trace)
                else:
                    await self._command(message.get("text") or "")
                # What has come already is received without waiting: a thousand small messages in
                # one read would hold up the pictures.
                await asyncio.sleep(0)
        except (WebSocketDisconnect, RuntimeError):
            pass  # starlette's way of saying that the socket is closed
        await self._finish("the socket closed")
        await self._queue.put(None)

    async def _take(self, data: bytes | None, trace: Trace = UNTRACED) -> None:
        """Queue the sound in data, or, without any, what waited for more; say why not."""
        try:
            pieces = self._reader.end() if data is None else self._reader.feed(data)
        except MediaError as error:
            await self._send({"type": "error", "error": str(error)})
            return
        for samples, rate_hz in pieces:
            trace.stamp("decoded")
            seconds = len(samples) / rate_hz
            while self._ahead_s and self._ahead_s + seconds > READ_AHEAD_S:
                self._less.clear()
                await self._less.wait()
            self._ahead_s += seconds
            await self._queue.put((samples, rate_hz, trace))
            trace = UNTRACED

    async def _command(self, text: str) -> None:
        try:
            command = json.loads(text[:MAX_TEXT_CHARS])
            kind = command["type"]
        except (ValueError, TypeError, KeyError, RecursionError):
            kind = None
        if kind == "flush":
            await self._finish("flush")
            await self._queue.put("flush")
        elif kind == "interrupt":
            self._reader.reset()
            waiting_s = 0.0
            while not self._queue.empty():
                if isinstance(item := self._queue.get_nowait(), tuple):
                    waiting_s += len(item[0]) / item[1]
            unheard_s = round(self._peer.voice.unheard_s + waiting_s, 3)
            self._taken_s = self._ahead_s = 0.0
            self._peer.interrupt()
            await self._send({"type": "interrupted", "unheard_s": unheard_s})
        else:
            expected = 'text must be {"type":"flush"} or {"type":"interrupt"}'
            if len(text) > MAX_TEXT_CHARS or "audio" in text:
                expected += "; sound comes in binary messages, not as base64 in text"
            await self._send({"type": "error", "error": expected})

    async def _finish(self, when: str) -> None:
        """An utterance ends. Half a sample has no other half coming: say so, and keep the rest."""
        await self._take(None)
        half = self._reader.dangling
        self._reader.reset()
        if half:
            await self._send(
                {"type": "error", "error": f"half a sample was left when {when}; it was dropped"}
            )

    async def _push(self) -> None:
        while (item := await self._queue.get()) is not None:
            # What still comes when the call is over has nowhere to go.
            with contextlib.suppress(SessionClosed):
                if isinstance(item, str):
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


def _report_s(in_s: float) -> float:
    """A moment ahead as sender reports name it, seconds since 1900."""
    return ntp_seconds(to_ntp(time.monotonic() + in_s))


async def refuse(socket: WebSocket, reason: str) -> None:
    """Accept, say why not, and close: a browser sees the reason of a close, not of a refusal."""
    await socket.accept()
    await socket.send_json({"type": "error", "error": reason})
    await socket.close(POLICY_VIOLATION, reason)
