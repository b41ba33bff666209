"""The painter alone, as in a call: the bank is a clip's first half, its second half is painted.

    python -m lipwire.training.evaluation.units SHARDS CHECKPOINT [CHECKPOINT ..] [--strips FOLDER]

The codes are the measured ones. For every way of painting: squared error in the mouth (crop in
±1), the horizontal gradient there as a share of the real one's (1 = as sharp), and the distance in
features that ImageNet taught, where those are installed.
    cold     references as in a call's first moments, two steps from noise: what lite 0.3.0 ships
    warm     references are units, two steps from noise
    raw      the unit, moved to the present pose and the code, without a network
    at 249   one step that begins at the unit with the noise of t = 249; the same for 499
    499 249  two steps that begin at the unit
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lipwire.engine.errors import ConfigError
from lipwire.engine.face.articulation import OPENING
from lipwire.engine.nets.lite import LiteNet
from lipwire.engine.types import F32
from lipwire.engine.units.moved import unit_slot
from lipwire.training.data.dataset import I64, ClipData, load_clips, to_planes
from lipwire.training.families import LiteFamily, alpha_bars, estimates, open_network
from lipwire.training.lite.samples import write_rows
from lipwire.training.lite.units import APART_FRAMES, Looks, choose, moved_crop
from lipwire.training.nets.imagenet import MouthFeatures

FAMILY = LiteFamily()
MIN_FRAMES = 40  # of a clip: a second of bank, and something to paint
TARGETS = 7  # frames of a clip that are painted
ROWS, COLUMNS = slice(10, 45), slice(30, 98)  # of the hidden half: lips, teeth and their skin
WAYS: dict[str, tuple[int, ...]] = {
    "cold": (999, 499),
    "warm": (999, 499),
    "raw": (),
    "at 249": (249,),
    "at 499": (499,),
    "499 249": (499, 249),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """How one way of painting does, over all clips."""

    error: float
    """mean squared error in the mouth"""
    gradient: float
    """median over clips, of the real mouth's"""
    distance: float
    """mean distance in ImageNet's features; NaN where they are not installed"""


@dataclass(frozen=True, slots=True)
class Task:
    """What is painted of one clip, and from what."""

    crops: Tensor
    """f32[N, 3, S, S] in ±1"""
    codes: Tensor
    """f32[N, 7], normalised"""
    cold: tuple[Tensor, Tensor]
    """references f32[N, 3 R, S, S] of a call's first moments, and what they show, f32[N, R, 7]"""
    warm: tuple[Tensor, Tensor]
    """the same of units"""
    unit: Tensor
    """f32[N, 3, S/2, S]"""


