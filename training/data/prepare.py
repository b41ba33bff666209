"""Clips -> shards: 25 fps, tracked, cropped 128x128, in step with their sound.

A shard is a tar in WebDataset's layout, one group of members a clip:
    KEY.crops.npy      uint8[T, 128, 128, 3] RGB
    KEY.landmarks.npy  f16[T, 468, 2], pixels of the crop
    KEY.speech.npy     int16[N], 16 kHz, sample 0 at the first frame
    KEY.mel.npy        f32[80, M], 80 columns a second, column 0 at the first frame
    KEY.json           source file, speaker, split, framing, frames moved to be in step
Beside them: prepare.json (the options), sync.json (what was found about each clip's sound) and
report.json (what was rejected, by name, and why).

Every file is written aside and renamed when whole, so that an interrupted run goes on where it
was, and ends with the same bytes.
"""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lipwire.engine.errors import ConfigError
from lipwire.training.data.clip import Rejected, Rules, prepare_clip, shifted
from lipwire.training.data.framing import FRAMINGS
from lipwire.training.data.layouts import SPLITS, Clip, find_clips
from lipwire.training.data.shards import (
    FORMAT,
    add_member,
    map_member,
    read_index,
    shard_reports,
    write_json,
)
from lipwire.training.data.sync_check import find_lags
from lipwire.training.processes import in_processes

CLIPS_PER_SHARD = 48


@dataclass(frozen=True, slots=True)
class PrepareConfig:
    """What decides how a folder of shards looks; a folder is finished as it was begun."""

    rules: Rules = field(default_factory=Rules)
    layout: str = "auto"
    first_utterances: bool = False
    exclude: tuple[str, ...] = ()
    limit: int = 0
    """clips at most, 0 = all"""
    sync: str = "shift"
    """clips surely out of step: shift, drop, or off to leave all as they are"""
    unsure: str = "keep"
    """clips of which nothing sure can be said: keep or drop"""

    def __post_init__(self) -> None:
        """Check what would only show after hours."""
        for name, value, choices in (
            ("framing", self.rules.framing, FRAMINGS),
            ("cuts", self.rules.cuts, ("reject", "longest")),
            ("sync", self.sync, ("shift", "drop", "off")),
            ("unsure", self.unsure, ("keep", "drop")),
        ):
            if value not in choices:
                raise ConfigError(f"{name} is {value!r}, must be one of {', '.join(choices)}")


def prepare(
    source: Path, out: Path, config: PrepareConfig | None = None, *, workers: int = 2
) -> dict[str, Any]:
    """Write every missing shard of `source` below `out`; returns the report.

    Args:
        source: folder of clips, see `lipwire.training.data.layouts`.
        out: folder of shards, made if missing.
        config: options.
        workers: processes.

    Raises:
        ConfigError: no clips, or `out` was begun with other options or clips.
    """
    from rich.progress import Progress

    config = config or PrepareConfig()
    clips = find_clips(source, config.layout, exclude=config.exclude,
                       first_utterances=config.first_utterances)  # fmt: skip
    # Spread speakers and lengths over the shards, the same way in every run.
    np.random.default_rng(0).shuffle(clips)  # type: ignore[arg-type]
    clips = clips[: config.limit or None]
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config, clips)
    tasks = list(_missing(out, clips))
    with Progress() as bar:
        work = bar.add_task("preparing", total=sum(len(c) for _, c in tasks))
        for done in in_processes(partial(_write_shard, rules=config.rules), tasks, workers):
            bar.advance(work, done)
        if config.sync != "off":
            _check_sync(out)
            paths = [path for s in SPLITS for path in sorted(out.glob(f"{s}-*.tar"))
                     if set(_verdicts(path, config).values()) - {"keep"}]  # fmt: skip
            work = bar.add_task("mending sync", total=len(paths))
            for _ in in_processes(partial(_mend_shard, config=config), paths, workers):
                bar.advance(work)
    report = _report(out, config)
    write_json(out / "report.json", report)
    return report


def _claim(out: Path, config: PrepareConfig, clips: list[Clip]) -> None:
    """Take the folder for these options and clips.

    Raises:
        ConfigError: it was begun with others.
    """
    path = out / "prepare.json"
    wanted = json.loads(json.dumps(
        {"format": FORMAT, "options": asdict(config), "clips": sorted(c.key for c in clips)}
    ))  # fmt: skip
    if not path.exists():
        if any(out.glob("*-[0-9]*.tar")):
            raise ConfigError(f"{out}: holds shards of an earlier version; use another folder")
        write_json(path, wanted)
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    for name, old, new in _differences(begun, wanted):
        if name == "clips":
            more, fewer = len(set(new) - set(old)), len(set(old) - set(new))
            old, new = f"{fewer} clips that are gone", f"{more} that were not there"
        raise ConfigError(
            f"{out}: was begun with {name} {old}, not {new}; use another folder, or the old options"
        )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(name, old, new) of every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), key)
    elif old != new:
        yield name, old, new


