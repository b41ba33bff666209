"""`lipwire bench overload`: a call whose device is slowed for a while."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()

ROWS = (
    ("pictures_share", "pictures back", ".1%"),
    ("generated_share", "mouth generated", ".1%"),
    ("held_share", "mouth held", ".1%"),
    ("rungs", "rungs", ""),
    ("steps", "steps", ""),
    ("rung_changes", "changes of rung", ""),
    ("sound_holes", "holes in the sound", ""),
    ("delay_p50_ms", "delay p50, ms", ".0f"),
    ("delay_p95_ms", "delay p95, ms", ".0f"),
    ("freeze_max_ms", "longest freeze, ms", ".0f"),
)
"""figures of each third, how they are called, how they are written"""
AIMS = {"pictures_share": "at least 95 %", "sound_holes": "0"}


def _written(value: Any, form: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return format(value, form)


def show(result: dict[str, Any]) -> None:
    """Print a table of the thirds, and what was met."""
    from rich.console import Console
    from rich.table import Table

    figures = result["figures"]
    parts = [name for name, value in figures.items() if isinstance(value, dict)]
    table = Table(title=f"a device {result['factor']:g} times as slow in the middle third")
    for column in ("", *parts, "target"):
        table.add_column(column)
    for key, label, form in ROWS:
        cells = [_written(figures[part][key], form) for part in parts]
        table.add_row(label, *cells, AIMS.get(key, ""))
    for key, label in (("delay_back_s", "delay back, s"), ("rung_back_s", "rung back, s")):
        table.add_row(label, "", "", _written(figures[key], ".1f"), "at most 3")
    Console().print(table)
    for name, met in result["met"].items():
        print(f"{'met' if met else 'MISSED':8}{name}")


@app.command()
def overload(
    seconds: Annotated[float, typer.Option(min=9, help="Of the call, in three parts.")] = 60,
    factor: Annotated[float, typer.Option(min=1, help="The device's slowness in the second.")] = 4,
    ladder: Annotated[bool, typer.Option(help="Whether the server lowers its quality.")] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result here as JSON; - prints it.")
    ] = None,
) -> None:
    """A device that is slowed in the middle of a call: pictures, sound, rungs, the way back."""
    from benchmarks.overload import run

    result = run(seconds=seconds, factor=factor, ladder=ladder)
    if json_file is not None and str(json_file) == "-":
        print(json.dumps(result))
    else:
        show(result)
        if json_file is not None:
            json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not all(result["met"].values()):
        raise typer.Exit(1)
