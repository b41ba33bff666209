"""`lipwire bench …`: a command for each benchmark, made of the signature of what it runs.

All have `--json FILE|-` (one record), a table on the screen and progress on stderr. Exit code 1:
something is not what it should be; 130: Ctrl-C or SIGTERM, after which some keep what they had
measured, as a record that says `incomplete`.
"""

from __future__ import annotations

import inspect
import re
import signal
import sys
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

# lipwire.benchmarks.harness.record's: nothing of it is loaded before a command runs.
Record = dict[str, Any]
JsonFlag = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE|-", help="Write the record; - is stdout, no table then."),
]

LINE_EVERY_S = 30.0  # on a stderr that is no terminal: more fills logs, less looks like a hang
INTERRUPTED = 130  # what shells give a process that Ctrl-C ended


class _Lazy(TyperCommand):
    """A benchmark's command, made when it is called: what it runs may take seconds to import."""

    def __init__(self, bench: Any) -> None:
        super().__init__(bench.name, help=bench.help, rich_markup_mode=None)
        self._bench = bench

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Hand over to the real one."""
        return command_of(self._bench).make_context(*args, **kwargs)


class Benches(TyperGroup):
    """The commands of this file and one for each benchmark."""

    def list_commands(self, ctx: Any) -> list[str]:
        from lipwire.benchmarks.harness.registry import BENCHES

        return [*(one.name for one in BENCHES), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        from lipwire.benchmarks.harness.registry import BENCHES

        found = next((one for one in BENCHES if one.name == cmd_name), None)
        return _Lazy(found) if found is not None else super().get_command(ctx, cmd_name)


app = typer.Typer(
    cls=Benches, help="Measure this machine; every figure with its raw data.", no_args_is_help=True
)


def command_of(bench: Any) -> Any:
    """A benchmark's command.

    Raises:
        ConfigError: something that it needs is not installed.
    """
    run = bench.load()

    def command(as_json: str | None, **options: Any) -> None:
        from lipwire.benchmarks.harness.record import make_record

        with status(bench.name) as show, interrupting():
            if "progress" in inspect.signature(run).parameters:
                options["progress"] = lambda what: show(str(what))
            record = make_record(bench.name, bench.help, run(**options))
        give(record, as_json)

    keyword = inspect.Parameter.KEYWORD_ONLY
    as_json = inspect.Parameter("as_json", keyword, default=None, annotation=JsonFlag)
    parameters = [as_json, *options_of(run)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    made = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    made.command(bench.name, help=bench.help)(command)
    return typer.main.get_command(made)


def options_of(run: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """A function's parameters as options, with their texts out of its docstring."""
    hints, texts = typing.get_type_hints(run, include_extras=True), docs_of(run)
    for name, parameter in inspect.signature(run).parameters.items():
        if name == "progress":
            continue
        kind: Any = hints[name]
        limits: dict[str, Any] = {}
        if typing.get_origin(kind) is Annotated:  # with annotated_types.Ge and Le
            kind, *rest = typing.get_args(kind)
            for limit in rest:
                for old, end in (("ge", "min"), ("le", "max")):
                    if hasattr(limit, old):
                        limits[end] = getattr(limit, old)
        default = parameter.default
        if typing.get_origin(kind) in (Sequence, tuple):
            kind, default = list[typing.get_args(kind)[0]], list(default)  # type: ignore[misc]
        text = texts.get(name, "")
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, typer.Option(help=text, **limits)],
        )


def docs_of(run: Callable[..., Any]) -> dict[str, str]:
    """What a docstring's `Args:` says of each parameter, a sentence each."""
    lines = inspect.cleandoc(run.__doc__ or "").partition("Args:\n")[2].splitlines()
    texts: dict[str, str] = {}
    name = ""
    for line in lines:
        if not line.startswith("    "):
            break
        if match := re.match(r"    (\w+): (.*)", line):
            name, texts[match[1]] = match[1], match[2]
        elif name:
            texts[name] += " " + line.strip()
    return {name: text[:1].upper() + text[1:] for name, text in texts.items()}


