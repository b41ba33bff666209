"""Sessions: who is in a call, as plain objects without a web framework."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lipwire.engine import Engine, LipwireError, SessionClosed
from lipwire.engine.runtime.engine import Observe, unobserved
from lipwire.server.call.avatar import Clip, FilePublisher
from lipwire.server.call.call import Call, NameTaken
from lipwire.server.config import ServerConfig
from lipwire.server.media.recording import Archive, RecordingRefused
from lipwire.server.ops import memory
from lipwire.server.rtc.connection import Ending, PeerConnection
from lipwire.server.rtc.sdp import Offer, OfferRefused, Purpose

log = logging.getLogger(__name__)

# After a call's end: what answers its DELETE still holds it. Longer: idle servers stay large.
REST_S = 1.0
# Names stand in addresses, logs and the names of recordings. `live` stands before names.
NAME, RESERVED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"), "live"
ANSWER_S = 10.0  # an answer takes milliseconds; longer means that something hangs


class ConsentMissing(LipwireError):
    """The caller does not say that the person shown has agreed."""


class ServerFull(LipwireError):
    """As many calls as this server takes are running, or it is about to stop."""


class NoSuchSession(LipwireError, KeyError):
    """No call of this id, or no more."""

    def __str__(self) -> str:
        """The message itself; a KeyError would show it in quotes."""
        return str(self.args[0])


class BadName(LipwireError):
    """A name that no session can have."""


class PreconditionMissing(LipwireError):
    """A change without If-Match."""


class PreconditionFailed(LipwireError):
    """If-Match names another ICE session."""


class Sessions:
    """Every call of this server, by id."""

    def __init__(
        self,
        engine: Engine,
        settings: ServerConfig,
        observe: Observe = unobserved,
        on_begin: Callable[[Call], None] | None = None,
        on_end: Callable[[Call], None] | None = None,
    ) -> None:
        self._engine, self.settings = engine, settings
        manifest = engine.backend.manifest
        self.archive = Archive(settings, f"{manifest.name} {manifest.version}")
        self._observe, self._on_begin, self._on_end = observe, on_begin, on_end
        engine.observe = observe
        self._peers: dict[str, Call] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.draining = False  # whether the server is about to stop and takes no more calls
        # Colour conversion, in and out; more threads than that only wait for each other.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="lipwire-colour")

    def __len__(self) -> int:
        """Calls that are running or being set up."""
        return len(self._peers)

    @property
    def peers(self) -> list[Call]:
        return list(self._peers.values())

    def check_room(self) -> None:
        """Raise unless another call may begin; cheap, so that refusing costs nothing.

        Raises:
            ServerFull: no room.
        """
        if self.draining:
            raise ServerFull("the server is about to stop and takes no more calls")
        if len(self._peers) >= self.settings.max_sessions:
            raise ServerFull(
                f"all {self.settings.max_sessions} calls that this server takes are running"
            )

    def check_publish(self, name: str | None) -> None:
        """`check_room` for a publisher of this name: who takes one over needs no room.

        Raises:
            BadName: a name that cannot be used.
            ServerFull: no room.
        """
        if name is None or check_name(name) not in self._peers:
            self.check_room()

    async def publish(
        self, offer: Offer | Clip, name: str | None = None, record: bool = False
    ) -> tuple[str, PeerConnection | FilePublisher, str]:
        """Begin a call, or take over the one of this name whose publisher was lost.

        Returns its id, the publisher's link and the answer's SDP; see `open`.

        Raises:
            NameTaken: its publisher is there.
        """
        call = None if name is None else self._peers.get(name)
        if name is None or call is None or call.ended:
            if call is not None and (task := self._tasks.get(call.name)) is not None:
                await asyncio.wait({task})  # it is about to be over
            opened, answer = await self.open(offer, record, name)
            return opened, self.get(opened).publisher, answer
        if not call.named:
            raise NameTaken("this is the id of another session")
        if isinstance(offer, Clip):
            raise NameTaken(f"the name {name!r} is taken; DELETE that session first")
        try:
            link, answer = await asyncio.wait_for(call.take_over(offer), ANSWER_S)
        except LipwireError:
            raise
        except Exception as error:
            raise _unanswered(error) from error
        if record:
            call.events.record(True)
        return name, link, answer

    async def open(
        self, offer: Offer | Clip, record: bool = False, chosen: str | None = None
    ) -> tuple[str, str]:
        """Begin a call; returns its id (192 random bits, or the chosen name) and the answer's SDP.

        Args:
            offer: the publisher's, who has consent; or a clip that stands for him.
            record: keep what leaves as a file, from the first picture on.
            chosen: the publisher's name for it.

        Raises:
            BadName: a name that cannot be used.
            ServerFull: no room.
            RecordingRefused: this server does not record, or cannot now.
            BundleError: the model does not offer the steps asked for.
            OfferRefused: the connection cannot be made from this offer.
            SessionClosed: it was ended before it was answered.
        """
        self.check_room()
        if record:
            self.archive.check()
        name = secrets.token_urlsafe(24) if chosen is None else check_name(chosen)
        if name in self._peers:  # two of them at once
            raise NameTaken(f"the name {name!r} is taken; its publisher is connecting")
        session = self._engine.session(offer.config, name)
        clip = offer if isinstance(offer, Clip) else None
        beside = (self.settings, self._pool, self._observe, self.archive)
        call = Call(name, self._engine, session, *beside, named=chosen is not None, clip=clip)
        self._peers[name] = call
        if self._on_begin is not None:
            self._on_begin(call)
        task = self._tasks[name] = asyncio.create_task(
            call.run(offer if isinstance(offer, Offer) else None), name=f"peer {name[:6]}"
        )
        task.add_done_callback(lambda done: self._forget(call, done))
        try:
            answer = await asyncio.wait_for(asyncio.shield(call.answer), ANSWER_S)
            if record:
                call.events.record(True)
            return name, answer
        except asyncio.CancelledError:
            call.end(Ending.LEFT)
            raise
        except SessionClosed:
            raise
        except RecordingRefused:
            call.end(Ending.REFUSED)
            raise
        except Exception as error:
            call.end(Ending.REFUSED)
            await asyncio.wait({task})
            raise _unanswered(error) from error

    async def attach(self, name: str, offer: Offer) -> tuple[PeerConnection, str]:
        """Let someone watch a call or voice it; returns the link and the answer's SDP.

        Raises:
            NoSuchSession: there is none of this id.
            NotLive: nobody publishes yet.
            TooManyViewers: no more may watch.
            VoiceTaken: another link is the voice.
            ServerFull: the server has no UDP port left.
            OfferRefused: the connection cannot be made from this offer.
        """
        call = self.get(name)
        try:
            return await asyncio.wait_for(call.attach(offer), ANSWER_S)
        except LipwireError:
            raise
        except Exception as error:
            raise _unanswered(error) from error

    def _forget(self, call: Call, task: asyncio.Task[None]) -> None:
        self._peers.pop(call.name, None)
        self._tasks.pop(call.name, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("call %s ended by a fault", call.name[:6], exc_info=error)
        if self._on_end is not None:
            self._on_end(call)
        asyncio.get_running_loop().call_later(REST_S, self._rest)

    def _rest(self) -> None:
        if not self._peers:  # nobody is there to wait for it
            asyncio.get_running_loop().run_in_executor(None, memory.give_back)

    def get(self, name: str) -> Call:
        """The call of this id.

        Raises:
            NoSuchSession: there is none.
        """
        call = self._peers.get(name)
        if call is None or call.ended:
            raise NoSuchSession("no session of this id; it may have ended")
        return call

    def link(self, name: str, purpose: Purpose, link_name: str | None = None) -> PeerConnection:
        """A link of a call: its publisher's, or one that watches or voices it.

        Raises:
            NoSuchSession: there is none.
        """
        call = self.get(name)
        publisher = call.publisher
        if link_name is None or (purpose is Purpose.INGEST and link_name == publisher.name):
            if not isinstance(publisher, PeerConnection):
                raise NoSuchSession(
                    "this session's face is a file; it has no connection of its own"
                )
            return publisher
        found_purpose, link = call.links.get(link_name, (None, None))
        if link is None or link.over or found_purpose is not purpose:
            raise NoSuchSession("no link of this id; it may have ended")
        return link

    async def close(self, name: str, publisher: str | None = None) -> None:
        """End a call and wait until everything of it is gone.

        Args:
            name: its id.
            publisher: only if this is its publisher's link.

        Raises:
            NoSuchSession: there is none.
        """
        if publisher not in (None, self.get(name).publisher.name):
            raise NoSuchSession("no link of this id; it may have ended")
        self.get(name).end(Ending.CLOSED)
        if (task := self._tasks.get(name)) is not None:
            await asyncio.wait({task})

    async def drain(self, patience_s: float) -> None:
        """Take no more calls, and let those that run go on for a while; then end them.

        Until then they lack nothing: they take viewers, a voice, and their publisher who was lost.
        """
        self.draining = True
        for call in self.peers:
            call.send({"type": "ending", "seconds": patience_s})
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()), timeout=patience_s)
        await self.close_all()

    async def close_all(self) -> None:
        """End every call; new ones are still taken."""
        for call in self._peers.values():
            call.end(Ending.STOPPED)
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()))

    async def shutdown(self) -> None:
        """End every call and the threads that served them."""
        await self.close_all()
        await asyncio.to_thread(self.archive.close)
        self._pool.shutdown()


def check_name(name: str) -> str:
    """A name that a publisher may give its session.

    Raises:
        BadName: it may not.
    """
    if not NAME.fullmatch(name) or name == RESERVED:
        raise BadName(
            "a session's name has 1 to 64 letters, digits, '.', '-' and '_', begins with a letter "
            f"or digit, and is not {RESERVED!r}"
        )
    return name


def check_match(if_match: str | None, etag: str) -> None:
    """The precondition of a PATCH (RFC 9725 section 4.3.2).

    Raises:
        PreconditionMissing: none was given.
        PreconditionFailed: it names another ICE session.
    """
    if if_match is None:
        raise PreconditionMissing("a PATCH needs If-Match with the ETag of the 201")
    given = {value.strip() for value in if_match.split(",")}
    if "*" not in given and etag not in given:
        raise PreconditionFailed("If-Match does not name the current ICE session")


def _unanswered(error: Exception) -> LipwireError:
    """Why an offer has no answer, in one line."""
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, ConnectionError):
        return ServerFull(cause)
    return OfferRefused(f"the offer cannot be answered: {cause}")
