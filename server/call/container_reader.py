"""AutoReader: a voice in whatever container it comes in, decoded by PyAV as it arrives.

Ogg, WebM, FLAC, MP3, AAC and MP4 fragments are told by how they begin; all else is PCM or WAV, for
`PcmReader`. A stream of one container may go on after a flush; one that begins anew is another.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from lipwire.engine import MediaError
from lipwire.engine.types import I16
from lipwire.server.call.not_pcm import foreign, undecided
from lipwire.server.call.pcm_reader import PcmReader

# Bytes that FFmpeg looks at before it says what a stream is: a voice that has just begun is short.
PROBE_BYTES = 4096
SNIFF_BYTES = 16
# How containers begin; an Ogg page that goes on has another header type than 2 (RFC 3533).
_BEGINS = tuple(
    (re.compile(begins, re.DOTALL), name)
    for begins, name in (
        (rb"OggS\x00[\x02\x06]", "ogg"),
        (rb"\x1aE\xdf\xa3", "matroska"),
        (rb"fLaC\x00", "flac"),
        (rb"ID3[\x02-\x04]", "mp3"),
        (rb"....ftyp", "mp4"),
    )
)
_MPEG = {"an MP3 stream": "mp3", "an AAC (ADTS) stream": "aac"}
# A decoder that is given this much and says nothing has no sound in it.
PATIENCE_BYTES = 4 * 2**20


class _Pipe:
    """A file whose reader waits for more; who writes waits until all has been read."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._changed = threading.Condition()
        self._ended = self.starved = self.done = False

    def read(self, size: int) -> bytes:
        """The next bytes, at least one; none at the end."""
        with self._changed:
            while not self._data and not self._ended:
                self.starved = True
                self._changed.notify_all()
                self._changed.wait()
            self.starved = False
            piece = bytes(self._data[:size])
            del self._data[:size]
            return piece

    def write(self, data: bytes, last: bool = False) -> None:
        """Add bytes and wait until the reader wants more, or is done."""
        with self._changed:
            self._data += data
            self._ended = self._ended or last
            self.starved = False
            self._changed.notify_all()
            while not self.starved and not self.done:
                self._changed.wait()

    def finish(self) -> None:
        """The reader is done."""
        with self._changed:
            self.done = True
            self._changed.notify_all()


class StreamDecoder:
    """One container: bytes in, the samples that they complete out; blocks while it decodes.

    Args:
        name: of the format, as FFmpeg has it: to guess it takes half a second of MP3.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pipe, self._out = _Pipe(), deque[tuple[I16, int]]()
        self._error: str | None = None
        self._taken, self._heard = 0, False
        threading.Thread(target=self._run, name="lipwire-container", daemon=True).start()

    def feed(self, data: bytes, last: bool = False) -> list[tuple[I16, int]]:
        """What can be decoded now: int16[N] mono each, with their rate.

        Raises:
            MediaError: it cannot be read as what it began as.
        """
        self._pipe.write(data, last)
        out = [self._out.popleft() for _ in range(len(self._out))]
        self._taken += len(data)
        self._heard = self._heard or bool(out)
        if self._error is not None and not last:
            raise MediaError(f"the voice's container cannot be read: {self._error}")
        if not self._heard and self._taken > PATIENCE_BYTES:
            self.feed(b"", last=True)
            raise MediaError("the voice's container holds no sound")
        return out

    def _run(self) -> None:
        options = {"probesize": str(PROBE_BYTES), "analyzeduration": "0"}
        given: Any = {"format": self._name, "options": options, "buffer_size": PROBE_BYTES}
        try:
            with av.open(self._pipe, **given) as container:
                if not container.streams.audio:
                    raise MediaError("there is no sound in it")
                fit: av.AudioResampler | None = None
                for frame in _frames(container):
                    if fit is None or fit.rate != frame.sample_rate:
                        fit = av.AudioResampler("s16", "mono", frame.sample_rate)
                    for piece in fit.resample(frame):
                        samples = np.ascontiguousarray(piece.to_ndarray()[0], np.int16)
                        self._out.append((samples, piece.sample_rate))
        except Exception as error:  # a stranger's bytes: FFmpeg's errors are of many kinds
            self._error = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        finally:
            self._pipe.finish()


def _frames(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """Decoded sound; a damaged packet is left out."""
    for packet in container.demux(audio=0):
        with contextlib.suppress(av.error.InvalidDataError):
            yield from packet.decode()


class AutoReader:
    """Has the methods of `PcmReader`; `feed` and `end` may take as long as decoding does."""

    def __init__(self, rate_hz: int, channels: int = 1) -> None:
        self._pcm = PcmReader(rate_hz, channels)
        self._decoder: StreamDecoder | None = None
        self._held, self._begun = b"", False

    @property
    def dangling(self) -> bool:
        return self._pcm.dangling

    def feed(self, data: bytes) -> list[tuple[I16, int]]:
        """See `PcmReader.feed`.

        Raises:
            MediaError: it can be read as nothing.
        """
        data, self._held = self._held + data, b""
        if not self._begun or self._decoder is not None:
            if not self._begun and (len(data) < SNIFF_BYTES or undecided(data)):
                self._held = data
                return []
            begins = next((name for begin, name in _BEGINS if begin.match(data)), None)
            if begins is None and not self._begun:
                begins = _MPEG.get(foreign(data) or "")
            before = []
            if begins and self._begun and self._decoder is not None:
                before, self._decoder = self._decoder.feed(b"", last=True), None
            self._begun = True
            if begins:
                self._decoder = StreamDecoder(begins)
            if self._decoder is not None:
                return before + self._decode(data)
        return self._pcm.feed(data)

    def _decode(self, data: bytes) -> list[tuple[I16, int]]:
        assert self._decoder is not None
        try:
            return self._decoder.feed(data)
        except MediaError:
            self._decoder, self._begun = None, False
            raise

    def end(self) -> list[tuple[I16, int]]:
        """See `PcmReader.end`; a container may go on after it."""
        if self._decoder is not None:
            return []
        held, self._held = self._held, b""
        return self._pcm.feed(held) + self._pcm.end()

    def reset(self) -> None:
        """Another utterance begins, of the same container or not."""
        self._pcm.reset()
        if self._decoder is None:
            self._held, self._begun = b"", False

    def close(self) -> list[tuple[I16, int]]:
        """No more comes: what the decoder held back."""
        decoder, self._decoder = self._decoder, None
        return decoder.feed(b"", last=True) if decoder is not None else []
