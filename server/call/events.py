"""EventBus: what those who see a session are told beside the media, and what is kept of it.

Everybody who opened a data channel named "lipwire" (the caller, WHEP viewers) hears the disclosure,
whether the session is recorded, that its quality is lowered, and the subtitles at the time they
belong to.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiortc import RTCDataChannel

from lipwire.engine import Session
from lipwire.server.call.broadcast import Broadcaster
from lipwire.server.call.quality import QualityWatch
from lipwire.server.call.speech_queue import SpeechQueue
from lipwire.server.media.recording import Archive, Recording, RecordingRefused
from lipwire.server.media.subtitles import CLEAR, Cue, Subtitles

CHANNEL = "lipwire"
# A peer that stopped reading would let the queue grow without end.
UNREAD_BYTES = 65_536
LOOK_EVERY_S = 0.5  # for a recording that ended by itself and for changes of quality


def send_event(channel: RTCDataChannel | None, event: dict[str, Any]) -> None:
    """Tell one other side, if it opened a channel and reads it."""
    if channel is None or channel.readyState != "open" or channel.bufferedAmount > UNREAD_BYTES:
        return
    channel.send(json.dumps(event))


class EventBus:
    """Of one session; `run` is for the call's task group."""

    def __init__(
        self,
        session: Session,
        clock: Callable[[], float],
        broadcaster: Broadcaster,
        voice: SpeechQueue,
        disclosure: dict[str, Any],
        archive: Archive | None = None,
    ) -> None:
        self._session, self._relay, self._voice = session, broadcaster, voice
        self._disclosure, self._archive = disclosure, archive
        self._channels: list[RTCDataChannel] = []
        self.subtitles = Subtitles(clock, self._heard, lambda: self.broadcast(CLEAR))
        self.quality = QualityWatch(session)
        voice.on_text = self.subtitles.add_spoken
        self.recording: Recording | None = None
        self._said: dict[str, Any] | None = None  # of the recording, last

    # --- channels ---

    def admit(self, channel: RTCDataChannel) -> None:
        """Somebody opened a data channel; those of other names are not ours."""
        if channel.label == CHANNEL:
            self._channels.append(channel)
            send_event(channel, {"type": "disclosure", **self._disclosure})
            send_event(channel, self._state())
            if (lowered := self.quality.state()) is not None:
                send_event(channel, lowered)

    def broadcast(self, event: dict[str, Any]) -> None:
        self._channels = [c for c in self._channels if c.readyState in ("connecting", "open")]
        for channel in self._channels:
            send_event(channel, event)

    async def run(self) -> None:
        """Tell subtitles, changes of quality and what becomes of the recording, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.subtitles.run())
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                for event in self.quality.news():
                    self.broadcast(event)
                if self._state() != self._said:
                    self._tell_recording()

    def obey(self, command: dict[str, Any]) -> None:
        """Carry out what the publisher's channel asks for.

        Raises:
            ValueError: it cannot be understood.
            LipwireError: it cannot be done.
        """
        match command:
            case {"type": "subtitle", "text": str(text)}:
                language, duration_s = command.get("language"), command.get("duration_s")
                if not isinstance(language, str | None):
                    raise ValueError("language must be text such as 'de'")
                if not isinstance(duration_s, int | float | None):
                    raise ValueError("duration_s must be a number")
                self.subtitle(text, language, duration_s)
            case {"type": "record", "on": bool(on)}:
                self.record(on)
            case _:
                raise ValueError("a subtitle needs a text, record needs on: true or false")

    # --- subtitles ---

    def subtitle(self, text: str, language: str | None, duration_s: float | None) -> float:
        """Take text for the voice that was scheduled since the last one; seconds until it is shown.

        Raises:
            MediaError: text, language or duration cannot be used.
            TooManySubtitles: they come too fast.
        """
        return self.subtitles.add(text, language, self._voice.take_span(), duration_s)

    def _heard(self, cue: Cue) -> None:
        self.broadcast(cue.event())
        if self.recording is not None:
            self.recording.put_cue(replace(cue, start_s=self._session.time_s(cue.start_s)))

    # --- recording ---

    @property
    def recorded(self) -> bool:
        """Whether what they see is being kept."""
        return self.recording is not None and self.recording.ended is None

    def record(self, on: bool) -> None:
        """Begin or end a recording; what is so already stays so.

        Raises:
            RecordingRefused: this server does not record, or cannot now.
        """
        if on and not self.recorded:
            if self._archive is None:
                raise RecordingRefused("this server does not record")
            self.recording = self._archive.begin(self._session.name)
            self._relay.taps.append(self.recording.put)
        elif not on and self.recording is not None:
            self.recording.finish("it was stopped")
        self._tell_recording()

    def _state(self) -> dict[str, Any]:
        """Whether it is recorded, and why no longer."""
        ended = self.recording.ended if self.recording is not None else None
        return {"type": "recording", "on": self.recorded, "ended": ended}

    def _tell_recording(self) -> None:
        if not self.recorded and self.recording is not None:
            if self.recording.put in self._relay.taps:
                self._relay.taps.remove(self.recording.put)
        self._said = self._state()
        self.broadcast(self._said)

    def figures(self) -> dict[str, Any] | None:
        """Of the recording; None if there never was one."""
        return self.recording.figures() if self.recording is not None else None

    def close(self) -> None:
        """The session is over: its recording ends."""
        if self.recording is not None:
            self.recording.finish("the session ended")
