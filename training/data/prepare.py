"""Clips -> shards: 25 fps, tracked, cropped 128x128, in step with their sound.

A shard is a tar in WebDataset's layout, one group of members a clip:
    KEY.jpegs.npy      uint8[N], T pictures of 128x128, one after another
    KEY.ends.npy       i64[T], where each ends; crops.npy, uint8[T, 128, 128, 3], where stored raw
    KEY.landmarks.npy  f16[T, 468, 2], pixels of the crop
    KEY.speech.npy     int16[N], 16 kHz, sample 0 at the first frame
    KEY.mel.npy        f32[80, M], 80 columns a second, column 0 at the first frame
    KEY.json           source file, speaker, split, framing, frames moved to be in step
Beside them: prepare.json (the options), sync.json (what was found about each clip's sound),
report.json (what was rejected, by name, and why) and index.npz (where each sample begins).

Every file is written aside and renamed when whole, so that an interrupted run goes on where it
was, and ends with the same bytes.
"""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lipwire.engine.errors import ConfigError
from lipwire.training.data.clip import Rejected, Rules, prepare_clip, shifted
from lipwire.training.data.framing import FRAMINGS
from lipwire.training.data.layouts import SPLITS, VAL_SHARE, Clip, find_clips
from lipwire.training.data.pictures import KINDS
from lipwire.training.data.shards import (
    FORMAT,
    INDEX,
    StoredArray,
    add_member,
    place,
    read_index,
    shard_reports,
    write_json,
    write_places,
)
from lipwire.training.data.sync_check import Each, find_lags
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
    val_share: float = VAL_SHARE
    """of the speakers kept for validation"""

    def __post_init__(self) -> None:
        """Check what would only show after hours."""
        for name, value, choices in (
            ("framing", self.rules.framing, FRAMINGS),
            ("cuts", self.rules.cuts, ("reject", "longest")),
            ("pictures", self.rules.pictures, KINDS),
            ("sync", self.sync, ("shift", "drop", "off")),
            ("unsure", self.unsure, ("keep", "drop")),
        ):
            if value not in choices:
                raise ConfigError(f"{name} is {value!r}, must be one of {', '.join(choices)}")
        if not 0 <= self.val_share < 1:
            raise ConfigError(f"val_share is {self.val_share}, must lie in [0, 1)")


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
    clips = find_clips(
        source,
        config.layout,
        exclude=config.exclude,
        val_share=config.val_share,
        first_utterances=config.first_utterances,
    )
    # Spread speakers and lengths over the shards, the same way in every run.
    np.random.default_rng(0).shuffle(clips)  # type: ignore[arg-type]
    clips = clips[: config.limit or None]
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config, clips)
    shards = _shards(out, clips)
    tasks = [(path, members) for path, members in shards if not path.exists()]
    with Progress() as bar:

        def each(
            function: Callable[[Any], Any], tasks: Sequence[Any], name: str = "checking sync"
        ) -> Iterable[Any]:
            work = bar.add_task(name, total=len(tasks))
            for done in in_processes(function, tasks, workers):
                bar.advance(work)
                yield done

        work = bar.add_task("preparing", total=sum(len(c) for _, c in tasks))
        for done in in_processes(partial(_write_shard, rules=config.rules), tasks, workers):
            bar.advance(work, done)
        if config.sync != "off":
            steps = _check_sync([path for path, _ in shards], each)
            mending = list(_to_mend(shards, steps, config))
            for _ in each(partial(_mend_shard, config=config), mending, "mending sync"):
                pass
    report = _report(out, config)
    write_json(out / "report.json", report)
    return report


def _claim(out: Path, config: PrepareConfig, clips: list[Clip]) -> None:
    """Take the folder for these options and clips.

    Raises:
        ConfigError: it was begun with others.
    """
    path = out / "prepare.json"
    about = {"format": FORMAT, "options": asdict(config), "clips": sorted(c.key for c in clips)}
    wanted = json.loads(json.dumps(about))
    if not path.exists():
        if any(out.glob("*-[0-9]*.tar")):
            raise ConfigError(f"{out}: holds shards of an earlier version; use another folder")
        write_json(path, wanted)
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    begun["options"].setdefault("val_share", VAL_SHARE)  # what it was before it could be chosen
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


