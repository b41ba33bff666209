"""`lipwire bench quality | strips`: what viewers see, in figures and in pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from server.cli_bench import _print_table, _status

app = typer.Typer()
Corpus = Annotated[
    Path | None,
    typer.Option(help="Folder of clips with a manifest.csv; without it, made ones alone."),
]
Bundle = Annotated[Path | None, typer.Option("--bundle", "-b", help="Model to look at.")]


@app.command()
def quality(
    corpus: Corpus = None,
    bundle: Bundle = None,
    json_to: Annotated[
        str | None, typer.Option("--json", help="Write the result there as JSON; - prints it.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each clip.")] = 3.0,
) -> None:
    """Blending, jitter, silence, interruption: figures beside their targets."""
    from benchmarks.quality import run

    with _status("looking") as show:
        result = run(corpus=corpus, bundle=bundle, seconds=seconds, progress=show)
    if json_to == "-":
        print(json.dumps(result))
    else:
        if json_to is not None:
            Path(json_to).write_text(json.dumps(result, indent=1) + "\n")
        _print_table(
            f"quality, {result['clips']} clips", ["figure", "measured", "target", ""],
            [
                [name, f"{value:.3g}", f"{result['targets'].get(name, '')}",
                 {True: "met", False: "MISSED", None: ""}[result["met"].get(name)]]
                for name, value in result["figures"].items()
            ],
        )  # fmt: skip
    if not all(result["met"].values()):
        raise typer.Exit(1)


@app.command()
def strips(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pictures.")] = Path(
        "docs/strips"
    ),
    only: Annotated[list[str] | None, typer.Option(help="One case; may repeat.")] = None,
    corpus: Corpus = None,
    bundle: Bundle = None,
) -> None:
    """Hard cases before and after, a strip each: beards, glasses, hands, the dark."""
    from benchmarks.strips import run

    with _status("drawing") as show:
        for path in run(out, only=only, corpus=corpus, bundle=bundle, progress=show):
            print(path, file=sys.stderr)
