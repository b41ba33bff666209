"""`lipwire prepare`: what there is to train on."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from lipwire.engine.errors import ConfigError


def by_default(command: str) -> type[TyperGroup]:
    """A group of commands, of which one need not be named."""

    class Group(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if args and args[0] not in {*self.commands, "-h", "--help"}:
                args = [command, *args]
            return super().parse_args(ctx, args)

    return Group


def need(*modules: str) -> None:
    """Raise unless these modules of the `train` extra are installed.

    Raises:
        ConfigError: names what is missing and how to get it.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"this needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            "installed: pip install 'lipwire[train]'"
        )


@contextmanager
def resumable(kept: str = "whole shards") -> Iterator[None]:
    """Say on Ctrl-C what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"lipwire: {kept} are kept; the same command goes on", file=sys.stderr)
        raise


def prepare(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of clips: VoxCeleb2, LRW or your own.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    layout: Annotated[
        Literal["auto", "manifest", "voxceleb2", "lrw", "folders"],
        typer.Option(help="How SOURCE is laid out; docs/data.md shows each."),
    ] = "auto",
    framing: Annotated[
        Literal["stabilised", "box", "voxceleb2"],
        typer.Option(
            help="stabilised: the lite model's; box: the paper's; voxceleb2: its fixed place there."
        ),
    ] = "stabilised",
    first_utterances: Annotated[
        bool, typer.Option("--first-utterances", help="Of each VoxCeleb2 video only the first.")
    ] = False,
    cuts: Annotated[
        Literal["reject", "longest"], typer.Option(help="Clips with cuts: or the longest shot.")
    ] = "reject",
    pictures: Annotated[
        Literal["jpeg", "raw"],
        typer.Option(help="How crops are stored: a seventh of the bytes, or bit for bit."),
    ] = "jpeg",
    sync: Annotated[
        Literal["shift", "drop", "off"], typer.Option(help="Clips surely out of step.")
    ] = "shift",
    unsure: Annotated[
        Literal["keep", "drop"], typer.Option(help="Clips whose step cannot be told.")
    ] = "keep",
    exclude: Annotated[
        list[str] | None, typer.Option(help="Pattern of file names to leave out; may repeat.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Clips at most; 0 is all.")] = 0,
    val_share: Annotated[
        float,
        typer.Option(
            min=0, max=0.99, help="Of the speakers, kept for validation; 0 trains on all."
        ),
    ] = 0.1,
) -> None:
    """Cut talking clips into shards to train on; killed anywhere, the same command goes on."""
    if not source.is_dir():
        raise ConfigError(f"{source}: no such folder")
    import rich

    from lipwire.training.data.clip import Rules
    from lipwire.training.data.prepare import PrepareConfig
    from lipwire.training.data.prepare import prepare as run

    rules, checks = Rules(framing=framing, cuts=cuts, pictures=pictures), (sync, unsure)
    which = (layout, first_utterances, tuple(exclude or ()), limit)
    config = PrepareConfig(rules, *which, *checks, val_share)
    rich.reconfigure(stderr=True)
    with resumable():
        report = run(source, out, config, workers=workers)
    _print_rejected(report)
    counts = {reason: len(names) for reason, names in report["rejected"].items()}
    sync_counts = {**report["sync"], "shifted": len(report["sync"].get("shifted", {}))}
    print(json.dumps({**report, "rejected": counts, "sync": sync_counts}))


def _print_rejected(report: dict[str, Any]) -> None:
    """Every rejected clip by name, on stderr; long lists are cut, report.json has all."""
    import rich
    from rich.table import Table

    table = Table("rejected", "clips", "which")
    for reason, names in report["rejected"].items():
        shown = [f"{key} ({detail})" if detail else key for key, detail in names.items()]
        more = [f"and {len(shown) - 12} more: report.json"] if len(shown) > 12 else []
        table.add_row(reason, str(len(shown)), "\n".join(shown[:12] + more))
    if report["rejected"]:
        rich.print(table)


def register(app: typer.Typer) -> None:
    """Add this command to the main one."""
    app.command()(prepare)
