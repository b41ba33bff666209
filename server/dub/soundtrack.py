"""Soundtrack: a file's new and original voice, given to a session off-line as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np

from lipwire.engine.errors import MediaError
from lipwire.engine.media.sound import Sound, stream_sound
from lipwire.engine.session.session import Session
from lipwire.engine.types import I16, PLAYOUT_RATE_HZ
from lipwire.server.media.mp4 import AUDIO_BLOCK

# Voice is pushed this far ahead of the picture. Less than the model's look-ahead and what a
# resampler holds back: mel windows end in silence; more: memory for nothing.
AHEAD_S = 1.5
PIECE = PLAYOUT_RATE_HZ // 2  # a codec's longer pieces are cut, so that AHEAD_S bounds what waits
BACKLOG_S = 10.0  # never reached: at most AHEAD_S and one piece wait
CUT_S = 0.1  # a voice longer by less is only its codec's padding


class Soundtrack:
    """Gives a session the new and the original voice as far ahead as they are needed.

    Args:
        session: off-line.
        speech: the new voice at 48 kHz.
        original: the video's own at 48 kHz.
        origin_s: time of the first picture in the video.
        out: takes what is heard.
    """

    def __init__(
        self,
        session: Session,
        speech: Iterator[I16],
        original: Iterator[Sound],
        origin_s: float,
        out: Callable[[I16], object],
    ) -> None:
        self._session, self._speech, self._original = session, _cut(speech), original
        self._origin_s, self._out = origin_s, out
        self._held: Sound | None = None  # original voice that is not needed yet
        self._pushed = 0  # samples of the new voice
        self._heard = 0  # samples written
        self._ended = False
        self.peak = 0  # of the new voice, int16

    def play_to(self, time_s: float, last: bool = False) -> None:
        """Give out what is heard before `time_s`, in whole blocks unless it is the `last`."""
        stop = round(time_s * PLAYOUT_RATE_HZ)
        while stop - self._heard >= (1 if last else AUDIO_BLOCK):
            self.feed(self._heard / PLAYOUT_RATE_HZ)
            block = self._session.read_audio(min(AUDIO_BLOCK, stop - self._heard)).samples
            self._out(block)
            self._heard += len(block)

    def feed(self, time_s: float) -> None:
        """Push what a picture shown at `time_s` may need."""
        while not self._ended and self._pushed < (time_s + AHEAD_S) * PLAYOUT_RATE_HZ:
            samples = next(self._speech, None)
            if samples is None:
                self._ended = True
                self._session.flush_speech()
                break
            self._session.push_speech(samples, PLAYOUT_RATE_HZ, time_s)
            self._pushed += len(samples)
            self.peak = max(self.peak, int(np.abs(samples.astype(np.int32)).max(initial=0)))
        while True:
            self._held = self._held or next(self._original, None)
            if self._held is None or self._held.time_s - self._origin_s > time_s + AHEAD_S:
                return
            start_s, samples = self._held.time_s - self._origin_s, self._held.samples
            self._held = None
            before = max(0, round(-start_s * PLAYOUT_RATE_HZ))  # heard before the first picture
            if before < len(samples):
                self._session.push_original(samples[before:], PLAYOUT_RATE_HZ, max(start_s, 0.0))

    @property
    def speech_s(self) -> float:
        """Voice that was heard."""
        return min(self._pushed, self._heard) / PLAYOUT_RATE_HZ

    @property
    def was_cut(self) -> bool:
        """Whether more voice was there than was heard."""
        more = self._pushed - self._heard > CUT_S * PLAYOUT_RATE_HZ
        return more or (not self._ended and next(self._speech, None) is not None)


def _cut(pieces: Iterator[I16]) -> Iterator[I16]:
    """The same samples in pieces of at most PIECE."""
    for piece in pieces:
        for start in range(0, len(piece), PIECE):
            yield piece[start : start + PIECE]


def original_sound(
    video: Path, wanted: bool, warn: Callable[[str], None]
) -> Generator[Sound, None, None]:
    """The video's own sound, if it is wanted."""
    if not wanted:
        return
    try:
        yield from stream_sound(video, PLAYOUT_RATE_HZ, lambda line: warn(f"original {line}"))
    except MediaError as error:
        warn(f"the original voice is not heard: {error}")
