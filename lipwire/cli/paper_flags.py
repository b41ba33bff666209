"""Flags that `lipwire evaluate list` and `videos` share, and what they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lipwire.cli.data import need

OutFolder = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of results; one found here goes on.")
]
Dataset = Annotated[str, typer.Option(help="The data's name in the table.")]
ShareFlag = Annotated[
    str, typer.Option("--shard", help="The i-th of n parts, as 2/8; machines may share OUT or not.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
Again = Annotated[bool, typer.Option("--again", help="Try clips that were left out once more.")]
Frames = Annotated[int, typer.Option(min=10, help="Of a clip at most, at 25 a second.")]
Every = Annotated[int, typer.Option(min=1, help="Of so many frames one is compared as a picture.")]
SyncNetFile = Annotated[
    Path | None, typer.Option("--syncnet", help="syncnet_v2.model, for Sync_c and Sync_d.")
]
InceptionFile = Annotated[
    Path | None,
    typer.Option("--inception", help="inception-2015-12-05.pt, for FID; without: Fréchet–Gabor."),
]
PerceptualFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--perceptual-weights",
        help="VGG-16 and LPIPS's linear weights; may repeat. Without: Gabor distance.",
    ),
]
FaceFile = Annotated[
    Path | None,
    typer.Option("--face-net", help="An ArcFace-like ONNX network, 112 px, for identity."),
]
ProtocolFlag = Annotated[
    Literal["call", "paper"],
    typer.Option(help="paper: every picture painted and pasted plainly; SyncNet sees whole ones."),
]
TableFile = Annotated[
    list[Path] | None,
    typer.Option("--out", "-o", help="A .md, .csv or .tex file; may repeat. Without: the screen."),
]


def make_plan(
    dataset: str,
    frames: int,
    every: int,
    syncnet: Path | None,
    inception: Path | None,
    perceptual: list[Path] | None,
    face: Path | None,
    protocol: Literal["call", "paper"],
    crop: Literal["face", "voxceleb2"] = "face",
    device: str | None = None,
) -> Any:
    """What decides the figures, as lipwire.training.evaluation.run.Plan."""
    need("torch", "skimage")
    import rich

    from lipwire.training.evaluation.judge import Weights
    from lipwire.training.evaluation.run import Plan

    rich.reconfigure(stderr=True)
    weights = Weights(syncnet, inception, tuple(perceptual or ()), face)
    return Plan(dataset, weights, frames, every, protocol, crop, device)


def report(summary: Any, out: Path) -> None:
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.excluded.items())
    left_out = f", left out: {reasons}" if reasons else ""
    known = f"{summary.clips} clips, {summary.found} were there already"
    print(f"{out}: {known}, {summary.measured} measured{left_out}")