def task_of(clip: ClipData, stats: F32, references: int, told: bool) -> Task:
    """Targets from the second half of a clip, references from its first.

    Args:
        clip: long enough.
        stats: f32[2, 7], what codes are normalised by.
        references: that the network takes.
        told: whether it is told what they show; one that is not is given the unit in all of them.
    """
    count = len(clip)
    codes = np.clip((clip.codes - stats[0]) / stats[1], -4, 4).astype(np.float32)
    bank = np.arange(count // 2)
    targets = np.linspace(count // 2 + APART_FRAMES, count - 1, TARGETS).round().astype(int)
    looks = Looks()
    own = looks.of(clip, targets)
    known = looks.of(clip, bank)
    units = [
        choose(codes[t], look, codes[bank], known, references)
        for t, look in zip(targets, own, strict=True)
    ]
    slot = unit_slot(references)
    unit = np.array([u[slot] for u in units])
    if not told:
        units = [[u] * references for u in unit.tolist()]
    order = np.argsort(clip.codes[bank, OPENING], kind="stable")
    first = order[np.linspace(0, len(bank) - 1, references).round().astype(int)]

    def shown(frames: I64) -> tuple[Tensor, Tensor]:
        pictures = [
            np.concatenate([to_planes(np.asarray(clip.crops[i])) for i in row]) for row in frames
        ]
        return torch.from_numpy(np.stack(pictures)), torch.from_numpy(codes[frames])

    crops, _ = shown(targets[:, None])
    made = [
        moved_crop(clip, int(t), int(u), clip.codes[t]) for t, u in zip(targets, unit, strict=True)
    ]
    moved = torch.from_numpy(np.stack([to_planes(crop) for crop, _ in made]))
    now = (np.stack([code for _, code in made]) - stats[0]) / stats[1]
    warm, warm_codes = shown(np.array(units))
    for place in [slot] if told else range(references):
        warm[:, 3 * place : 3 * place + 3] = moved
        warm_codes[:, place] = torch.from_numpy(np.clip(now, -4, 4).astype(np.float32))
    return Task(
        crops,
        torch.from_numpy(codes[targets]),
        shown(np.stack([first] * TARGETS)),
        (warm, warm_codes),
        moved[:, :, moved.shape[2] // 2 :],
    )


@torch.no_grad()
def painted(net: LiteNet, task: Task, way: str) -> Tensor:
    """The hidden halves, f32[N, 3, S/2, S] in ±1, one noise for all as in a session."""
    levels, half = WAYS[way], task.crops.shape[2] // 2
    if not levels:
        return task.unit
    references, shown = task.cold if way == "cold" else task.warm
    context = net.encoder(task.crops[:, :, :half], references, task.codes, shown)
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(1, *task.unit.shape[1:], generator=random).expand_as(task.unit)
    ab = alpha_bars(torch.tensor(levels[:1]))
    x = noise if levels[0] == 999 else ab.sqrt() * task.unit + (1 - ab).sqrt() * noise
    x0 = x
    for number, level in enumerate(levels):
        t = torch.full((len(x),), level)
        v = FAMILY.denoise(net, x, t, (references, context))
        eps, x0 = estimates(v, x, t, FAMILY.prediction)
        if number + 1 < len(levels):
            after = alpha_bars(torch.tensor(levels[number + 1 : number + 2]))
            x = after.sqrt() * x0 + (1 - after).sqrt() * eps
    return x0.clamp(-1, 1)


def gradient(hidden: Tensor) -> float:
    """Mean absolute difference of neighbours in the mouth, f32[N, 3, S/2, S]."""
    mouth = hidden[:, :, ROWS, COLUMNS]
    return float((mouth[..., 1:] - mouth[..., :-1]).abs().mean())


def measure_units(
    net: LiteNet, stats: F32, clips: Sequence[ClipData], strips: Path | None = None
) -> dict[str, Figure]:
    """Figures of every way.

    Args:
        net: in evaluation mode.
        stats: f32[2, 7], what its codes are normalised by.
        clips: shorter ones than `MIN_FRAMES` are left out.
        strips: folder for a PNG a clip: input, the unit, then the ways.

    Raises:
        ConfigError: no clip is long enough, or a strip cannot be written.
    """
    long = [clip for clip in clips if len(clip) >= MIN_FRAMES]
    if not long:
        raise ConfigError(f"no clip has {MIN_FRAMES} frames")
    try:
        measure = MouthFeatures.pretrained()
    except ConfigError:
        measure = None
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    for clip in long:
        task = task_of(clip, stats, net.config.references, net.config.told)
        half = task.crops.shape[2] // 2
        real = task.crops[:, :, half:]
        rows = {"input": task.crops}
        for way in WAYS:
            hidden = painted(net, task, way)
            error = (hidden - real)[:, :, ROWS, COLUMNS].square().mean()
            distance = float(measure(hidden, real).mean()) if measure else float("nan")
            found[way].append((float(error), gradient(hidden) / gradient(real), distance))
            rows[way] = torch.cat([task.crops[:, :, :half], hidden], dim=2)
        if strips:
            strips.mkdir(parents=True, exist_ok=True)
            write_rows(strips / f"{clip.key}.png", list(rows.values()), list(rows))
    values = {way: np.array(rows) for way, rows in found.items()}
    return {
        way: Figure(float(v[:, 0].mean()), float(np.median(v[:, 1])), float(v[:, 2].mean()))
        for way, v in values.items()
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--strips", type=Path)
    options = parser.parse_args()
    clips = load_clips(options.shards, "val")
    print(f"{'':32}" + "".join(f"{way:>20}" for way in WAYS))
    for path in options.checkpoints:
        opened = open_network(path)
        figures = measure_units(
            opened.net, opened.state["code_stats"].numpy(), clips, options.strips
        )
        cells = [f"{f.error:.4f} {f.gradient:.2f} {f.distance:.3f}" for f in figures.values()]
        step = opened.state.get("step", "")
        print(
            f"{path.parent.name}/{path.stem} {step}".ljust(32)
            + "".join(f"{cell:>20}" for cell in cells),
            flush=True,
        )


if __name__ == "__main__":
    main()
