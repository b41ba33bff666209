"""PcmReader: binary messages -> the samples in them, or one line that says what they are instead.

The contract is 16-bit little-endian PCM. Clients also send WAV, whose headers say what follows and
are taken off; everything else that can be told from PCM is refused, before it is heard as noise.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np

from lipwire.engine import MediaError
from lipwire.engine.audio.timeline import MAX_RATE_HZ, MIN_RATE_HZ
from lipwire.engine.types import F64, I16, U8
from lipwire.server.call.not_pcm import LOOK, foreign, foreign_samples, undecided

MAX_CHANNELS = 8
MAX_HEADER = 64 * 1024  # bytes before a WAV's samples: nobody's pictures and comments are longer
_HEADER = re.compile(rb"RIFF.{4}WAVE", re.DOTALL)
_BEFORE = 12  # bytes of it
# What stands behind the samples of a WAV.
_TRAILERS = {
    *(b"LIST", b"INFO", b"id3 ", b"ID3 ", b"bext", b"fact", b"cue ", b"smpl", b"PEAK", b"iXML"),
    *(b"_PMX", b"JUNK", b"PAD ", b"afsp", b"cart", b"inst", b"DISP", b"acid", b"axml"),
}
# Sizes from here on are those of writers that did not know theirs, as is 0.
_UNKNOWN_SIZE = 0x7FFFFF00
PCM, FLOAT, ALAW, MULAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE


@dataclass(frozen=True, slots=True)
class Format:
    """How samples stand in bytes."""

    rate_hz: int
    channels: int = 1
    tag: int = PCM
    bits: int = 16

    @property
    def width(self) -> int:
        """Bytes of one sample of all channels."""
        return self.bits // 8 * self.channels


class PcmReader:
    """Takes the bytes of one voice, cut anywhere.

    Raises:
        MediaError: so many channels that nobody sends.
    """

    def __init__(self, rate_hz: int, channels: int = 1) -> None:
        if not 1 <= channels <= MAX_CHANNELS:
            raise MediaError(f"channels is {channels}, must be 1 to {MAX_CHANNELS}")
        self._declared = Format(rate_hz, channels)
        self.reset()

    def reset(self) -> None:
        """Forget what waits: another utterance begins."""
        self._format = self._declared
        self._held = b""  # may be the beginning of something
        self._carry = b""  # a part of a sample
        self._skip = 0  # bytes of a WAV's trailer to come
        self._left: int | None = None  # bytes of a WAV's samples to come; None: no end is known
        self._begun = self._refused = False
        self._recent = np.zeros(0, np.int16)

    @property
    def dangling(self) -> bool:
        """Whether a part of a sample is waiting."""
        return bool(self._carry)

    def feed(self, data: bytes) -> list[tuple[I16, int]]:
        """The whole samples so far: int16[N] mono each, with their rate.

        Raises:
            MediaError: this is no PCM; until `reset` nothing more is taken.
        """
        if self._refused:
            return []
        try:
            if self._format is self._declared and self._left is None:
                self._check(self._held + data)
            return self._read(self._held + data, False)
        except MediaError:
            self._refused, self._held, self._carry = True, b"", b""
            raise

    def end(self) -> list[tuple[I16, int]]:
        """What waited for more, when no more comes; half a sample goes on `dangling`.

        Raises:
            MediaError: as `feed`.
        """
        if self._refused:
            return []
        try:
            if not self._begun:
                self._check(self._held, all_of_it=True)
            self._begun = True
            return self._read(self._held, True)
        except MediaError:
            self._refused, self._held, self._carry = True, b"", b""
            raise

    # --- inside ---

    def _check(self, data: bytes, all_of_it: bool = False) -> None:
        """Refuse what begins as no PCM does."""
        if not _HEADER.match(data) and (what := foreign(data, all_of_it)):
            raise _not_pcm(what)

    def _read(self, data: bytes, last: bool) -> list[tuple[I16, int]]:
        self._held = b""
        if not self._begun and not last:
            if len(data) < LOOK or undecided(data):
                self._held = data
                return []
            self._begun = True
        out: list[tuple[I16, int]] = []
        while data:
            if self._skip:
                skipped = min(self._skip, len(data))
                self._skip -= skipped
                data = data[skipped:]
                continue
            if self._left == 0:
                if len(data) < 8 and not last:
                    self._held = data
                    break
                self._left = None
                if data[:4] in _TRAILERS and len(data) >= 8:
                    size = struct.unpack("<I", data[4:8])[0]
                    data, self._skip = data[8:], size + size % 2
                    continue
            header = _HEADER.search(data)
            if header is not None and header.start() == 0:
                begins = self._header(data)
                if begins is None:
                    if len(data) > MAX_HEADER:
                        raise _not_pcm("a WAV file without samples")
                    self._held = b"" if last else data
                    break
                data = data[begins:]
                continue
            rest = len(data) - (0 if last else _beginning(data))
            stop = rest if header is None else header.start()
            if self._left is not None:
                stop = min(stop, self._left)
                self._left -= stop
            if stop:
                out += self._samples(data[:stop])
            data = data[stop:]
            if header is None and self._left != 0:
                self._held = data
                break
            self._carry = b""  # at a header a part of a sample has no other part coming
        return out

    def _header(self, data: bytes) -> int | None:
        """Read a WAV's chunks up to its samples; where these begin, None if that has not come."""
        at, found = _BEFORE, None
        while at + 8 <= len(data):
            kind, size = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
            at += 8
            if kind == b"data":
                if found is None:
                    raise _not_pcm("a WAV file that does not say its format")
                self._format = found
                self._left = size if 0 < size < _UNKNOWN_SIZE else None
                return at
            if kind == b"fmt ":
                if len(data) < at + size:
                    return None
                found = _wave_format(data[at : at + size])
            at += size + size % 2
        return None

    def _samples(self, data: bytes) -> list[tuple[I16, int]]:
        data = self._carry + data
        width = self._format.width
        whole = len(data) // width * width
        self._carry = data[whole:]
        if not whole:
            return []
        samples = _decode(data[:whole], self._format)
        if self._format is self._declared:
            raw, first = np.frombuffer(data[:whole], "<i2"), not len(self._recent)
            self._recent = np.concatenate([self._recent[-LOOK:], raw])
            if what := foreign_samples(self._recent, first):
                raise _not_pcm(what)
        return [(samples, self._format.rate_hz)]


