"""Evaluation over many clips: resumable to the clip, dealt out to processes and machines."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lipwire.engine.audio.mel import PAPER_FPS, log_mel
from lipwire.engine.errors import ConfigError, MediaError
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.media.sound import as_float
from lipwire.engine.model.bundle import open_bundle
from lipwire.engine.types import SPEECH_RATE_HZ
from lipwire.training.data.clip import Rejected
from lipwire.training.evaluation.films import Film, read_film, read_voice, track, write_film
from lipwire.training.evaluation.judge import Judge, Verdict, Weights
from lipwire.training.evaluation.lists import Pair, Setting, Share, folder_pairs, read_list
from lipwire.training.evaluation.methods import Crop, Method, MethodSpec, Protocol
from lipwire.training.evaluation.store import Record, Store
from lipwire.training.processes import in_processes

MAX_FRAMES = 250  # ten seconds: what fits memory at any size, and the paper's clips are 8 s long


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the figures."""

    dataset: str = "-"
    """its name in the table"""
    weights: Weights = field(default_factory=Weights)
    frames: int = MAX_FRAMES
    """of a clip at most"""
    every: int = 5
    """of so many frames one is compared as a picture"""
    protocol: Protocol = "call"
    """see `lipwire.training.evaluation.methods.Method`; the paper's shows SyncNet whole pictures"""
    crop: Crop = "face"
    device: str | None = None
    """that methods run on; decides no figure"""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did."""

    clips: int
    """of this shard"""
    found: int
    """already there when it began"""
    measured: int
    excluded: dict[str, int]
    """reason -> clips, of those looked at in this run"""


# --- lists ---


@dataclass(frozen=True, slots=True)
class _Generation:
    """What a worker process needs to know to do any pair of a list."""

    setting: Setting
    methods: tuple[MethodSpec, ...]
    plan: Plan
    keep: Path | None


def evaluate_list(
    listed: Path,
    root: Path,
    out: Path,
    methods: Sequence[MethodSpec],
    plan: Plan,
    *,
    share: Share | None = None,
    workers: int = 1,
    keep: bool = False,
    again: bool = False,
) -> Summary:
    """Generate and measure every pair of a list that `out` does not hold yet.

    Args:
        listed: see `lipwire.training.evaluation.lists`.
        root: where its names are.
        out: see `lipwire.training.evaluation.store`.
        methods: to compare.
        plan: what decides the figures.
        share: which part of the list.
        workers: processes.
        keep: write the films too.
        again: try clips that were left out once more.

    Raises:
        ConfigError: the list or `out` cannot be used.
        CheckpointError: weights are missing or do not fit.
    """
    setting, pairs = read_list(listed, root)
    Judge(plan.weights, plan.every)  # what is missing is said before the hours
    settings = {
        "setting": setting,
        "list": hashlib.sha256(listed.read_bytes()).hexdigest()[:16],
        "methods": {spec.name: _described(spec) for spec in methods},
        **_plan_settings(plan),
        "keep": keep,  # a folder that holds the films of some clips only would be of no use
    }
    if keep:
        for spec in methods:
            (out / "videos" / spec.name).mkdir(parents=True, exist_ok=True)
    generation = _Generation(setting, tuple(methods), plan, out / "videos" if keep else None)
    task, keyed = partial(_generate, generation), [(p.key, p) for p in pairs]
    return _evaluate(task, keyed, out, settings, share or Share(), workers, again)


def _described(spec: MethodSpec) -> str:
    if spec.bundle is None:
        return "the pictures as they came"
    manifest = open_bundle(spec.bundle).manifest
    digest = hashlib.sha256(repr(sorted(manifest.files.items())).encode()).hexdigest()[:12]
    return f"{manifest.name} {manifest.version} ({digest}), {spec.steps} steps, fed the {spec.feed}"


def _plan_settings(plan: Plan) -> dict[str, Any]:
    def told(value: Any) -> Any:
        # Name and size: to read whole networks at every start would cost minutes for nothing.
        return f"{value.name}, {value.stat().st_size} bytes" if value else None

    weights = {
        name: [told(p) for p in value] if isinstance(value, tuple) else told(value)
        for name, value in asdict(plan.weights).items()
    }
    paper = plan.protocol == "paper"  # a call's is none, as in folders begun before the choice
    return {
        "dataset": plan.dataset,
        "frames": plan.frames,
        "every": plan.every,
        "weights": weights,
        "protocol": plan.protocol if paper else None,
        "crop": plan.crop if paper else None,
    }


_loaded: dict[Any, Any] = {}
Made = TypeVar("Made")


def _once(key: Any, make: Callable[[], Made]) -> Made:
    """Made at the first call in this process, then the same: a worker loads its networks once."""
    if key not in _loaded:
        _loaded[key] = make()
    made: Made = _loaded[key]
    return made


@contextmanager
def _loaded_here() -> Iterator[None]:
    """What this process loads for a run is let go at its end."""
    try:
        yield
    finally:
        for thing in _loaded.values():
            if hasattr(thing, "close"):
                thing.close()
        _loaded.clear()


def _generate(generation: _Generation, pair: Pair) -> tuple[Record, Verdict]:
    plan, tracker = generation.plan, _once("tracker", MeshTracker)
    refused: dict[str, int] = {}
    about = {"audio": str(pair.audio), "video": str(pair.video), "refused": refused}
    if generation.setting == "reconstruction":
        real = voice = read_film(pair.video, tracker, plan.frames)
    else:
        real = read_film(pair.video, tracker, plan.frames, sound=False)
        voice = read_voice(pair.audio, tracker, plan.frames)
    heard = -(-len(voice.speech) * PAPER_FPS // SPEECH_RATE_HZ)
    count = min(len(real.images), heard)
    images, faces = real.images[:count], real.faces[:count]
    if generation.setting == "reconstruction":  # the first frame is all that is known (sec. 4.1.1)
        images, faces = [images[0]] * count, [faces[0]] * count
    if not any(face is not None for face in faces):
        where = "the first frame" if generation.setting == "reconstruction" else f"{count} frames"
        raise Rejected("no face", f"in {where} of {pair.video}")
    mel, fakes = log_mel(as_float(voice.speech)), {}
    for spec in generation.methods:
        make = partial(Method, spec, protocol=plan.protocol, crop=plan.crop, device=plan.device)
        method = _once(spec, make)
        shown = method.generate(images, faces, mel)
        refused[spec.name] = method.refused
        fakes[spec.name] = Film(shown, track(shown, tracker), voice.speech)
        if generation.keep:
            write_film(generation.keep / spec.name / f"{pair.key}.mp4", shown, voice.speech)
    return about, _judge(plan).compare(generation.setting, real, fakes, voice)


def _judge(plan: Plan) -> Judge:
    return _once("judge", partial(Judge, plan.weights, plan.every, plan.protocol == "paper"))


# --- finished videos ---


def evaluate_videos(
    real: Path,
    fakes: Sequence[Path],
    out: Path,
    plan: Plan,
    *,
    setting: Setting = "reconstruction",
    voices: Path | None = None,
    share: Share | None = None,
    workers: int = 1,
    again: bool = False,
) -> Summary:
    """Measure films that other methods made, a folder a method, against the real ones.

    Args:
        real: folder of real films; a fake's real film has its name.
        fakes: a folder each; its name is the method's.
        out: see `lipwire.training.evaluation.store`.
        plan: what decides the figures.
        setting: cross has no true pictures.
        voices: folder of the films whose voices drive a cross generation, by the same names; only
            with it can LMD and the mouth's correlation be told.
        share: which part.
        workers: processes.
        again: try clips that were left out once more.

    Raises:
        ConfigError: a folder cannot be used.
        CheckpointError: weights are missing or do not fit.
    """
    names = [folder.name for folder in fakes]
    if len(set(names)) < len(names) or "real" in names:
        raise ConfigError(f"folders are methods' names, but these are {', '.join(names)}")
    shelves = [*fakes, *([voices] if voices else [])]
    items = folder_pairs(real, shelves)
    Judge(plan.weights, plan.every)
    settings = {
        "setting": setting,
        "list": hashlib.sha256(repr([key for key, _, _ in items]).encode()).hexdigest()[:16],
        "methods": dict.fromkeys(names, "finished videos"),
        **_plan_settings(plan),
    }
    task = partial(_measure, setting, tuple(names), voices is not None, plan)
    keyed = [(item[0], item) for item in items]
    return _evaluate(task, keyed, out, settings, share or Share(), workers, again)


def _measure(
    setting: Setting,
    names: tuple[str, ...],
    driven: bool,
    plan: Plan,
    item: tuple[str, Path, list[Path]],
) -> tuple[Record, Verdict]:
    tracker = _once("tracker", MeshTracker)
    _, path, others = item
    if missing := [p for p in (path, *others) if not p.is_file()]:
        raise Rejected("missing file", f"{missing[0]}: no such file")
    real = read_film(path, tracker, plan.frames, sound=False)
    films = [read_film(p, tracker, plan.frames, sound=False) for p in others]
    fakes = dict(zip(names, films, strict=False))
    if setting == "reconstruction":  # a real film without sound is heard in its fakes
        speech = next((f.speech for f in (real, *films) if len(f.speech)), real.speech)
        voice = Film(real.images, real.faces, speech)
    elif driven:
        voice = films[-1]
    else:  # what the fakes are heard saying; whose mouth it was is not known
        voice = Film([], [], films[0].speech)
    return {"video": str(path)}, _judge(plan).compare(setting, real, fakes, voice)


# --- both ---


def _attempt(
    task: Callable[[Any], tuple[Record, Verdict]], keyed: tuple[str, Any]
) -> tuple[Record, Verdict | None]:
    """A clip's record, or why it is left out of every method's figures."""
    key, item = keyed
    try:
        about, verdict = task(item)
    except (Rejected, MediaError) as error:
        reason = error.reason if isinstance(error, Rejected) else "unreadable"
        detail = error.detail if isinstance(error, Rejected) else str(error)
        return {"key": key, "excluded": reason, "detail": detail}, None
    return {
        "key": key,
        **about,
        "frames": verdict.frames,
        "left_out": verdict.left_out,
        "methods": verdict.methods,
    }, verdict


def _evaluate(
    task: Callable[[Any], tuple[Record, Verdict]],
    items: Sequence[tuple[str, Any]],
    out: Path,
    settings: dict[str, Any],
    share: Share,
    workers: int,
    again: bool,
) -> Summary:
    from rich.progress import Progress

    mine = items[share.index - 1 :: share.of]
    excluded: Counter[str] = Counter()
    with Store(out, share, settings) as store, Progress() as bar:
        done = store.done(again=again)
        waiting = [item for item in mine if item[0] not in done]
        work = bar.add_task("evaluating", total=len(mine), completed=len(mine) - len(waiting))
        with _loaded_here():
            for record, verdict in _results(partial(_attempt, task), waiting, workers):
                store.append(record, verdict.features if verdict else None)
                if "excluded" in record:
                    excluded[record["excluded"]] += 1
                bar.advance(work)
    measured = len(waiting) - excluded.total()
    return Summary(len(mine), len(mine) - len(waiting), measured, dict(excluded))


def _results(
    attempt: Callable[[tuple[str, Any]], tuple[Record, Verdict | None]],
    waiting: Sequence[tuple[str, Any]],
    workers: int,
) -> Iterator[tuple[Record, Verdict | None]]:
    """One process needs no other: it keeps what it has loaded."""
    if workers == 1:
        return map(attempt, waiting)
    return in_processes(attempt, waiting, workers)