def _missing(out: Path, clips: list[Clip]) -> Iterator[tuple[Path, list[Clip]]]:
    for split in SPLITS:
        members = [c for c in clips if c.split == split]
        for number, begin in enumerate(range(0, len(members), CLIPS_PER_SHARD)):
            path = out / f"{split}-{number:04d}.tar"
            if not path.exists():
                yield path, members[begin : begin + CLIPS_PER_SHARD]


def _write_shard(task: tuple[Path, list[Clip]], rules: Rules) -> int:
    """Prepare the clips of one shard in a worker process; returns how many it looked at."""
    import cv2

    from lipwire.engine.face.tracker import MeshTracker

    cv2.setNumThreads(1)
    path, clips = task
    rejected: dict[str, dict[str, str]] = defaultdict(dict)
    partial_path = path.with_suffix(".partial")
    with tarfile.open(partial_path, "w") as tar, closing(MeshTracker()) as tracker:
        for clip in clips:
            try:
                members = prepare_clip(clip, rules, tracker)
            except Rejected as error:
                rejected[error.reason][clip.key] = error.detail
                continue
            finally:
                tracker.forget()  # the next clip's face is another
            for name, value in members.items():
                add_member(tar, f"{clip.key}.{name}", value)
    write_json(path.with_suffix(".json"), {"rejected": rejected})
    partial_path.rename(path)
    return len(clips)


# --- sync ---


def _check_sync(out: Path) -> None:
    """Find every clip's lag, once: mended clips must not be judged again."""
    path = out / "sync.json"
    if path.exists():
        return
    # Shards already mended would look in step.
    steps = find_lags([clip for split in SPLITS for clip in _talking(out, split)])
    write_json(path, {key: {**asdict(s), "sure": s.sure, "off": s.off} for key, s in steps.items()})


@dataclass(frozen=True, slots=True)
class _Talking:
    """What the sync check reads of a clip."""

    key: str
    speaker: str
    split: str
    codes: Any
    mel: Any


def _talking(out: Path, split: str) -> Iterator[_Talking]:
    from lipwire.engine.face.articulation import clip_codes

    for path in sorted(out.glob(f"{split}-*.tar")):
        for key, members, about in read_index(path):
            landmarks = map_member(path, members["landmarks.npy"]).astype(np.float32)
            mel = map_member(path, members["mel.npy"])
            yield _Talking(key, about["speaker"], split, clip_codes(landmarks), mel)


def _verdicts(path: Path, config: PrepareConfig) -> dict[str, str]:
    """What is to be done with each clip of a shard: keep, shift or drop."""
    steps = json.loads((path.parent / "sync.json").read_text(encoding="utf-8"))

    def verdict(key: str, about: dict[str, Any]) -> str:
        step = steps[key]
        if "shifted_frames" in about:
            return "keep"
        if step["off"]:
            return config.sync
        return "keep" if step["sure"] else config.unsure

    return {key: verdict(key, about) for key, _, about in read_index(path)}


def _mend_shard(path: Path, config: PrepareConfig) -> None:
    """Write a shard again without clips to be dropped, others moved; doing it twice is harmless."""
    steps = json.loads((path.parent / "sync.json").read_text(encoding="utf-8"))
    verdicts = _verdicts(path, config)
    partial_path = path.with_suffix(".partial")
    with tarfile.open(partial_path, "w") as tar:
        for key, members, about in read_index(path):
            if verdicts[key] == "drop":
                continue
            sample = {name: map_member(path, member) for name, member in members.items()
                      if name.endswith(".npy")} | {"json": about}  # fmt: skip
            if verdicts[key] == "shift":
                try:
                    sample = shifted(sample, steps[key]["lag"])
                except Rejected:
                    continue
            for name, value in sample.items():
                add_member(tar, f"{key}.{name}", value)
    partial_path.rename(path)


def _report(out: Path, config: PrepareConfig) -> dict[str, Any]:
    """What is in the folder, what is not and why."""
    rejected: dict[str, dict[str, str]] = defaultdict(dict)
    for shard in shard_reports(out):
        for reason, names in shard["rejected"].items():
            rejected[reason].update(names)
    kept, frames, moved = set(), 0, {}
    for split in SPLITS:
        for path in sorted(out.glob(f"{split}-*.tar")):
            for key, _, about in read_index(path):
                kept.add(key)
                frames += about["frames"]
                if "shifted_frames" in about:
                    moved[key] = about["shifted_frames"]
    sync: dict[str, Any] = {}
    if config.sync != "off":
        steps = json.loads((out / "sync.json").read_text(encoding="utf-8"))
        for key in steps.keys() - kept:
            step = steps[key]
            name = "out of sync" if step["off"] else "sync not sure"
            rejected[name][key] = f"by {step['lag']} frames, confidence {step['confidence']:.2f}"
        sync = {
            "in step": sum(s["sure"] and not s["off"] for s in steps.values()),
            "not sure": sum(not s["sure"] for s in steps.values()),
            "shifted": moved,
        }
    return {
        "kept": len(kept),
        "frames": frames,
        "rejected": {reason: dict(sorted(rejected[reason].items())) for reason in sorted(rejected)},
        "sync": sync,
    }
