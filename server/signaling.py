"""Calls as plain objects, without a web framework: what an offer may be, and who is in a call."""

from __future__ import annotations

import asyncio
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from aiortc.sdp import SessionDescription

from engine import Engine, EngineConfig, LipwireError, SessionClosed
from server.config import ServerConfig
from server.ice import filter_candidates
from server.peer import Peer

log = logging.getLogger(__name__)

MAX_SDP_BYTES = 64 * 1024  # browsers send 5 to 7 kB
MAX_AUDIO = 2  # the original voice, then the new one
ANSWER_S = 10.0  # an answer takes milliseconds; longer means that something hangs


class OfferError(LipwireError, ValueError):
    """An offer that cannot be answered; the message says why."""


class ConsentMissing(LipwireError):
    """The caller does not say that the person shown has agreed."""


class ServerFull(LipwireError):
    """As many calls as this server takes are running."""


class NoSuchSession(LipwireError, KeyError):
    """No call of this id, or no more."""

    def __str__(self) -> str:
        """The message itself; a KeyError would show it in quotes."""
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer that has been looked at; make it with `read_offer`."""

    sdp: str
    """with unusable candidates taken out"""
    audio: int
    """audio sections: 0 to MAX_AUDIO"""
    config: EngineConfig = field(default_factory=EngineConfig)


def read_offer(sdp: str, kind: str = "offer", config: EngineConfig | None = None) -> Offer:
    """Check an offer before anything is built for it.

    Args:
        sdp: the session description.
        kind: its type, as browsers name it.
        config: of the session that is to serve it.

    Raises:
        OfferError: not an offer, or not one that sends us a picture.
    """
    if kind != "offer":
        raise OfferError(f"type is {kind!r}, must be 'offer'")
    if len(sdp.encode()) > MAX_SDP_BYTES:
        raise OfferError(f"the offer is larger than {MAX_SDP_BYTES // 1024} kB")
    if not sdp.startswith("v=0"):
        raise OfferError("the body is not SDP: it does not begin with v=0")
    try:
        # Filtered first: reading thousands of candidates would hold up every other call.
        sdp = filter_candidates(sdp)
        description = SessionDescription.parse(sdp)
    except Exception as error:  # the parser fails in many ways on what is not SDP
        raise OfferError("the body is not SDP that can be read") from error
    media = description.media
    kinds = [m.kind for m in media]
    if unknown := set(kinds) - {"audio", "video", "application"}:
        raise OfferError(f"the offer has a section of unknown kind {sorted(unknown)[0]!r}")
    if kinds.count("video") != 1:
        raise OfferError(f"the offer has {kinds.count('video')} video sections, must have one")
    if kinds.count("audio") > MAX_AUDIO or kinds.count("application") > 1:
        raise OfferError(f"the offer has more than {MAX_AUDIO} audio or one data section")
    video = next(m for m in media if m.kind == "video")
    if video.direction not in ("sendrecv", "sendonly"):
        raise OfferError("the offer sends no video: there is no face to work on")
    if any(m.ice is None or not m.ice.usernameFragment or not m.ice.password for m in media):
        raise OfferError("the offer has no ICE user name or password")
    if any(m.dtls is None or not m.dtls.fingerprints for m in media):
        raise OfferError("the offer has no DTLS fingerprint")
    bundled = {
        mid for group in description.group if group.semantic == "BUNDLE" for mid in group.items
    }
    if not {m.rtp.muxId for m in media} <= bundled:
        raise OfferError("the offer does not bundle all its sections on one transport")
    return Offer(sdp, kinds.count("audio"), config or EngineConfig())


class Sessions:
    """Every call of this server, by id.

    Args:
        engine: does the work.
        settings: limits.
    """

    def __init__(self, engine: Engine, settings: ServerConfig) -> None:
        self._engine, self._settings = engine, settings
        self.backlog_max_s = settings.speech_backlog_max_s
        self._peers: dict[str, Peer] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Colour conversion, in and out; more threads than that only wait for each other.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="lipwire-colour")

    def __len__(self) -> int:
        """Calls that are running or being set up."""
        return len(self._peers)

    async def open(self, offer: Offer) -> tuple[str, str]:
        """Begin a call; returns its id (192 random bits) and the answer's SDP.

        Raises:
            ServerFull: no room.
            BundleError: the model does not offer the steps asked for.
            OfferError: the connection cannot be made from this offer.
            SessionClosed: it was ended before it was answered.
        """
        if len(self._peers) >= self._settings.max_sessions:
            raise ServerFull(
                f"all {self._settings.max_sessions} calls that this server takes are running"
            )
        name = secrets.token_urlsafe(24)
        session = self._engine.session(offer.config, name)
        peer = Peer(name, self._engine, session, self._settings, self._pool)
        self._peers[name] = peer
        task = self._tasks[name] = asyncio.create_task(peer.run(offer.sdp), name=f"peer {name[:6]}")
        task.add_done_callback(lambda done: self._forget(name, done))
        try:
            return name, await asyncio.wait_for(asyncio.shield(peer.answer), ANSWER_S)
        except asyncio.CancelledError:
            peer.end("the caller went away")
            raise
        except SessionClosed:
            raise
        except Exception as error:
            peer.end("it could not be answered")
            await asyncio.wait({task})
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise OfferError(f"the offer cannot be answered: {cause}") from error

    def _forget(self, name: str, task: asyncio.Task[None]) -> None:
        self._peers.pop(name, None)
        self._tasks.pop(name, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("call %s ended by a fault", name[:6], exc_info=error)

    def get(self, name: str) -> Peer:
        """The call of this id.

        Raises:
            NoSuchSession: there is none.
        """
        peer = self._peers.get(name)
        if peer is None or peer.ended:
            raise NoSuchSession("no session of this id; it may have ended")
        return peer

    async def close(self, name: str) -> None:
        """End a call and wait until everything of it is gone.

        Raises:
            NoSuchSession: there is none.
        """
        self.get(name).end("it was closed")
        if (task := self._tasks.get(name)) is not None:
            await asyncio.wait({task})

    async def close_all(self) -> None:
        """End every call; new ones are still taken."""
        for peer in self._peers.values():
            peer.end("the server stops")
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()))

    async def shutdown(self) -> None:
        """End every call and the threads that served them."""
        await self.close_all()
        self._pool.shutdown()
