"""File lists of evaluation clips, as the paper's and Wav2Lip's authors publish theirs.

    id05459/18XmQEiGLnQ/00001 id07961/3EPjXGhfst4/00001    VoxCeleb2, cross: sound, then picture
    id09017/SjCgiXBHfNU/00111 id09017/SjCgiXBHfNU/00111    VoxCeleb2, reconstruction: one clip twice
    ABOUT/test/ABOUT_00001 AFTER/test/AFTER_00017          LRW, Wav2Lip's LRS2 and LRS3 likewise
    clips/anna.mp4                                         one name: reconstruction

Names may lack their suffix; blank lines and lines that begin with # are skipped; where a line holds
a tab, it is what separates two names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lipwire.engine.errors import ConfigError
from lipwire.training.data.layouts import VIDEO_SUFFIXES

Setting = Literal["reconstruction", "cross"]
# Where the data sets keep what their lists name, below the folder people unpack them into.
PLACES = ("", "mp4", "test/mp4", "dev/mp4", "test", "lipread_mp4")
# A film before its sound alone: only a film shows the mouth that is to be followed.
SUFFIXES = ("", *sorted(VIDEO_SUFFIXES), ".wav", ".m4a", ".mp3", ".flac")


@dataclass(frozen=True, slots=True)
class Pair:
    """One line: whose picture is to speak with whose voice."""

    key: str
    """unique in its list, and a file name"""
    audio: Path
    video: Path


def read_list(path: Path, root: Path) -> tuple[Setting, list[Pair]]:
    """The pairs of a list, each once, in its order; files that are missing are found out later.

    Args:
        path: the list.
        root: folder that its names are in.

    Raises:
        ConfigError: unreadable, empty, a line of three names, both settings in one list, or not a
            single file of it is there.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a list that can be read ({error})") from error
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    pairs: dict[str, Pair] = {}
    first: tuple[int, Setting] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        names = _names(line.strip(), root)
        if len(names) > 2:
            raise ConfigError(f"{path}, line {number}: {len(names)} names; one or two are expected")
        audio, video = names[0], names[-1]
        setting: Setting = "reconstruction" if audio == video else "cross"
        first = first or (number, setting)
        if setting != first[1]:
            raise ConfigError(
                f"{path}: line {first[0]} is for {first[1]}, line {number} for {setting}; "
                "make two lists of it"
            )
        key = _key(video) if audio == video else f"{_key(audio)}..{_key(video)}"
        audio_path, video_path = _find(root, audio), _find(root, video)
        known = pairs.get(key)
        if known is not None and (known.audio, known.video) != (audio_path, video_path):
            # `a/b` and `a__b`: told apart by all of the names.
            key += "-" + hashlib.sha256(f"{audio}\t{video}".encode()).hexdigest()[:8]
        pairs.setdefault(key, Pair(key, audio_path, video_path))
    if first is None:
        raise ConfigError(f"{path}: names no clip")
    found = list(pairs.values())
    if not any(pair.audio.is_file() and pair.video.is_file() for pair in found):
        raise ConfigError(
            f"{root}: not one of the {len(found)} clips of {path.name} is there, "
            f"e.g. {found[0].video}"
        )
    return first[1], found


def _names(line: str, root: Path) -> list[str]:
    """One or two names, apart by a tab or blanks; the files there are tell of blanks within."""
    if "\t" in line:
        return line.split("\t")
    words = line.split()
    if len(words) > 1 and _find(root, line).is_file():
        return [line]
    if len(words) > 2:
        cuts = [(line[: at.start()], line[at.end() :]) for at in re.finditer(r"\s+", line)]
        there = [list(cut) for cut in cuts if all(_find(root, name).is_file() for name in cut)]
        if len(there) == 1:
            return there[0]
    return words


def _key(name: str) -> str:
    """A name as a file name; `..` is left for between two of them."""
    kept = Path(name).with_suffix("") if Path(name).suffix.lower() in SUFFIXES else Path(name)
    return "__".join(part.replace("..", "_") for part in kept.parts if part not in ("/", ".."))


def _find(root: Path, name: str) -> Path:
    for place in PLACES:
        for suffix in SUFFIXES:
            path = root / place / (name + suffix)
            if path.is_file():
                return path
    return root / name


def folder_pairs(real: Path, fakes: Sequence[Path]) -> list[tuple[str, Path, list[Path]]]:
    """Finished videos that belong together by name: (key, real, the fake of each folder).

    What a folder lacks is a path that is not there.

    Raises:
        ConfigError: a folder is missing or holds no video.
    """
    shelves = [_videos(folder) for folder in (real, *fakes)]
    for folder, shelf in zip(fakes, shelves[1:], strict=True):
        if not shelf.keys() & shelves[0].keys():
            raise ConfigError(f"{folder}: not one video has the name of one in {real}")
    # Whatever is anywhere: a video without a partner is to be named, whichever side it is on.
    names = sorted(set().union(*shelves))
    return [
        (
            "__".join(Path(name).parts),
            shelves[0].get(name, real / name),
            [shelf.get(name, fake / name) for fake, shelf in zip(fakes, shelves[1:], strict=True)],
        )
        for name in names
    ]


def _videos(folder: Path) -> dict[str, Path]:
    """Name without suffix, relative to the folder -> video."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in VIDEO_SUFFIXES
    }
    if not found:
        raise ConfigError(f"{folder}: holds no video")
    return found


@dataclass(frozen=True, slots=True)
class Share:
    """Every n-th clip, from the i-th on: what one of several machines does."""

    index: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """`2/8` is the second of eight.

        Raises:
            ConfigError: it is not.
        """
        index, slash, of = text.partition("/")
        if not (slash and index.isdecimal() and of.isdecimal() and 1 <= int(index) <= int(of)):
            raise ConfigError(f"shard is {text!r}, must be like 2/8: the second of eight")
        return cls(int(index), int(of))

    @property
    def name(self) -> str:
        """As part of a file name."""
        return f"{self.index}-of-{self.of}"
