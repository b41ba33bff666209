"""`lipwire voices`: commands that make something to train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def voices(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    hours: Annotated[float, typer.Option(help="Hours to train on; a tenth more for val.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    degraded: Annotated[
        float, typer.Option(min=0, max=1, help="Share that passes rooms, noise and codecs.")
    ] = 0.5,
) -> None:
    """Let installed synthesisers speak, with the time of every phoneme; killed, it goes on."""
    import rich

    from training.voices import write_voices

    rich.reconfigure(stderr=True)
    report = write_voices(out, hours, seed=seed, workers=workers, degraded=degraded)
    print(json.dumps(report))


def register(app: typer.Typer) -> None:
    """Add these commands to the main one."""
    app.command()(voices)
