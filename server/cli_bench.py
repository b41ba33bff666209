"""`lipwire bench denoiser | simulate | roofline`: measure, simulate, predict the model's cost."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from engine.errors import ConfigError

app = typer.Typer()
Number = TypeVar("Number", int, float)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _need_torch() -> None:
    missing = [name for name in ("torch", "onnx", "onnxscript")
               if importlib.util.find_spec(name) is None]  # fmt: skip
    if missing:
        raise ConfigError(
            f"this needs {', '.join(missing)}, not installed here: pip install 'lipwire[train]'"
        )


@contextmanager
def _status(what: str) -> Iterator[Callable[[str], None]]:
    """Says on stderr what is going on, where somebody looks."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status(what) as status:
        yield lambda text: status.update(text)


def _numbers(text: str, kind: type[Number]) -> list[Number]:
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{text!r} must be numbers with commas between them") from None
    if min(values) <= 0:
        raise ConfigError(f"{text!r} must be above 0")
    return values


def _print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@app.command()
def denoiser(
    as_json: JsonFlag = False,
    goldens: Annotated[
        Path | None,
        typer.Option(help="Folder of reference numbers; without it, a torch loop of ours."),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=100, help="Painted to see whether memory grows.")
    ] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, help="Of the lite network.")] = 5,
    paper_rounds: Annotated[
        int, typer.Option(min=1, help="Of the paper's network, minutes each.")
    ] = 1,
    paper: Annotated[bool, typer.Option(help="Measure the paper's network too.")] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Time and GFLOP/s of both networks beside this machine's own matrix product."""
    _need_torch()
    from benchmarks.denoiser import run

    with _status("measuring") as show:
        result = run(goldens=goldens, frames=frames, rounds=rounds, paper_rounds=paper_rounds,
                     paper=paper, threads=threads, progress=show)  # fmt: skip
    if as_json:
        print(json.dumps(result))
        return
    _print_table(
        f"{result['machine']['processor']}: SGEMM {result['sgemm_gflops']:.0f} GFLOP/s",
        ["network", "backend", "steps", "batch", "ms", "ms a frame", "GFLOP/s", "of SGEMM"],
        [
            [row["network"], row["backend"].split(",")[0], str(row["steps"]), str(row["batch"]),
             f"{row['ms']:.1f}", f"{row['ms_a_frame']:.1f}", f"{row['gflops']:.1f}",
             f"{row['sgemm_share']:.0%}"]
            for row in result["rows"]
        ],
    )  # fmt: skip
    _print_table(
        "figures", ["figure", "measured", "target", ""],
        [
            [name, f"{value:.3g}", f"{result['targets'].get(name, '')}",
             {True: "met", False: "MISSED", None: ""}[result["met"].get(name)]]
            for name, value in result["figures"].items()
        ],
    )  # fmt: skip


@app.command()
def simulate(
    as_json: JsonFlag = False,
    times: Annotated[
        Path | None,
        typer.Option(help="Output of `bench denoiser --json`; without it, measured now."),
    ] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="Model to measure.")] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Predicted times of a GPU instead: A6000, L4, 4090, H100.")
    ] = None,
    network: Annotated[str, typer.Option(help="For --times and --gpu: lite or paper.")] = "lite",
    steps: Annotated[int | None, typer.Option(min=1, help="DDIM steps.")] = None,
    sessions: Annotated[
        str, typer.Option(help="How many, each.")
    ] = "1,2,3,4,6,8,12,16,24,32,48,64",
    devices: Annotated[str, typer.Option(help="How many, each.")] = "1,2,4,8",
    speeds: Annotated[
        str, typer.Option(help="Of the devices, over and over: 1,0.5 has every other half as fast.")
    ] = "1",
    seconds: Annotated[float, typer.Option(min=1, help="Of virtual time at each point.")] = 10,
    plot: Annotated[Path | None, typer.Option(help="Write a picture, PNG or SVG.")] = None,
) -> None:
    """Sessions against devices in virtual time: missed deadlines, and the least possible."""
    from benchmarks.simulate import Load, Scene, draw, measured, predicted, run, stored

    if gpu is not None:
        _need_torch()
    done: list[Load] = []
    with _status("measuring") as show:

        def progress(load: Load) -> None:
            done.append(load)
            show(f"simulated {load.sessions} sessions on {load.devices} devices")

        if times is not None:
            one = stored(times, steps, network)
        else:
            one = predicted(gpu, steps, network) if gpu else measured(bundle, steps)
        result = run(one, sessions=_numbers(sessions, int),
                     devices=_numbers(devices, int), speeds=_numbers(speeds, float),
                     scene=Scene(seconds=seconds), progress=progress)  # fmt: skip
    if plot is not None:
        draw(result, plot)
    if as_json:
        print(json.dumps(result))
        return
    _print_table(
        f"batch times: {result['step_times']['origin']}",
        ["devices", "sessions", "missed", "bound", "passed through", "mean batch", "busy"],
        [
            [str(load.devices), str(load.sessions), f"{load.missed:.1%}", f"{load.bound:.1%}",
             f"{load.passed_through:.1%}", f"{load.mean_batch:.1f}", f"{load.busy:.0%}"]
            for load in done
        ],
    )  # fmt: skip


@app.command()
def roofline(
    as_json: JsonFlag = False,
    network: Annotated[
        list[str] | None, typer.Option(help="lite or paper; may repeat. Without it, both.")
    ] = None,
) -> None:
    """Frames a second that GPUs should reach: predicted from their data sheets, not measured."""
    _need_torch()
    from benchmarks import subjects
    from benchmarks.roofline import markdown, run

    with _status("counting operations"):
        result: dict[str, Any] = run({n: subjects.network(n) for n in network or ("lite", "paper")})
    if as_json:
        print(json.dumps(result))
        return
    assumed = result["assumed"]
    print(f"Predicted, not measured: {assumed['compute_share']:.0%} of peak arithmetic, "
          f"{assumed['memory_share']:.0%} of bandwidth, {assumed['kernel_us']:g} us a kernel; "
          "frames a second:\n")  # fmt: skip
    print(markdown(result, batches=(1, 2, 4, 8, 16)))