def _shards(out: Path, clips: list[Clip]) -> list[tuple[Path, list[Clip]]]:
    """Every shard that there is to be, with the clips it is made of."""
    found = []
    for split in SPLITS:
        members = [c for c in clips if c.split == split]
        for number, begin in enumerate(range(0, len(members), CLIPS_PER_SHARD)):
            path = out / f"{split}-{number:04d}.tar"
            found.append((path, members[begin : begin + CLIPS_PER_SHARD]))
    return found


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
    _replace_shard(partial_path, path)
    return len(clips)


def _replace_shard(partial_path: Path, path: Path) -> None:
    (path.parent / INDEX).unlink(missing_ok=True)  # it would be of other shards
    partial_path.rename(path)


# --- sync ---


def _check_sync(paths: Sequence[Path], each: Each = map) -> dict[str, dict[str, Any]]:
    """Find every clip's lag, once: mended clips must not be judged again."""
    path = paths[0].parent / "sync.json"
    if not path.exists():
        # Shards already mended would look in step.
        steps = find_lags(paths, _talking, each)
        write_json(
            path, {key: {**asdict(s), "sure": s.sure, "off": s.off} for key, s in steps.items()}
        )
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True, slots=True)
class _Talking:
    """What the sync check reads of a clip."""

    key: str
    speaker: str
    split: str
    codes: Any
    mel: Any


def _talking(path: Path) -> Iterator[_Talking]:
    """The clips of one shard."""
    from lipwire.engine.face.articulation import clip_codes

    for key, members, about in read_index(path):
        landmarks = np.asarray(StoredArray(path, members["landmarks.npy"]), np.float32)
        mel = StoredArray(path, members["mel.npy"])[:]
        yield _Talking(key, about["speaker"], about["split"], clip_codes(landmarks), mel)


def _to_mend(
    shards: Sequence[tuple[Path, Sequence[Clip]]],
    steps: dict[str, dict[str, Any]],
    config: PrepareConfig,
) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
    """The shards with a clip that is to be moved or dropped, and what is known of their clips."""
    for path, clips in shards:
        own = {clip.key: steps[clip.key] for clip in clips if clip.key in steps}
        if any(_verdict(step, config) != "keep" for step in own.values()):
            yield path, own


def _verdict(step: dict[str, Any], config: PrepareConfig) -> str:
    """What is to be done with a clip: keep, shift or drop."""
    if step["off"]:
        return config.sync
    return "keep" if step["sure"] else config.unsure


def _mend_shard(task: tuple[Path, dict[str, dict[str, Any]]], config: PrepareConfig) -> None:
    """Write a shard again without clips to be dropped, others moved; doing it twice is harmless."""
    path, steps = task
    samples = list(read_index(path))
    verdicts = {
        key: "keep" if "shifted_frames" in about else _verdict(steps[key], config)
        for key, _, about in samples
    }
    if set(verdicts.values()) <= {"keep"}:
        return
    partial_path = path.with_suffix(".partial")
    with tarfile.open(partial_path, "w") as tar:
        for key, members, about in samples:
            if verdicts[key] == "drop":
                continue
            arrays = {name: m for name, m in members.items() if name.endswith(".npy")}
            sample: dict[str, Any] = {name: StoredArray(path, m)[:] for name, m in arrays.items()}
            sample["json"] = about
            if verdicts[key] == "shift":
                try:
                    sample = shifted(sample, steps[key]["lag"])
                except Rejected:
                    continue
            for name, value in sample.items():
                add_member(tar, f"{key}.{name}", value)
    _replace_shard(partial_path, path)


def _report(out: Path, config: PrepareConfig) -> dict[str, Any]:
    """What is in the folder, what is not and why; notes on the way where each sample begins."""
    rejected: dict[str, dict[str, str]] = defaultdict(dict)
    for shard in shard_reports(out):
        for reason, names in shard["rejected"].items():
            rejected[reason].update(names)
    kept, frames, moved = set(), 0, {}
    places: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for split in SPLITS:
        for path in sorted(out.glob(f"{split}-*.tar")):
            places[path.name] = []
            for key, members, about in read_index(path):
                places[path.name].append(place(members, about))
                kept.add(key)
                frames += about["frames"]
                if "shifted_frames" in about:
                    moved[key] = about["shifted_frames"]
    write_places(out, places)
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
