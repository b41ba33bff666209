"""One peer connection and its engine session, under one TaskGroup that ends them together.

video   -> newest-frame slot -> RGB (thread) -> push_video -> ... -> PictureTrack -> out
audio 1 -> push_original;  audio 2 -> Voice (the new voice)  ... -> VoiceTrack   -> out
data channel "lipwire": figures out twice a second, commands in
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine
from concurrent.futures import Executor
from fractions import Fraction
from typing import Any

import av
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

from engine import ConfigError, Engine, Outcome, Session, SessionClosed, VideoFrame
from engine.media import to_rgb
from server.codecs import suggest_bitrate
from server.config import ServerConfig
from server.speech import Voice
from server.tracks import PictureTrack, VoiceTrack, to_mono

log = logging.getLogger(__name__)

CHANNEL = "lipwire"
FIGURES_EVERY_S = 0.5
CLOSE_S = 5.0  # closing takes milliseconds; a transport that hangs must not keep the slot


class _Over(Exception):
    """Raised inside the group to end it."""


class Peer:
    """A call: made with `run`, over when that returns.

    Args:
        name: the call's id.
        engine: does the work.
        session: this call's, ended with the call.
        settings: limits.
        pool: converts colours.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        session: Session,
        settings: ServerConfig,
        pool: Executor,
    ) -> None:
        self.name, self.session = name, session
        self._engine, self._settings, self._pool = engine, settings, pool
        self.voice = Voice(session, engine.clock)
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """the SDP to send back, or why there is none"""
        self.original_level = session.config.original_level
        # No public STUN server is asked. Everything on one transport: with aiortc's own choice a
        # second audio section is left behind on a transport that is closed.
        self._pc = RTCPeerConnection(
            RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._over, self._connected = asyncio.Event(), asyncio.Event()
        self._channel: RTCDataChannel | None = None
        self._newest: tuple[av.VideoFrame, float] | None = None
        self._fresh = asyncio.Event()  # set while `_newest` waits
        self._skipped = 0  # pictures replaced in the slot before they were converted
        self._tasks: asyncio.TaskGroup

    # --- life ---

    async def run(self, offer: str) -> None:
        """Answer an offer and serve it until `end`, a failure or the peer's leaving."""
        self._pc.on("track", self._on_track)
        self._pc.on("datachannel", self._on_channel)
        self._pc.on("connectionstatechange", self._on_state)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self._answer(offer)
                self._tasks.create_task(self._reap())
                self._tasks.create_task(self._report())
                await self._over.wait()
                raise _Over
        except* _Over:
            pass
        except* Exception as group:
            if self.answer.done():
                raise
            self._refuse(group.exceptions[0])
        finally:
            self._over.set()
            if not self.answer.done():
                self._refuse(SessionClosed("the call was ended before it was answered"))
            try:
                await asyncio.wait_for(self._pc.close(), CLOSE_S)
            except TimeoutError:
                log.error("call %s: its connection did not close", self.name[:6])
            await asyncio.to_thread(self._engine.end, self.session)

    def _refuse(self, cause: Exception) -> None:
        self.answer.set_exception(cause)
        self.answer.exception()  # whoever asked may be gone: asyncio need not complain

    def end(self, reason: str) -> None:
        """End the call; `run` returns soon after."""
        if not self._over.is_set():
            log.info("call %s ends: %s", self.name[:6], reason)
            self._over.set()

    async def wait_ended(self) -> None:
        """Return when the call is over or about to be."""
        await self._over.wait()

    @property
    def ended(self) -> bool:
        """Whether the call is over or about to be."""
        return self._over.is_set()

    async def _answer(self, offer: str) -> None:
        pc, clock = self._pc, self._engine.clock
        await pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        # Sent on the first section of each kind: tracks added now take existing ones.
        pc.addTrack(PictureTrack(self.session, clock, self._pool))
        if any(t.kind == "audio" for t in pc.getTransceivers()):
            pc.addTrack(VoiceTrack(self.session, clock))
        await pc.setLocalDescription(await pc.createAnswer())
        self.answer.set_result(suggest_bitrate(pc.localDescription.sdp, self._settings.start_kbps))

    async def _reap(self) -> None:
        """Give the slot back when the peer never connects: ICE alone would wait for minutes."""
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await self._connected.wait()
        except TimeoutError:
            self.end(f"no connection within {self._settings.connect_timeout_s:g} s")

    def _on_state(self) -> None:
        state = self._pc.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self.end(f"the connection {state}")

    # --- media in ---

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "video":
            self._start(self._drain_video(track))
            self._start(self._push_video())
            return
        sections = [t for t in self._pc.getTransceivers() if t.kind == "audio"]
        first = not sections or sections[0].receiver.track is track
        self._start(self._drain_audio(track, original=first))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.create_task(work)

    async def _drain_video(self, track: MediaStreamTrack) -> None:
        """Take every picture at once, so that aiortc's queue stays empty; keep the newest."""
        try:
            while True:
                frame = await track.recv()
                self._skipped += self._fresh.is_set()
                self._newest = frame, self._engine.clock()  # type: ignore[assignment]
                self._fresh.set()
        except MediaStreamError:
            pass  # the camera stopped; the connection's own state says whether the call is over

    async def _push_video(self) -> None:
        loop = asyncio.get_running_loop()
        faults = 0
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            assert self._newest is not None
            frame, now = self._newest
            try:
                image = await loop.run_in_executor(self._pool, to_rgb, frame)
                base = Fraction(frame.time_base or Fraction(1, 90_000))
                self.session.push_video(VideoFrame(image, frame.pts or 0, base), now)
            except SessionClosed:
                return
            except Exception:
                faults += 1
                if faults == 1:
                    log.exception("call %s: taking a picture failed", self.name[:6])

    async def _drain_audio(self, track: MediaStreamTrack, original: bool) -> None:
        faults = 0
        while True:
            try:
                frame = await track.recv()
                assert isinstance(frame, av.AudioFrame)
                if not original:
                    self.voice.push_live(to_mono(frame), frame.sample_rate)
                elif self.original_level > 0:
                    now = self._engine.clock()
                    self.session.push_original(to_mono(frame), frame.sample_rate, now)
            except (MediaStreamError, SessionClosed):
                return
            except Exception:
                faults += 1
                if faults == 1:
                    log.exception("call %s: taking sound failed", self.name[:6])

    # --- control ---

    def set_steps(self, steps: int) -> None:
        """Spend this many steps a picture from now on.

        Raises:
            ConfigError: the model does not offer them.
        """
        self.session.set_steps(steps)

    def set_original_level(self, level: float) -> None:
        """How loud the original voice is underneath, 0 to 1.

        Raises:
            ConfigError: out of that range.
        """
        if not 0 <= level <= 1:
            raise ConfigError(f"original_level is {level}, must lie within 0 and 1")
        self.original_level = level
        self.session.set_original_level(level)

    def interrupt(self) -> None:
        """Drop the voice that has not been heard."""
        self.voice.interrupt()
        self.send({"type": "interrupted"})

    def _command(self, message: str | bytes) -> None:
        """Carry out what came over the data channel; what cannot be is answered with an error."""
        try:
            command = json.loads(message)
            match command:
                case {"type": "interrupt"}:
                    self.interrupt()
                case {"type": "flush"}:
                    self.voice.flush()
                    self.send({"type": "flushed"})
                case {"type": "steps", "steps": int(steps)}:
                    self.set_steps(steps)
                case {"type": "original_level", "level": int(level) | float(level)}:
                    self.set_original_level(level)
                case _:
                    raise ValueError(f"unknown command {str(command)[:80]}")
        except Exception as error:  # whatever a stranger sends must not end the call
            self.send({"type": "error", "error": str(error)})

    # --- figures ---

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label == CHANNEL:
            self._channel = channel
            channel.on("message", self._command)

    def send(self, event: dict[str, Any]) -> None:
        """Tell the other side, if it opened the channel and reads it."""
        channel = self._channel
        # A peer that stopped reading would let the queue grow without end.
        if channel is None or channel.readyState != "open" or channel.bufferedAmount > 65_536:
            return
        channel.send(json.dumps(event))

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(FIGURES_EVERY_S)
            self.send({"type": "stats", **self.figures()})

    def figures(self) -> dict[str, Any]:
        """What the call is doing, for people and dashboards; milliseconds, seconds, counts."""
        now = self._engine.clock()
        stats = self.session.stats(now)
        return {
            "seconds": round(self.session.time_s(now), 2),
            "fps": round(stats.fps, 1),
            "delay_p50_ms": round(stats.delay_p50_s * 1000, 1),
            "delay_p95_ms": round(stats.delay_p95_s * 1000, 1),
            "frames_in": stats.frames_in,
            "frames_out": stats.frames_out,
            "frames_skipped": self._skipped,
            "generated": stats.generated,
            "passed_through": {
                reason.value: count
                for reason, count in sorted(stats.outcomes.items())
                if reason is not Outcome.GENERATED
            },
            "speaking": stats.speaking,
            "backlog_s": round(stats.speech_backlog_s, 2),
            "steps": stats.steps,
            "original_level": self.original_level,
        }
