"""Call: a call. One engine session, the link that feeds it, and those that watch or voice it.

tracks -> Intake -> Session -> Relay -> every viewer
data channel "lipwire": figures out twice a second, commands in (`server/call/commands.py`)

All of it runs under one TaskGroup, which ends it together. A browser's call is a publisher that
also watches itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any

from aiortc import MediaStreamTrack, RTCDataChannel

from lipwire.engine import Engine, LipwireError, Session, SessionClosed
from lipwire.engine.runtime.engine import Observe, unobserved
from lipwire.engine.types import Enrolled
from lipwire.server.call.avatar import Clip, FilePublisher
from lipwire.server.call.broadcast import Broadcaster
from lipwire.server.call.commands import handle_command
from lipwire.server.call.events import CHANNEL, EventBus, send_event
from lipwire.server.call.figures import CallFigures
from lipwire.server.call.ingest import Ingest
from lipwire.server.call.speech_queue import SpeechQueue
from lipwire.server.config import ServerConfig
from lipwire.server.media.recording import Archive
from lipwire.server.media.watermark import make_mark
from lipwire.server.ops.logs import name_session
from lipwire.server.rtc.connection import Ending, PeerConnection
from lipwire.server.rtc.sdp import Offer, Purpose

log = logging.getLogger(__name__)

FIGURES_EVERY_S = 0.5
SECRET_CHARS = 32  # random ids have as many
# How long a publisher of a taken name is listened for. Shorter: one whose picture stands still
# sends only a report a second and would lose its name; longer: a reconnecting one waits.
LISTEN_S, LISTEN_EVERY_S = 2.0, 0.1
# Voices of one session that are under way: they wait for each other, on disk and in memory.
MAX_SOURCES = 8


class NotLive(LipwireError):
    """The session exists, but nobody publishes into it yet."""


class VoiceTaken(LipwireError):
    """Another link is the session's voice."""


class TooManyViewers(LipwireError):
    """As many watch this session as may."""


class NameTaken(LipwireError):
    """Somebody else publishes under this name."""


class TooManySources(LipwireError):
    """As many files, texts and sockets as may are this session's voice already."""


class _Over(Exception):
    """Raised inside the group to end it."""


