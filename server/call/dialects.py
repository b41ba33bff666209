"""What the services that speak send as JSON or MessagePack, as one table: sound, words, commands.

    read(message) -> Said       {"type": "response.output_audio.delta", "delta": "..."} -> its sound

A row says by which fields a message is known and where in it things stand. Messages of a service
that say nothing to us are rows without anything, so that its stream can be passed on as it is.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Literal

from lipwire.engine import MediaError
from lipwire.engine.audio.timeline import MAX_RATE_HZ, MIN_RATE_HZ

Act = Literal["flush", "interrupt"]


class _Any:
    """Stands in a row for whatever is there."""


class _Begins(str):
    """Stands in a row for text that begins so."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of message; paths are keys with dots, `*` is each item of a list."""

    marks: dict[str, Any]
    audio: str | None = None
    rate_hz: int | None = None  # of the sound; None: what the address declares
    mime: str | None = None  # where `audio/pcm;rate=24000` stands, which then counts
    mulaw: bool = False
    text: str | None = None
    spaced: bool = False  # words come without the spaces between them
    act: Act | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What a message says."""

    audio: tuple[bytes, ...] = ()
    rate_hz: int | None = None
    mulaw: bool = False
    floats: tuple[float, ...] = ()  # sound as numbers of -1 to 1
    text: str = ""
    act: Act | None = None
    error: str | None = None


IS = _Any()
TURN = "serverContent"
ROWS: tuple[Row, ...] = (
    # ours
    Row({"type": "flush"}, act="flush"),
    Row({"type": "interrupt"}, act="interrupt"),
    # OpenAI Realtime, and its beta's names, which Unmute sends Ogg/Opus under
    *(
        row
        for name in ("response.output_audio", "response.audio")
        for row in (
            Row({"type": f"{name}.delta"}, audio="delta", rate_hz=24_000),
            Row({"type": f"{name}.done"}, act="flush"),
            Row({"type": f"{name}_transcript.delta"}, text="delta"),
        )
    ),
    Row({"type": "response.done", "response.status": "cancelled"}, act="interrupt"),
    *(
        Row({"type": _Begins(head)})
        for head in ("response.", "session.", "conversation.", "input_audio_buffer.", "unmute.")
    ),
    Row({"type": "rate_limits.updated"}),
    # Gemini Live and Live Translate
    Row({f"{TURN}.interrupted": True}, act="interrupt"),
    Row(
        {f"{TURN}.modelTurn": IS},
        audio=f"{TURN}.modelTurn.parts.*.inlineData.data",
        mime=f"{TURN}.modelTurn.parts.*.inlineData.mimeType",
        rate_hz=24_000,
    ),
    Row({f"{TURN}.outputTranscription": IS}, text=f"{TURN}.outputTranscription.text"),
    Row({f"{TURN}.turnComplete": True}, act="flush"),
    *(Row({name: IS}) for name in (TURN, "setupComplete", "usageMetadata", "toolCall", "goAway")),
    # DeepL Voice, speech to speech
    Row({"target_media_chunk": IS}, audio="target_media_chunk.data"),
    Row({"target_transcript_update": IS}, text="target_transcript_update.concluded.*.text"),
    Row({"end_of_target_media": IS}, act="flush"),
    *(Row({f"end_of_{name}": IS}) for name in ("source_transcript", "target_transcript", "stream")),
    Row({"source_transcript_update": IS}),
    # Cartesia
    Row({"type": "chunk"}, audio="data"),
    Row({"type": "timestamps"}, text="word_timestamps.words.*", spaced=True),
    Row({"type": "done"}, act="flush"),
    *(Row({"type": name}) for name in ("flush_done", "phoneme_timestamps")),
    # ElevenLabs
    Row({"audio": IS}, audio="audio", text="alignment.chars.*"),
    Row({"isFinal": True}, act="flush"),
    # Twilio Media Streams
    Row({"event": "media"}, audio="media.payload", rate_hz=8000, mulaw=True),
    Row({"event": "clear"}, act="interrupt"),
    Row({"event": "stop"}, act="flush"),
    *(Row({"event": name}) for name in ("connected", "start", "mark", "dtmf")),
    # Kyutai's TTS server, in MessagePack
    Row({"type": "Audio"}, audio="pcm", rate_hz=24_000),
    Row({"type": "Text"}, text="text", spaced=True),
    *(Row({"type": name}) for name in ("Ready", "Step", "OggOpus")),
    # what services say when something is wrong
    Row({"type": "error", "error.message": IS}, error="error.message"),
    Row({"type": "error", "message": IS}, error="message"),
    Row({"type": "Error"}, error="message"),
    Row({"error.error_message": IS}, error="error.error_message"),
)
EXPECTED = (
    'text must be {"type":"flush"}, {"type":"interrupt"} or a message of a service whose protocol '
    "is known (docs/bridges/speech.md)"
)


def read(message: object) -> Said:
    """What a decoded message says.

    Raises:
        MediaError: nobody's that is known, or its sound cannot be read.
    """
    rows = [row for row in ROWS if all(_fits(message, *mark) for mark in row.marks.items())]
    if not rows:
        raise MediaError(EXPECTED)
    said = _Gathered()
    for row in rows:
        said.take(row, message)
    sound = (tuple(said.audio), said.rate_hz, said.mulaw, tuple(said.floats))
    return Said(*sound, "".join(said.text), said.act, said.error)


@dataclass(slots=True)
class _Gathered:
    """The rows of one message, put together."""

    audio: list[bytes] = field(default_factory=list)
    floats: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    rate_hz: int | None = None
    mulaw: bool = False
    act: Act | None = None
    error: str | None = None

    def take(self, row: Row, message: object) -> None:
        self.act = self.act or row.act
        if row.error is not None:
            self.error = next((str(each)[:300] for each in _find(message, row.error)), "?")
        if row.text is not None:
            words = [each for each in _find(message, row.text) if isinstance(each, str)]
            self.text += [f"{word} " for word in words] if row.spaced else words
        if row.audio is None:
            return
        self.rate_hz, self.mulaw = row.rate_hz, row.mulaw
        for mime in _find(message, row.mime) if row.mime is not None else ():
            self.rate_hz = _mime_rate(mime) or self.rate_hz
        for each in _find(message, row.audio):
            self._sound(each)

    def _sound(self, value: object) -> None:
        if isinstance(value, bytes):
            self.audio.append(value)
        elif isinstance(value, str):
            try:
                self.audio.append(base64.b64decode(value, validate=True))
            except (binascii.Error, ValueError) as error:
                raise MediaError("the sound of a message is no base64") from error
        elif isinstance(value, list) and all(isinstance(x, int | float) for x in value):
            self.floats += map(float, value)
        elif isinstance(value, list):
            for each in value:
                if not isinstance(each, str | bytes):
                    raise MediaError("the sound of a message is no base64")
                self._sound(each)
        elif value is not None:
            raise MediaError("the sound of a message is no base64")


def _fits(message: object, path: str, wanted: object) -> bool:
    return any(
        wanted is IS
        or (isinstance(wanted, _Begins) and isinstance(each, str) and each.startswith(wanted))
        or (type(each) is type(wanted) and each == wanted)
        for each in _find(message, path)
    )


def _find(message: object, path: str) -> list[object]:
    """All that stands at a path."""
    found = [message]
    for key in path.split("."):
        if key == "*":
            found = [item for each in found if isinstance(each, list) for item in each]
        else:
            found = [each[key] for each in found if isinstance(each, dict) and key in each]
    return found


def _mime_rate(mime: object) -> int | None:
    _, _, rate = str(mime).partition("rate=")
    if not rate[:6].isdigit() or not rate.isascii():
        return None
    if not MIN_RATE_HZ <= int(rate[:6]) <= MAX_RATE_HZ:
        raise MediaError(f"sample rate {rate[:6]} Hz is outside {MIN_RATE_HZ}..{MAX_RATE_HZ} Hz")
    return int(rate[:6])