@contextmanager
def interrupting() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: benchmarks end what they started, and may keep figures."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def status(what: str) -> Iterator[Callable[[str], None]]:
    """Says on stderr what is going on: at once on a terminal, else a line now and then."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        said_s = time.monotonic()

        def say(text: str) -> None:
            nonlocal said_s
            if time.monotonic() - said_s >= LINE_EVERY_S:
                said_s = time.monotonic()
                print(f"{what}: {text}", file=sys.stderr, flush=True)

        yield say
        return
    with console.status(what) as shown:
        yield lambda text: shown.update(f"{what}: {text}")


def give(record: Record, as_json: str | None) -> None:
    """Print a record, write what was asked for; exit code 1 if something was missed, 130 if cut."""
    from lipwire.benchmarks.harness.record import missed, write_record

    if as_json is not None:
        write_record(record, as_json)
    if as_json != "-":
        print_record(record)
    if "incomplete" in record:
        why = f"{record['benchmark']} is incomplete: {record['incomplete']}"
        print(f"lipwire: {why}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if missed(record):
        raise typer.Exit(1)


def print_record(record: Record) -> None:
    """The tables of a record, its figures last."""
    from lipwire.benchmarks.harness.record import shown, unit_of

    for title, rows in record["tables"].items():
        if rows:
            columns = list(rows[0])
            texts = [[shown(row.get(name), unit_of(name)) for name in columns] for row in rows]
            print_table(title, columns, texts)
    words = {True: "met", False: "MISSED", None: ""}
    rows = [
        [name, shown(one["value"], one["unit"]), one["target"] or "", words[one["ok"]]]
        for name, one in record["figures"].items()
    ]
    title = f"{record['benchmark']} on {record['machine']['processor']}"
    print_table(title, ["figure", "measured", "target", ""], rows)


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    # A file or a pipe has no width: nothing need be cut.
    (console if console.is_terminal else Console(width=200)).print(table)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A record of `--json`.")],
    after: Annotated[Path, typer.Argument(help="Another of the same benchmark.")],
    as_json: JsonFlag = None,
    different_machines: Annotated[
        bool, typer.Option("--different-machines", help="Compare them though the machines differ.")
    ] = False,
) -> None:
    """Say what changed beyond noise: ratios with intervals, bootstrapped from raw data."""
    from lipwire.benchmarks.harness.compare import compare as run
    from lipwire.benchmarks.harness.record import read_record

    found = run(read_record(before), read_record(after), different_machines=different_machines)
    if as_json is not None:
        from lipwire.benchmarks.harness.record import write_record

        write_record(found, as_json)
    if as_json == "-":
        return
    rows = []
    for row in found["rows"]:
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.3f}"
        span = "" if row["interval"] is None else "{:.3f}–{:.3f}".format(*row["interval"])
        values = f"{row['before']:.4g}", f"{row['after']:.4g}"
        rows.append([row["figure"], *values, ratio, span, row["verdict"]])
    title = f"{found['benchmark']}: {before.name} -> {after.name}"
    print_table(title, ["figure", "before", "after", "ratio", "95 %", "verdict"], rows)
    for line in found["notes"]:
        print(f"note: {line}")


@app.command()
def strips(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pictures.")] = Path(
        "docs/strips"
    ),
    only: Annotated[list[str] | None, typer.Option(help="One case; may repeat.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Folder of clips with a manifest.csv, for GRID speakers.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="Model to look at.")] = None,
) -> None:
    """Hard cases before and after, a strip each: beards, glasses, hands, the dark."""
    from lipwire.benchmarks.model.strips import run

    with status("drawing") as show:
        for path in run(out, only=only, corpus=corpus, bundle=bundle, progress=show):
            print(path, file=sys.stderr)