class Call(CallFigures):
    """A call: made with `run`, over when that returns."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        session: Session,
        settings: ServerConfig,
        pool: Executor,
        observe: Observe = unobserved,
        archive: Archive | None = None,
        named: bool = False,
        clip: Clip | None = None,
    ) -> None:
        self.name, self.session, self.named = name, session, named
        self._engine, self.settings = engine, settings
        self.voice = SpeechQueue(session, engine.clock)
        self.ingest = Ingest(
            name, session, self.voice, engine.clock, pool, observe, settings.picture_pixels
        )
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """the SDP to send back, or why there is none"""
        # Long names, such as clients make who need one to come back, are kept like random ids.
        self.public = named and len(name) < SECRET_CHARS
        """whether the name may be listed and logged"""
        # A name's publishers follow each other, and each has an address of its own to end it by.
        self.publisher: PeerConnection | FilePublisher = (
            PeerConnection(settings, None if named else name)
            if clip is None
            else FilePublisher(clip, settings.name_grace_s, lambda: self._needed)
        )
        self._next: asyncio.Queue[PeerConnection | FilePublisher] = asyncio.Queue()
        self._over = asyncio.Event()
        self._live = self._taking_over = False  # whether somebody has published
        self.links: dict[str, tuple[Purpose, PeerConnection]] = {}
        """those that watch or voice the session, by id"""
        self.broadcaster = Broadcaster(
            session, engine.clock, pool, settings, make_mark(settings), observe
        )
        self.events = EventBus(
            session, engine.clock, self.broadcaster, self.voice, self.disclosure(), archive
        )
        self._traffic = [0, 0]  # bytes in and out of links that are closed
        self.endings: Counter[tuple[Purpose, Ending]] = Counter()  # of its links, by purpose
        self._channel: RTCDataChannel | None = None
        self._sources = 0
        self._tasks: asyncio.TaskGroup

    # --- life ---

    @property
    def _needed(self) -> bool:
        return bool(self.links or self._sources)

    async def run(self, offer: Offer | None) -> None:
        """Answer an offer and serve it until `end`, a failure or the peer's leaving.

        Args:
            offer: the publisher's; None where a clip is.
        """
        name_session(self.name, self.public)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self._answer(offer)
                self._start(self.ingest.push_video())
                for work in (self.broadcaster.run_pictures, self.broadcaster.run_sound):
                    self._start(work())
                self._start(self.events.run())
                self._start(self._report())
                await self._serve_publishers()
                raise _Over
        except* _Over:
            pass
        except* Exception as group:
            if self.answer.done():
                raise
            self._refuse(group.exceptions[0])
        finally:
            self.end(Ending.OVER)
            if not self.answer.done():
                self._refuse(SessionClosed("the call was ended before it was answered"))
            self.broadcaster.stop()
            self.ingest.forget()
            self.events.close()
            links = [self.publisher, *(link for _, link in self.links.values())]
            while not self._next.empty():
                links.append(self._next.get_nowait())
            await asyncio.gather(*(link.close() for link in links))
            await asyncio.to_thread(self._engine.end, self.session)

    async def _answer(self, offer: Offer | None) -> None:
        if isinstance(self.publisher, FilePublisher):
            self._start(self.ingest.drain_video(self.publisher.track))
            self.answer.set_result("")
            return
        assert offer is not None
        self.answer.set_result(await self._answer_publisher(self.publisher, offer))

    async def _answer_publisher(self, link: PeerConnection, offer: Offer) -> str:
        link.pc.on("track", partial(self._on_track, link))
        link.pc.on("datachannel", self._on_channel)
        tracks = self.broadcaster.subscribe() if offer.purpose is Purpose.CALL else ()
        return await link.answer(offer, tracks)

    async def _serve_publishers(self) -> None:
        """Return when the call is over: the publisher of a name may be lost and come back."""
        while True:
            self._start(self._note_live(self.publisher))
            await self.publisher.run()
            gone = self.publisher
            self.endings[Purpose.INGEST, gone.ending or Ending.OVER] += 1
            comes_back = self.named and self._live and isinstance(gone, PeerConnection)
            if self._over.is_set() or not comes_back:
                return
            await gone.close()
            seconds = self.settings.name_grace_s
            log.info("the publisher is lost; %g s are waited for another", seconds)
            try:
                self.publisher = await asyncio.wait_for(self._next.get(), seconds)
            except TimeoutError:
                return
            self._add_traffic(gone)

    async def _note_live(self, link: PeerConnection | FilePublisher) -> None:
        await link.wait_connected()
        if link.connected:
            self._live = True
            name = self.name if self.public else self.name[:6] + "..."
            log.info(
                "%s is live: POST /whep/%s to watch, /whip/%s/voice or the socket "
                "/api/sessions/%s/speech for the voice, /view/%s in a browser",
                *[name] * 5,
            )

    async def take_over(self, offer: Offer) -> tuple[PeerConnection, str]:
        """Let a name be published again; viewers and voice stay. Returns link and answer.

        Raises:
            NameTaken: its publisher is still there.
            Exception: aiortc's; the offer cannot be answered.
        """
        if self._taking_over:
            raise NameTaken(f"somebody else takes {self.name!r} over just now; try again")
        self._taking_over = True
        try:
            if not self.publisher.over and await self._heard_from(self.publisher):
                raise NameTaken(f"the name {self.name!r} is taken; its publisher is connected")
            link = PeerConnection(self.settings)
            try:
                answer = await self._answer_publisher(link, offer)
                if self.ended:
                    raise SessionClosed("the session ended meanwhile")
            except BaseException:
                await link.close()
                raise
            self.publisher.end(Ending.REPLACED)
            self._next.put_nowait(link)
            config = offer.config
            if config.steps is not None:
                self.session.set_steps(config.steps)
            self.session.set_silence(config.silence)
            self.session.set_sound(
                original_level=config.original_level,
                ducking=config.ducking,
                loudness_lufs="off" if config.loudness_lufs is None else config.loudness_lufs,
            )
            return link, answer
        finally:
            self._taking_over = False

    async def _heard_from(self, link: PeerConnection | FilePublisher) -> bool:
        """Whether anything comes from a publisher; one that died is noticed much later."""
        if isinstance(link, FilePublisher):
            return True
        before = link.traffic()[0]
        for _ in range(round(LISTEN_S / LISTEN_EVERY_S)):
            await asyncio.sleep(LISTEN_EVERY_S)
            if link.over:
                return False
            if link.traffic()[0] > before:
                return True
        return False

    def _refuse(self, cause: Exception) -> None:
        self.answer.set_exception(cause)
        self.answer.exception()  # whoever asked may be gone: asyncio need not complain

    def end(self, ending: Ending) -> None:
        """End the call; `run` returns soon after."""
        self._over.set()
        self.publisher.end(ending)
        self._next.put_nowait(self.publisher)  # whoever waits for the next one need not

    async def wait_ended(self) -> None:
        """Return when the call is over or about to be."""
        await self._over.wait()

    @property
    def ended(self) -> bool:
        """Whether the call is over or about to be."""
        return self._over.is_set()

    # --- further links ---

    async def attach(self, offer: Offer) -> tuple[PeerConnection, str]:
        """Let someone watch the session or be its voice; returns the link and its answer.

        Raises:
            NotLive: nobody publishes yet.
            TooManyViewers: no more may watch.
            VoiceTaken: another link is the voice.
            Exception: aiortc's; the offer cannot be answered.
        """
        if not self._live:
            raise NotLive("nobody publishes into this session yet; try again soon")
        taken = [link for purpose, link in self.links.values() if purpose is offer.purpose]
        if offer.purpose is Purpose.VOICE and taken:
            raise VoiceTaken("this session has a voice link already; DELETE that one first")
        if offer.purpose is Purpose.WATCH and len(taken) >= self.settings.max_viewers:
            raise TooManyViewers(
                f"all {self.settings.max_viewers} viewers that a session takes are watching"
            )
        link = PeerConnection(self.settings)
        self.links[link.name] = offer.purpose, link  # before anything is awaited: it counts
        takers: list[asyncio.Task[None]] = []
        try:
            if offer.purpose is Purpose.WATCH:
                link.pc.on("datachannel", self.events.admit)
                answer = await link.answer(offer, self.broadcaster.subscribe(), "sendonly")
            else:

                def take(track: MediaStreamTrack) -> None:
                    takers.append(self._start(self.ingest.drain_audio(track, original=False)))

                link.pc.on("track", take)
                answer = await link.answer(offer)
            if self.ended:
                raise SessionClosed("the session ended meanwhile")
        except BaseException:
            del self.links[link.name]
            await link.close()
            raise
        self._start(self._keep(offer.purpose, link, takers))
        return link, answer

    async def _keep(
        self, purpose: Purpose, link: PeerConnection, takers: list[asyncio.Task[None]]
    ) -> None:
        """Serve a further link; its end is not the call's, but that of what takes its media."""
        try:
            await link.run()
        finally:
            self.endings[purpose, link.ending or Ending.OVER] += 1
            for taker in takers:  # a track whose connection never came has no end of its own
                taker.cancel()
            await link.close()
            self._add_traffic(link)
            self.links.pop(link.name, None)

    def _add_traffic(self, link: PeerConnection | FilePublisher) -> None:
        for place, count in enumerate(link.traffic()):
            self._traffic[place] += count

    # --- media in ---

    def _on_track(self, link: PeerConnection, track: MediaStreamTrack) -> None:
        if track.kind == "video":
            self._start(self.ingest.drain_video(track))
            return
        sections = [t for t in link.pc.getTransceivers() if t.kind == "audio"]
        first = not sections or sections[0].receiver.track is track
        self._start(self.ingest.drain_audio(track, original=first))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(work)

    # --- control ---

    @contextlib.contextmanager
    def source(self) -> Iterator[None]:
        """Hold one of the session's places for a voice that is under way.

        Raises:
            TooManySources: all are taken.
        """
        if self._sources >= MAX_SOURCES:
            raise TooManySources(f"{MAX_SOURCES} voices are under way already; wait for them")
        self._sources += 1
        try:
            yield
        finally:
            self._sources -= 1

    def interrupt(self) -> None:
        """Drop the voice that has not been heard."""
        self.voice.interrupt()
        self.events.subtitles.interrupt()
        self.send({"type": "interrupted"})

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label == CHANNEL:
            self._channel = channel
            channel.on("message", partial(handle_command, self))
            self.events.admit(channel)

    def send(self, event: dict[str, Any]) -> None:
        """Tell the publisher, if he opened the channel and reads it."""
        send_event(self._channel, event)

    async def _report(self) -> None:
        told = Enrolled.NONE
        while True:
            await asyncio.sleep(FIGURES_EVERY_S)
            if (state := self.stats().bank.enrolled) is not told:
                told = state
                self._tell_enrolled(state)
            self.send({"type": "stats", **self.figures()})

    def _tell_enrolled(self, state: Enrolled) -> None:
        """What became of a bank that was given."""
        if state is Enrolled.REFUSED:
            why = "the bank is of another person than the face; the call goes on without"
            log.warning("%s: %s", self.name[:6], why)
        self.send({"type": "bank", "enrolled": state})
