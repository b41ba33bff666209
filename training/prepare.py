"""Clips -> shards: 25 fps, tracked, cropped 128x128, with landmarks and log-mel.

A shard is a tar in WebDataset's layout, one group of members a clip:
    KEY.crops.npy      uint8[T, 128, 128, 3] RGB, aligned
    KEY.landmarks.npy  f16[T, 468, 2], pixels of the crop
    KEY.mel.npy        f32[80, M], 80 columns a second, column 0 at the first frame
    KEY.json           source file, speaker, split
A shard is written aside and renamed when whole, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ConfigError, LipwireError
from engine.face import (
    align,
    alignment_from,
    face_width_px,
    fit_similarity,
    pose_to_similarity,
    profile_ratio,
    similarity_to_pose,
    transform,
)
from engine.media import as_float, at_rate, read_frames, read_speech
from engine.mel import PAPER_FPS, log_mel
from engine.tracker import MediaPipeTracker, OneEuro
from engine.types import F32, U8

CLIPS_PER_SHARD = 48
MIN_FRAMES = 15
MIN_FACE_PX = 48
MAX_PROFILE = 4.0
VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".mpg"}


@dataclass(frozen=True, slots=True)
class Clip:
    """One source file and who is in it."""

    path: str
    speaker: str
    split: str


class Rejected(LipwireError):
    """The clip cannot be trained on; the message is the reason, counted in the report."""


def find_clips(source: Path, exclude: tuple[str, ...] = ()) -> list[Clip]:
    """The talking clips of a folder.

    A `manifest.csv` with columns file, kind, split and speaker decides if there is one; otherwise
    every video below `source` counts, the name of its folder is its speaker and one speaker in
    ten is kept for validation.

    Raises:
        ConfigError: no clip is found.
    """
    manifest = source / "manifest.csv"
    clips: list[Clip] = []
    if manifest.exists():
        with manifest.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["kind"] == "talking" and row["split"] in ("train", "val"):
                    clips.append(Clip(str(source / row["file"]), row["speaker"], row["split"]))
    else:
        files = sorted(p for p in source.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
        speakers = sorted({p.parent.name for p in files})
        held_out = set(speakers[9::10])
        for path in files:
            split = "val" if path.parent.name in held_out else "train"
            clips.append(Clip(str(path), path.parent.name, split))
    clips = [c for c in clips if not any(fnmatch(Path(c.path).name, p) for p in exclude)]
    if not clips:
        raise ConfigError(f"{source}: no talking clips found")
    return clips


def prepare_clip(clip: Clip, tracker: MediaPipeTracker) -> dict[str, Any]:
    """Decode, track and crop one clip; the longest run of frames with a usable face is kept.

    Raises:
        Rejected: no usable face for long enough, or no sound.
    """
    speech = as_float(read_speech(clip.path))
    if float(np.abs(speech).max()) < 1e-3:
        raise Rejected("silent")
    smooth = OneEuro()
    runs: list[tuple[int, list[U8], list[F32]]] = []
    crops: list[U8] = []
    points: list[F32] = []
    reasons: Counter[str] = Counter()
    for index, image in enumerate(at_rate(read_frames(clip.path), PAPER_FPS)):
        face = tracker.track(image)
        if face is None:
            reasons["no face"] += 1
        elif face_width_px(face.landmarks) < MIN_FACE_PX:
            reasons["face too small"] += 1
            face = None
        elif profile_ratio(face.landmarks) > MAX_PROFILE:
            reasons["profile"] += 1
            face = None
        if face is None:
            smooth.reset()
            crops, points = [], []
            continue
        if not crops:
            runs.append((index, crops, points))
        pose = smooth(similarity_to_pose(fit_similarity(face.landmarks)), index / PAPER_FPS)
        alignment = alignment_from(pose_to_similarity(pose))
        crops.append(align(image, alignment))
        points.append(transform(face.landmarks, alignment.matrix))
    start, crops, points = max(runs, key=lambda run: len(run[1]), default=(0, [], []))
    if len(crops) < MIN_FRAMES:
        raise Rejected(reasons.most_common(1)[0][0] if reasons else "too short")
    mel = log_mel(speech)[:, int(start * 80 / PAPER_FPS) :]
    if mel.shape[1] < len(crops) * 80 / PAPER_FPS * 0.8:
        raise Rejected("sound shorter than picture")
    return {
        "crops.npy": np.stack(crops),
        "landmarks.npy": np.stack(points).astype(np.float16),
        "mel.npy": mel,
        "json": {**asdict(clip), "path": Path(clip.path).name, "frames": len(crops)},
    }


def _write_shard(task: tuple[Path, list[Clip]]) -> Counter[str]:
    """Prepare the clips of one shard in a worker process."""
    import cv2

    cv2.setNumThreads(1)
    path, clips = task
    report: Counter[str] = Counter()
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for clip in clips:
            tracker = MediaPipeTracker()  # a tracker remembers the face it saw: one per clip
            try:
                members = prepare_clip(clip, tracker)
            except LipwireError as error:
                report[str(error) if isinstance(error, Rejected) else "unreadable"] += 1
                continue
            finally:
                tracker.close()
            for name, value in members.items():
                _add(tar, f"{Path(clip.path).stem}.{name}", value)
            report["kept"] += 1
            report["frames"] += len(members["crops.npy"])
    partial.with_suffix(".json").write_text(json.dumps(report))
    partial.rename(path)
    return report


def _add(tar: tarfile.TarFile, name: str, value: Any) -> None:
    buffer = io.BytesIO()
    if isinstance(value, np.ndarray):
        np.save(buffer, value)
    else:
        buffer.write(json.dumps(value).encode())
    info = tarfile.TarInfo(name)
    info.size = buffer.tell()
    buffer.seek(0)
    tar.addfile(info, buffer)


def prepare(
    source: Path, out: Path, *, workers: int = 2, exclude: tuple[str, ...] = (), limit: int = 0
) -> dict[str, int]:
    """Write every missing shard of `source` below `out`; returns the counts of the report.

    Args:
        source: folder of clips, see `find_clips`.
        out: folder of shards, made if missing.
        workers: processes.
        exclude: patterns of file names to leave out.
        limit: stop after so many clips, 0 = all.
    """
    from rich.progress import track

    out.mkdir(parents=True, exist_ok=True)
    clips = find_clips(source, exclude)
    # Spread speakers and lengths over the shards, the same way in every run.
    np.random.default_rng(0).shuffle(clips)  # type: ignore[arg-type]
    clips = clips[: limit or None]
    tasks = list(_missing(out, clips))
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        for _ in track(pool.imap_unordered(_write_shard, tasks), "preparing", len(tasks)):
            pass
    total: Counter[str] = Counter()
    for shard in out.glob("*.json"):
        if shard.name != "report.json":
            total.update(json.loads(shard.read_text()))
    (out / "report.json").write_text(json.dumps(total, indent=1))
    return dict(total)


def _missing(out: Path, clips: list[Clip]) -> Iterator[tuple[Path, list[Clip]]]:
    for split in ("train", "val"):
        members = [c for c in clips if c.split == split]
        for number, begin in enumerate(range(0, len(members), CLIPS_PER_SHARD)):
            path = out / f"{split}-{number:04d}.tar"
            if not path.exists():
                yield path, members[begin : begin + CLIPS_PER_SHARD]
