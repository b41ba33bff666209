"""Which clips a folder holds, who speaks in each, and which speakers are kept for validation.

    manifest   manifest.csv with columns file, kind, split, speaker (and language): it decides all
    voxceleb2  [dev/]mp4/idXXXXX/VIDEO/UTTERANCE.mp4
    lrw        WORD/{train,val,test}/WORD_NNNNN.mp4; speakers unknown, split as published
    folders    any other tree: the folder a clip lies in is its speaker

Splits are by speaker, never by frame or clip, except where LRW does not say who speaks.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from lipwire.engine.errors import ConfigError

VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".mpg"}
MANIFEST_COLUMNS = {"file", "kind", "split", "speaker"}
SPLITS = ("train", "val", "test")
VAL_SHARE = 0.1  # of the speakers, unless told otherwise


@dataclass(frozen=True, slots=True)
class Clip:
    """One source file and who is in it."""

    path: str
    speaker: str
    split: str
    key: str
    """name in the shards: unique, without dots or slashes (WebDataset cuts at the first dot)"""
    language: str = ""
    """what is spoken, as a manifest says it; empty: not known"""


def find_clips(
    source: Path,
    layout: str = "auto",
    *,
    exclude: tuple[str, ...] = (),
    first_utterances: bool = False,
    val_share: float = VAL_SHARE,
) -> list[Clip]:
    """The talking clips of a folder, in an order that depends on their names alone.

    Args:
        source: the folder.
        layout: see above, or auto.
        exclude: patterns of file names to leave out.
        val_share: of the speakers kept for validation, where the layout does not say who is; 0
            trains on all.
        first_utterances: of every video of VoxCeleb2 only the first utterance, as the paper trains.

    Raises:
        ConfigError: no clip is found, a clip would lie in two splits, or the layout is unknown.
    """
    layout = guess_layout(source) if layout == "auto" else layout
    if layout not in LAYOUTS:
        raise ConfigError(f"layout is {layout!r}, must be one of auto, {', '.join(LAYOUTS)}")
    if first_utterances and layout != "voxceleb2":
        raise ConfigError(f"{source}: only VoxCeleb2 has utterances; this is laid out as {layout}")
    clips = LAYOUTS[layout](source, val_share)
    if first_utterances:
        clips = _first_of_each_video(clips)
    clips = [c for c in clips if not any(fnmatch(Path(c.path).name, p) for p in exclude)]
    if not clips:
        raise ConfigError(f"{source}: no talking clips found")
    return _apart(clips, source)


def _apart(clips: list[Clip], source: Path) -> list[Clip]:
    """The same with keys that no two share: `a b.mp4` and `a_b.mov` are told by a digest."""
    counts = Counter(clip.key for clip in clips)
    apart = []
    for clip in clips:
        if counts[clip.key] > 1:
            name = Path(clip.path).relative_to(source).as_posix()
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            clip = replace(clip, key=f"{clip.key}-{digest}")
        apart.append(clip)
    return apart


def guess_layout(source: Path) -> str:
    """What the folder looks like; the name of a single file or folder says nothing."""
    manifest = source / "manifest.csv"
    # Another tool's file of that name has none or one of our columns.
    if manifest.is_file() and len(_missing_columns(manifest)) < len(MANIFEST_COLUMNS) - 1:
        return "manifest"
    roots = (source / "dev" / "mp4", source / "mp4", source)
    if any(_videos(root, "id[0-9]*/*/*") for root in roots if root.is_dir()):
        return "voxceleb2"
    words = (path for split in SPLITS for path in _videos(source, f"*/{split}/*"))
    if any(path.stem.startswith(f"{path.parent.parent.name}_") for path in words):
        return "lrw"
    return "folders"


def _missing_columns(manifest: Path) -> set[str]:
    with manifest.open(newline="", encoding="utf-8", errors="replace") as file:
        return MANIFEST_COLUMNS - set(csv.DictReader(file).fieldnames or ())


def held_out(speaker: str, share: float = VAL_SHARE) -> bool:
    """Whether a speaker belongs to validation: by name alone, whoever else there is."""
    digest = hashlib.sha256(f"split:{speaker}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share


def _split_by_speaker(found: list[tuple[Path, str]], source: Path, share: float) -> list[Clip]:
    """Clips of (path, speaker); a share of speakers is for validation, at least one of two."""
    speakers = sorted({speaker for _, speaker in found})
    kept = {s for s in speakers if held_out(s, share)}
    if share and not kept and len(speakers) > 1:
        kept = {max(speakers, key=lambda s: hashlib.sha256(s.encode()).digest())}
    if len(kept) == len(speakers) > 0:
        kept.discard(min(speakers))  # a single speaker is there to be trained on
    return [
        Clip(str(path), speaker, "val" if speaker in kept else "train", _key(path, source))
        for path, speaker in found
    ]


def _key(path: Path, source: Path) -> str:
    name = path.relative_to(source).with_suffix("").as_posix()
    return re.sub(r"[./\s]+", "_", name)


def _videos(source: Path, pattern: str = "**/*") -> list[Path]:
    return sorted(p for p in source.glob(pattern) if p.suffix.lower() in VIDEO_SUFFIXES)


def _manifest(source: Path, share: float) -> list[Clip]:
    path = source / "manifest.csv"
    clips: list[Clip] = []
    splits: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if missing := MANIFEST_COLUMNS - set(rows.fieldnames or ()):
            raise ConfigError(f"{path}: has no column {', '.join(sorted(missing))}")
        for row in rows:
            if row["kind"] != "talking" or row["split"] not in SPLITS:
                continue
            if splits.setdefault(row["speaker"], row["split"]) != row["split"]:
                raise ConfigError(
                    f"{path}: speaker {row['speaker']} is in {splits[row['speaker']]} and in "
                    f"{row['split']}; a split must not share speakers"
                )
            file_path = source / row["file"]
            key, language = _key(file_path, source), row.get("language") or ""
            clips.append(Clip(str(file_path), row["speaker"], row["split"], key, language))
    return clips


def _voxceleb2(source: Path, share: float) -> list[Clip]:
    root = next((r for r in (source / "dev" / "mp4", source / "mp4") if r.is_dir()), source)
    files = _videos(root, "id*/*/*")
    return _split_by_speaker([(path, path.parent.parent.name) for path in files], root, share)


def _first_of_each_video(clips: list[Clip]) -> list[Clip]:
    first: dict[Path, Clip] = {}
    for clip in clips:  # sorted by name, so the lowest number comes first
        first.setdefault(Path(clip.path).parent, clip)
    return list(first.values())


def _lrw(source: Path, share: float) -> list[Clip]:
    clips = []
    for split in SPLITS:
        for path in _videos(source, f"*/{split}/*"):
            clips.append(Clip(str(path), "unknown", split, _key(path, source)))
    return clips


def _folders(source: Path, share: float) -> list[Clip]:
    return _split_by_speaker([(path, path.parent.name) for path in _videos(source)], source, share)


LAYOUTS: dict[str, Callable[[Path, float], list[Clip]]] = {
    "manifest": _manifest,
    "voxceleb2": _voxceleb2,
    "lrw": _lrw,
    "folders": _folders,
}
