"""What a call's publisher can ask for over its data channel, one JSON object a message."""

from __future__ import annotations

import json
from typing import Any, Protocol

from lipwire.engine import Session
from lipwire.server.call.events import EventBus
from lipwire.server.call.face_choice import FaceBody
from lipwire.server.call.speech_queue import SpeechQueue

MAX_COMMAND_CHARS = 16_384  # JSON is read on the event loop


class Commanded(Protocol):
    """The part of a call that commands reach."""

    session: Session
    voice: SpeechQueue
    events: EventBus

    def interrupt(self) -> None:
        """Drop the speech that has not been played."""

    def send(self, event: dict[str, Any]) -> None:
        """Tell the publisher."""


def handle_command(call: Commanded, message: str | bytes) -> None:
    """Carry out a command; one that cannot be is answered with an error."""
    try:
        if len(message) > MAX_COMMAND_CHARS:
            raise ValueError(f"the command is longer than {MAX_COMMAND_CHARS} characters")
        command = json.loads(message)
        match command:
            case {"type": "interrupt"}:
                call.interrupt()
            case {"type": "flush"}:
                call.voice.flush()
                call.send({"type": "flushed"})
            case {"type": "steps", "steps": int(steps)}:
                call.session.set_steps(steps)
            case {"type": "original_level", "level": int(level) | float(level)}:
                call.session.set_sound(original_level=level)
            case {"type": "ducking", "on": bool(on)}:
                call.session.set_sound(ducking=on)
            case {"type": "loudness", "lufs": ("off" | int(_) | float(_)) as lufs}:
                call.session.set_sound(loudness_lufs=lufs)
            case {"type": "silence", "show": str(show)}:
                call.session.set_silence(show)  # type: ignore[arg-type]  # checked there
            case {"type": "face", **wanted}:
                call.session.choose_face(FaceBody.model_validate(wanted).choice())
            case {"type": "subtitle" | "record"}:
                call.events.obey(command)
            case _:
                raise ValueError(f"unknown command {str(command)[:80]}")
    except Exception as error:  # whatever a stranger sends must not end the call
        call.send({"type": "error", "error": str(error)})
