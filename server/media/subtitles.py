"""Subtitles: text that comes with the new voice, told when that voice is heard.

    subtitles = Subtitles(clock, told)
    subtitles.add("Guten Tag.", "de", start_s=12.4, duration_s=1.8)
    await subtitles.run()           # calls `told` with each cue as its voice leaves

All times are the engine's, which speech is scheduled on: text that comes seconds ahead with a
burst of TTS waits as long as its voice does, and is dropped with it by an interruption.
"""

from __future__ import annotations

import asyncio
import bisect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lipwire.engine.errors import LipwireError, MediaError

MAX_CHARS = 500  # two lines of subtitle are 84; a whole spoken sentence is below this
MAX_WAITING = 200  # ten minutes of speech; more: memory that a stranger fills
# Subtitles that may come at once, and a second. People read one in two seconds.
BURST, PER_S = 50, 5.0
MIN_S, MAX_S = 0.5, 20.0  # shown for less: nobody reads it; for more: it belongs to nothing
CHARS_PER_S = 15.0  # that people read; for text without a voice to go by
LINE = 84  # characters of one cue of spoken text: two lines of 42
LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}")  # BCP 47, roughly
# What has no glyph; line ends stay.
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class TooManySubtitles(LipwireError):
    """They come faster than anybody reads."""


@dataclass(frozen=True, slots=True, order=True)
class Cue:
    """One subtitle; the engine's time."""

    start_s: float
    duration_s: float
    text: str
    language: str | None

    @property
    def end_s(self) -> float:
        """When it goes away."""
        return self.start_s + self.duration_s

    def event(self) -> dict[str, Any]:
        """As the data channel carries it."""
        return {
            "type": "subtitle",
            "text": self.text,
            "language": self.language,
            "duration_s": round(self.duration_s, 3),
        }


CLEAR = {"type": "subtitle", "text": "", "language": None, "duration_s": 0}


def check_text(text: str, language: str | None) -> str:
    """The text without what cannot be shown.

    Raises:
        MediaError: nothing or too much of it, or no language code.
    """
    text = CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    text = re.sub(r"\n+", "\n", text)  # an empty line ends a cue of WebVTT
    if not text:
        raise MediaError("the subtitle has no text")
    if len(text) > MAX_CHARS:
        raise MediaError(f"the subtitle has {len(text)} characters, at most {MAX_CHARS} are taken")
    if language is not None and not LANGUAGE.fullmatch(language):
        raise MediaError(f"{language[:40]!r} is not a language code such as 'de' or 'en-US'")
    return text


class Subtitles:
    """Those of one session that have not been heard."""

    def __init__(
        self,
        clock: Callable[[], float],
        told: Callable[[Cue], None],
        cleared: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock, self._told, self._cleared = clock, told, cleared
        self._waiting: list[Cue] = []
        self._change = asyncio.Event()
        self._shown: Cue | None = None
        self._last_end_s = 0.0
        self._tokens, self._filled_s = float(BURST), clock()

    def add(
        self,
        text: str,
        language: str | None = None,
        span: tuple[float, float] | None = None,
        duration_s: float | None = None,
    ) -> float:
        """Take a subtitle; returns the seconds until it is shown.

        Args:
            text: one or two lines.
            language: BCP 47.
            span: from when to when its voice is heard; None: it has none, and follows what is
                there.
            duration_s: how long it is shown; None: as long as its voice, or as reading takes.

        Raises:
            MediaError: text, language or duration cannot be used.
            TooManySubtitles: too many at once, or too many wait.
        """
        text = check_text(text, language)
        if duration_s is not None and not MIN_S <= duration_s <= MAX_S:
            raise MediaError(f"duration_s is {duration_s:g}, must lie in {MIN_S:g} to {MAX_S:g}")
        self._take_token()
        now = self._clock()
        if span is not None and span[1] > now:
            start_s, spoken_s = max(span[0], now), span[1] - max(span[0], now)
        else:
            start_s, spoken_s = max(now, self._last_end_s), len(text) / CHARS_PER_S
        shown_s = spoken_s if duration_s is None else duration_s
        self._schedule(Cue(start_s, min(max(shown_s, MIN_S), MAX_S), text, language))
        return start_s - now

    def add_spoken(self, text: str, language: str | None, start_s: float, seconds: float) -> None:
        """Take text that is spoken as one utterance, in pieces that can be read.

        Each gets its share of the time by its length. What is too much is left out: the voice that
        was asked for matters more.
        """
        pieces = split_text(CONTROLS.sub("", text))
        total = sum(map(len, pieces))
        for piece in pieces[: MAX_WAITING - len(self._waiting)]:
            share_s = seconds * len(piece) / total
            self._schedule(Cue(start_s, max(share_s, MIN_S), piece, language))
            start_s += share_s

    def _schedule(self, cue: Cue) -> None:
        bisect.insort(self._waiting, cue)
        self._last_end_s = max(self._last_end_s, cue.end_s)
        self._change.set()

    def _take_token(self) -> None:
        now = self._clock()
        self._tokens = min(BURST, self._tokens + (now - self._filled_s) * PER_S)
        self._filled_s = now
        if self._tokens < 1:
            raise TooManySubtitles(f"more than {PER_S:g} subtitles a second; slow down")
        if len(self._waiting) >= MAX_WAITING:
            raise TooManySubtitles(f"{MAX_WAITING} subtitles wait to be heard already")
        self._tokens -= 1

    def interrupt(self) -> None:
        """Drop what has not been heard; what is shown goes away."""
        now = self._clock()
        self._waiting.clear()
        self._last_end_s = now
        if self._shown is not None and self._shown.end_s > now:
            self._shown = replace(self._shown, duration_s=now - self._shown.start_s)
            self._cleared()

    async def run(self) -> None:
        """Tell each when it is heard, for ever."""
        while True:
            self._change.clear()
            now = self._clock()
            while self._waiting and self._waiting[0].start_s <= now:
                self._shown = self._waiting.pop(0)
                self._told(self._shown)
            wait_s = self._waiting[0].start_s - now if self._waiting else None
            try:
                await asyncio.wait_for(self._change.wait(), wait_s)
            except TimeoutError:
                pass


def split_text(text: str) -> list[str]:
    """Text in pieces of at most LINE characters: by sentences, then between words."""
    pieces: list[str] = []
    for sentence in re.split(r"(?<=[.!?…。！？])\s+", " ".join(text.split())):
        piece = ""
        for word in sentence.split(" "):
            if piece and len(piece) + 1 + len(word) > LINE:
                pieces.append(piece)
                piece = ""
            piece = f"{piece} {word}".strip()
            while len(piece) > LINE:  # languages without spaces
                pieces.append(piece[:LINE])
                piece = piece[LINE:]
        if piece:
            pieces.append(piece)
    return pieces


def vtt_cue(cue: Cue, origin_s: float) -> str:
    """A cue of a WebVTT file whose zero is `origin_s`."""
    start_s = max(cue.start_s - origin_s, 0.0)
    text = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if cue.language:
        text = f"<lang {cue.language}>{text}</lang>"
    return f"{_vtt_time(start_s)} --> {_vtt_time(start_s + cue.duration_s)}\n{text}\n\n"


def _vtt_time(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{milliseconds:03}"
