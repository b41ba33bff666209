"""LipwireCall: a call that outlives its connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from lipwire_client.link import Address, CallLost, Link, Refused
from lipwire_client.media import Newest, Picture, Sound

log = logging.getLogger(__name__)

# What may wait for a slow reader: a second of sound, and of pictures less than can be seen as lag.
PICTURES, SOUNDS = 5, 50
# Between attempts to connect again: the first, the longest. Longer: who comes just before his
# server is not back within three seconds of it.
AGAIN_S, AGAIN_MAX_S = 0.2, 1.0
# After an interruption: how long what is still under way is not heard, at most, and the level of
# silence. Shorter: a syllable of what was dropped is heard; longer: the next voice loses its first.
HUSH_S, QUIET = 0.4, 30
CHUNK_BYTES = 2**18  # of voice at once; the server takes messages of at most 1 MiB


class LipwireCall:
    """A session on a lipwire server, as an async context manager.

    Entering connects and raises what the server says no to. From then on the call connects again by
    itself, under its name, whenever the connection or the server is lost.

    Args:
        url: of the server, such as `http://127.0.0.1:8080`.
        token: for it, with the rights to publish and to speak.
        name: of the session, by which others watch it; None makes one that cannot be guessed.
        consent: the person shown has agreed; the server refuses calls without (or the token
            carries it).
        face: a clip, shown forth and back, or a photo, in place of the camera: `send_image` is
            not needed then, and the token wants the right to watch, too.
        rate_hz: the voice's rate, unless `speak` says otherwise.
        tls: for servers with a certificate of their own.
        on_event: told what the server says beside the media: `begins`, `flushed`, `interrupted`
            (with `unheard_s` where this call did it), `subtitle`, `quality`, `stats`, `error`; and
            `lost`, `connected` by the call itself.
        **settings: of the session: steps, original_level, silence, ducking, loudness_lufs, record.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        name: str | None = None,
        consent: bool = False,
        face: str | Path | None = None,
        rate_hz: int = 24_000,
        tls: ssl.SSLContext | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        **settings: Any,
    ) -> None:
        self.name = name or f"call-{secrets.token_urlsafe(24)}"
        settings = {"consent": consent, **settings}
        picture = Path(face).read_bytes() if face is not None else None
        self._address = Address(url.rstrip("/"), self.name, token, settings, tls, picture)
        self._rate_hz, self._tell = rate_hz, on_event or (lambda event: None)
        self._pictures: Newest[Picture] = Newest(PICTURES)
        self._sounds: Newest[Sound] = Newest(SOUNDS)
        self._stats: dict[str, Any] = {}
        self._link: Link | None = None
        self._there = asyncio.Event()  # set while `_link` works
        self._error: Exception | None = None
        self._eras = 0  # interruptions
        self._hush_until_s = 0.0
        self._speaking = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self.reconnects = 0
        """how often it connected again"""

    async def __aenter__(self) -> LipwireCall:
        """Connect.

        Raises:
            Refused: the server says no.
            CallLost: it does not answer.
        """
        await self._connect()
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the session."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        link, self._link = self._link, None
        if link is not None:
            await link.close(end=True)
        self._finish(None)

    @property
    def connected(self) -> bool:
        """Whether media flows now."""
        return self._there.is_set()

    async def _connect(self) -> None:
        link = Link(self._address, self._rate_hz, self._on_frame, self._on_event)
        before, self._link = self._link, link  # a picture given meanwhile is the first to leave
        try:
            await link.open()
        except BaseException:
            self._link = before
            await link.close(end=False)
            raise
        self._there.set()
        self._tell({"type": "connected", "name": self.name})

    async def _keep(self) -> None:
        """Connect again whenever that is needed, for as long as it may help."""
        while True:
            assert self._link is not None
            await self._link.lost.wait()
            self._there.clear()
            log.warning("%s: %s; connecting again", self.name, self._link.why)
            self._tell({"type": "lost", "why": self._link.why})
            await self._link.close(end=False)
            wait_s = AGAIN_S
            while not self._there.is_set():
                try:
                    await self._connect()
                    self.reconnects += 1
                except Refused as error:
                    if error.retry_after_s is None and error.status < 500:
                        self._finish(error)
                        return
                    log.info("%s: %s", self.name, error)
                except CallLost as error:
                    log.info("%s: %s", self.name, error)
                if not self._there.is_set():
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, AGAIN_MAX_S)

    def _finish(self, error: Exception | None) -> None:
        self._error = error or CallLost("the call is over")
        self._there.set()  # nobody need wait any more
        self._pictures.end(error)
        self._sounds.end(error)

    def _on_frame(self, frame: Picture | Sound) -> None:
        if isinstance(frame, Picture):
            self._pictures.put(frame)
            return
        if time.monotonic() < self._hush_until_s:
            # Until what was under way has come; silence after it is the end of it.
            if np.abs(frame.samples.astype(np.int32)).max(initial=0) < QUIET:
                self._hush_until_s = 0.0
            frame = replace(frame, samples=np.zeros_like(frame.samples))
        self._sounds.put(frame)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("type") == "stats":
            self._stats = event
        self._tell(event)

    async def _working(self) -> Link:
        """The link, once there is one that works."""
        while True:
            await self._there.wait()
            if self._error is not None:
                raise self._error
            if self._link is not None and not self._link.lost.is_set():
                return self._link
            await asyncio.sleep(0)  # the keeper is about to notice

    # --- what goes in ---

    def send_image(self, rgb: bytes | NDArray[np.uint8], size: tuple[int, int]) -> None:
        """Send the camera's picture; one that has not left gives way. None is kept while lost.

        Args:
            rgb: uint8, rows of RGB.
            size: width and height.

        Raises:
            ValueError: they do not fit each other.
        """
        if self._link is not None:
            self._link.send_image(rgb, size)

    async def speak(self, pcm: bytes | NDArray[np.int16], rate_hz: int | None = None) -> bool:
        """Send voice, as fast as it comes; waits while the server's queue is full, or it is lost.

        Args:
            pcm: 16-bit little-endian mono.
            rate_hz: its rate; None: as before.

        Returns:
            False when an interruption dropped it.

        Raises:
            Refused: connecting again, the server said no.
            CallLost: the call is over.
        """
        data = pcm if isinstance(pcm, bytes) else np.ascontiguousarray(pcm, "<i2").tobytes()
        era = self._eras
        async with self._speaking:  # pieces keep their order
            for start in range(0, len(data), CHUNK_BYTES):
                piece = data[start : start + CHUNK_BYTES]
                while era == self._eras:
                    link = await self._working()
                    with contextlib.suppress(CallLost):  # the next link gets it
                        await link.set_rate(rate_hz or self._rate_hz)
                        self._rate_hz = link.rate_hz
                        await link.send(piece)
                        break
        return era == self._eras

    async def flush(self) -> None:
        """The utterance is complete; the server says `flushed` when all of it has its time."""
        async with self._speaking:
            with contextlib.suppress(CallLost):
                await (await self._working()).send({"type": "flush"})

    async def interrupt(self) -> None:
        """Drop the voice that has not been heard, here too."""
        self._eras += 1
        self._sounds.clear()
        self._hush_until_s = time.monotonic() + HUSH_S
        if self._link is not None:
            with contextlib.suppress(CallLost):
                await self._link.send({"type": "interrupt"})

    # --- what comes out ---

    @overload
    def frames(self, kind: Literal["video"]) -> AsyncIterator[Picture]: ...
    @overload
    def frames(self, kind: Literal["audio"]) -> AsyncIterator[Sound]: ...
    async def frames(self, kind: Literal["video", "audio"]) -> AsyncIterator[Picture | Sound]:
        """Pictures or sound as they come, through reconnections, until the call is over.

        One reader each; what a slow one does not take is dropped, oldest first.

        Raises:
            Refused: connecting again, the server said no.
        """
        queue: Newest[Any] = self._pictures if kind == "video" else self._sounds
        while True:
            try:
                yield await queue.get()
            except StopAsyncIteration:
                return

    def stats(self) -> dict[str, Any]:
        """What the server last said of the session (docs/api), and what was lost here."""
        return {
            **self._stats,
            "reconnects": self.reconnects,
            "dropped": {"video": self._pictures.dropped, "audio": self._sounds.dropped},
        }
