"""What the JSON API takes and gives; FastAPI shows it at /docs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# What calls sound like: louder than broadcasts (-23, EBU R 128), with room for a loud syllable.
DEFAULT_LUFS = -18.0
# What routes refuse with, whatever they do: a bad token, a page of another origin, an unknown
# session; and what changes something: also a bad body and too many requests.
READS = (401, 403, 404)
WRITES = (400, *READS, 429)

# The body of an upload, which is read as it comes.
ANY_FILE = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Body(BaseModel):
    """What all have in common: a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid")


class OfferBody(Body):
    """A browser's offer and what the session should do."""

    sdp: str = Field(description="all candidates in it; no trickle")
    type: str = "offer"
    steps: int | None = Field(default=None, description="diffusion steps a picture; see /api/info")
    original_level: float = Field(
        default=0.0, ge=0, le=1, description="the original voice underneath"
    )
    silence: Literal["original", "generate"] = "original"
    ducking: bool = Field(
        default=False, description="the original in full while the new voice is silent"
    )
    loudness_lufs: float | None = Field(
        default=DEFAULT_LUFS, ge=-40, le=-8, description="of the new voice; null: as it comes"
    )
    consent: bool = Field(default=False, description="the person shown has agreed; without it: 403")
    record: bool = Field(default=False, description="keep the result as a file on the server")


class Placed(Body):
    """A session, and where it runs."""

    id: str
    node: str | None = Field(
        default=None, description="the server's name; /n/NODE before an address leads to it"
    )


class Listed(Placed):
    """A session in the list."""

    named: bool
    live: bool = Field(description="its publisher is connected")
    seconds: float
    viewers: int
    voice: bool = Field(description="a voice link is attached")


class AnswerBody(Placed):
    """The session and the answer for the browser."""

    sdp: str
    type: Literal["answer"] = "answer"
    ai_generated: Literal[True] = True
    """tell everybody who is shown the result"""


class Opened(Placed):
    """A session whose face is a file."""

    ai_generated: Literal[True] = True
    """tell everybody who is shown the result"""


class ChangeBody(Body):
    """What can be changed while a session runs."""

    steps: int | None = None
    original_level: float | None = Field(default=None, ge=0, le=1)
    silence: Literal["original", "generate"] | None = None
    ducking: bool | None = None
    loudness_lufs: float | Literal["off"] | None = None
    record: bool | None = Field(default=None, description="begin or end a recording")


class SampleBody(Body):
    """A voice that ships with lipwire."""

    name: str


class SayBody(Body):
    """Text for espeak-ng."""

    text: str
    language: str = "en-us"


class SubtitleBody(Body):
    """Text for the voice that was scheduled since the last subtitle."""

    text: str
    language: str | None = Field(default=None, description="BCP 47, e.g. de or en-US")
    duration_s: float | None = Field(
        default=None, description="shown for so long; none: as long as its voice is heard"
    )


class Shown(Body):
    """When a subtitle is shown."""

    in_s: float


class Spoken(Body):
    """How much voice was scheduled."""

    seconds: float
    notes: list[str] | None = Field(
        default=None, description="of a file: which stream was taken, what was left out"
    )


class Problem(BaseModel):
    """Every error has this shape."""

    error: str = Field(description="one line that names the cause")


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that refuses with these statuses."""
    return {status: {"model": Problem} for status in statuses}
