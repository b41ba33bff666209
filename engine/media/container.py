"""Containers that are opened, split where files were joined, and decoded, through PyAV."""

from __future__ import annotations

import contextlib
import io
import mmap
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lipwire.engine.errors import MediaError

OnDamage = Callable[[str], None]  # Is told, in one line, what could not be decoded or was left out.
Part = tuple[int, int]  # From which byte to which, of a file that is several joined ones.

# What FFmpeg would also open, though it is text, or a list that makes it open other files.
REFUSED_FORMATS = {"tty", "bin", "xbin", "adf", "idf", "hls", "dash", "concat"}
# How files begin whose readers stop, or take a header for sound, where another file follows: what
# is looked for, and all of the beginning. The others (MPEG-TS, Ogg, ADTS) are read on by FFmpeg.
_BEGINNINGS = tuple(
    (sought, re.compile(begins, re.DOTALL))
    for sought, begins in (
        (b"RIFF", rb"RIFF.{4}(WAVE|AVI )[ -~]{4}"),
        (b"RF64", rb"RF64.{4}WAVE[ -~]{4}"),
        (b"FORM", rb"FORM.{4}(AIFF|AIFC)[ -~]{4}"),
        (b"fLaC\x00\x00\x00\x22", rb"fLaC\x00\x00\x00\x22"),
        (b"caff\x00\x01\x00\x00desc", rb"caff\x00\x01\x00\x00desc"),
        (b"riff\x2e\x91\xcf\x11", rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa"),
        (b"\x1aE\xdf\xa3", rb"\x1aE\xdf\xa3.{0,64}(matroska|webm)"),
        (b"FLV\x01", rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09\x00\x00\x00\x00"),
        (b".snd", rb"\.snd\x00\x00.{6}\x00\x00\x00[\x01-\x1b]\x00.{3}\x00\x00\x00[\x01-\x08]"),
        (b"#!AMR", rb"#!AMR(-WB)?\n"),
        (b"ID3", rb"ID3[\x02-\x04]\x00[\x00\x40\x80\xc0][\x00-\x7f]{4}"),
    )
)
_LONGEST = 80  # bytes of a beginning
MOST_PARTS = 10_000  # a few bytes each; a second of work to open


class _Slice(io.RawIOBase):
    """Some bytes of a file, as a file."""

    def __init__(self, path: str | Path, part: Part) -> None:
        self._file, (self._start, self._stop) = open(path, "rb"), part  # noqa: SIM115  # closed by close
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._stop - self._start - self._at)
        self._file.seek(self._start + self._at)
        data = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._at, self._stop - self._start)[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._file.close()
        super().close()


def open_media(path: str | Path, part: Part | None = None) -> Any:
    """Open a container, or one of several joined ones.

    Raises:
        MediaError: in one line, why not.
    """
    import av

    try:
        there = Path(path).exists()
    except OSError as error:  # a name that is too long
        raise MediaError(f"{path}: {error.strerror}") from error
    if not there:
        raise MediaError(f"{path}: no such file")
    if Path(path).is_dir():
        raise MediaError(f"{path}: is a folder, not a media file")
    try:
        # `file:` keeps a name with a colon a name; the whitelist keeps playlists off the network.
        container = av.open(
            f"file:{path}" if part is None else _Slice(path, part),
            options={"protocol_whitelist": "file"},
        )
    except PermissionError as error:
        raise MediaError(f"{path}: may not be read") from error
    except (av.FFmpegError, ValueError, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{path}: not a media file that can be read ({why})") from error
    names = set(container.format.name.split(","))
    if names & REFUSED_FORMATS:
        container.close()
        raise MediaError(f"{path}: is not a media file but {sorted(names)[0]!r}")
    return container


@contextlib.contextmanager
def open_part(
    path: str | Path, part: Part | None, on_damage: OnDamage, what: str
) -> Iterator[Any | None]:
    """`open_media`; None where it is not the first of joined files and cannot be read."""
    try:
        container = open_media(path, part)
    except MediaError:
        if part is None or not part[0]:
            raise
        on_damage(f"{what}: the file that is joined at byte {part[0]} cannot be read")
        container = None
    with contextlib.nullcontext() if container is None else container:
        yield container


def joined(path: str | Path) -> list[Part | None]:
    """The files that were joined into one (`cat a.wav b.wav`); [None] for what is a single one."""
    try:
        if not Path(path).is_file() or not (size := Path(path).stat().st_size):
            return [None]
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            begins = _boxes(data) if data[4:8] == b"ftyp" else _beginnings(data)
    except OSError:
        return [None]  # opening it will say why
    if len(begins) < 2:
        return [None]
    return list(zip(begins, [*begins[1:], size], strict=True))


def _beginnings(data: mmap.mmap) -> list[int]:
    """Where files of the first one's kind begin."""
    for sought, begins in _BEGINNINGS:
        first = begins.match(data[:_LONGEST])
        if first is None:
            continue
        found, at = [0], data.find(sought, len(sought))
        while at >= 0 and len(found) < MOST_PARTS:
            if begins.match(data[at : at + _LONGEST]):
                found.append(at)
            at = data.find(sought, at + len(sought))
        return found
    return [0]


def _boxes(data: mmap.mmap) -> list[int]:
    """Where an MP4's boxes (ISO/IEC 14496-12 section 4.2) begin a file with its own index."""
    found: list[int] = []
    at = 0
    while at + 16 <= len(data) and len(found) < MOST_PARTS:
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if kind == b"ftyp":
            found.append(at)
        if size < 8:  # to the end of the file, or damage
            break
        at += size
    return found


def decode(container: Any, stream: Any, on_damage: OnDamage, what: str) -> Iterator[Any]:
    """Every frame of a stream that decodes; damaged packets are left out and counted."""
    import av

    damaged = 0
    packets, decoder = container.demux(stream), _decoder(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.FFmpegError, OSError) as error:
            # The demuxer gives up here; what the decoder still holds is worth having.
            on_damage(f"{what}: reading stopped ({getattr(error, 'strerror', None) or error})")
            packet = None
        try:
            for frame in decoder.decode(packet):
                # As the decoder of a stream gives them by itself.
                frame.time_base = frame.time_base or stream.time_base
                yield frame
        except EOFError:
            pass
        except av.FFmpegError:
            damaged += 1  # the decoder finds its feet again at the next key frame
        if packet is None:
            break
    if damaged:
        on_damage(f"{what}: {damaged} damaged piece{'s' * (damaged > 1)} left out")


def _decoder(stream: Any) -> Any:
    """The stream's own, or, of WebM with transparency, libvpx: FFmpeg's decodes no alpha."""
    import av

    codec = stream.codec_context
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(codec.name)
    if stream.metadata.get("alpha_mode") != "1" or name not in av.codecs_available:
        return codec
    return av.CodecContext.create(name, "r")


def choose(streams: list[Any], path: str | Path, what: str, on_damage: OnDamage) -> Any:
    """The stream that a player shows or plays: the first that is marked as default, or the first.

    Raises:
        MediaError: none can be decoded.
    """
    import av

    able = [s for s in streams if s.codec_context is not None]
    if not able:
        it = "video" if what == "video" else "sound"
        raise MediaError(f"{path}: its {it} is in a format that cannot be decoded")
    marks = av.stream.Disposition
    special = marks.comment | marks.hearing_impaired | marks.visual_impaired
    wanted = [s for s in able if s.disposition & marks.default and not s.disposition & special]
    stream = (wanted or able)[0]
    if len(streams) > 1:
        number, language = streams.index(stream) + 1, stream.metadata.get("language", "und")
        said = "" if language == "und" else f" ({language})"
        on_damage(f"{what}: of {len(streams)} streams only number {number}{said} is used")
    return stream


def ignore(_: str) -> None:
    """The OnDamage that nobody hears."""