def _not_pcm(what: str) -> MediaError:
    return MediaError(f"the sound must be 16-bit little-endian PCM or WAV, and this is {what}")


def _beginning(data: bytes) -> int:
    """How many of the last bytes may be the beginning of a header."""
    for count in range(min(_BEFORE - 1, len(data)), 0, -1):
        tail = data[-count:]
        if tail[:4] == b"RIFF"[:count] and tail[8:] == b"WAVE"[: max(0, count - 8)]:
            return count
    return 0


def _wave_format(chunk: bytes) -> Format:
    """Of a `fmt ` chunk."""
    if len(chunk) < 16:
        raise _not_pcm("a WAV file that does not say its format")
    tag, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
    if tag == EXTENSIBLE and len(chunk) >= 26:
        tag = struct.unpack("<H", chunk[24:26])[0]
    known = {PCM: (8, 16, 24, 32), FLOAT: (32, 64), ALAW: (8,), MULAW: (8,)}
    if bits not in known.get(tag, ()):
        raise _not_pcm(f"a WAV file of format {tag} with {bits} bits")
    if not 1 <= channels <= MAX_CHANNELS or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise _not_pcm(f"a WAV file of {channels} channels at {rate_hz} Hz")
    return Format(rate_hz, channels, tag, bits)


def _decode(data: bytes, form: Format) -> I16:
    """Whole samples of all channels -> int16[N], the mean of the channels."""
    if form.tag == PCM and form.bits == 16:
        values = np.frombuffer(data, "<i2").astype(np.int16)
        if form.channels == 1:
            return values
        return _mixed(values.astype(np.float64), form.channels)
    if form.tag == FLOAT:
        levels = np.frombuffer(data, f"<f{form.bits // 8}").astype(np.float64)
        return _mixed(np.nan_to_num(levels, posinf=1.0, neginf=-1.0) * 32768, form.channels)
    bytes_ = np.frombuffer(data, np.uint8)
    if form.tag in (ALAW, MULAW):
        return _mixed(_g711(bytes_, form.tag), form.channels)
    if form.bits == 8:
        return _mixed((bytes_.astype(np.float64) - 128) * 256, form.channels)
    size = form.bits // 8
    # The upper two bytes are 16 bits; what is below them is less than a step.
    high = np.ascontiguousarray(bytes_.reshape(-1, size)[:, -2:]).view("<i2")[:, 0]
    return _mixed(high.astype(np.float64), form.channels)


def decode_mulaw(data: bytes) -> I16:
    """G.711 mu-law, as telephones send it -> int16[N]."""
    return _decode(data, Format(8000, 1, MULAW, 8))


def _g711(codes: U8, tag: int) -> F64:
    """ITU-R's companded 8-bit sound, G.711 tables 1a and 2a, f64[N] on the scale of int16."""
    if tag == MULAW:
        bits = ~codes.astype(np.int64) & 0xFF
        size = ((((bits & 0xF) << 3) + 0x84) << (bits >> 4 & 7)) - 0x84
        return np.where(bits & 0x80, -size, size).astype(np.float64)
    bits = codes.astype(np.int64) ^ 0x55
    exponent = bits >> 4 & 7
    size = ((bits & 0xF) << 4) + np.where(exponent > 0, 0x108, 8)
    size = size << np.maximum(exponent - 1, 0)
    return np.where(bits & 0x80, size, -size).astype(np.float64)


def _mixed(values: F64, channels: int) -> I16:
    mean = values.reshape(-1, channels).mean(1)
    return np.clip(np.rint(mean), -32768, 32767).astype(np.int16)
