"""`lipwire bench ...`: the transport, and what is done to a server on a bad day.

loss, delay, soak, churn, sync, fuzz, hostile, overload-admission, vanish, fault, drain, codecs,
viewers; docs/reliability.md says what each shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import ConfigError

app = typer.Typer()

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _show(result: dict[str, Any], as_json: bool) -> None:
    """Print a result; exit code 1 if something that was asked for was not met."""
    if as_json:
        print(json.dumps(result))
    else:
        for name, value in result["figures"].items():
            print(f"{name:28}{json.dumps(value) if isinstance(value, dict | list) else value}")
        for name, met in result.get("met", {}).items():
            print(f"{'met' if met else 'MISSED':8}{name}")
    if not all(result.get("met", {}).values()):
        raise typer.Exit(1)


@app.command()
def loss(
    as_json: JsonFlag = False,
    seconds: Annotated[float, typer.Option(min=5, help="Measured.")] = 60,
    share: Annotated[float, typer.Option(min=0, max=0.5, help="Lost singly.")] = 0.02,
    bursts: Annotated[float, typer.Option(min=0, max=0.5, help="Lost in bursts.")] = 0.01,
    delay_ms: Annotated[float, typer.Option(min=0, help="One way.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Runs, each with other losses.")] = 1,
) -> None:
    """R5: a call over a path that loses packets: freezes, holes in the sound."""
    from benchmarks.transport import loss as run

    weather = {"loss": share, "burst_loss": bursts, "delay_ms": delay_ms}
    _show(run(seconds=seconds, seeds=seeds, **weather), as_json)


@app.command()
def delay(
    as_json: JsonFlag = False,
    seconds: Annotated[float, typer.Option(min=5, help="Of each of two calls.")] = 60,
) -> None:
    """R11: what a call adds to a picture, passed through and painted."""
    from benchmarks.transport import delay as run

    _show(run(seconds=seconds), as_json)


@app.command()
def soak(
    as_json: JsonFlag = False,
    minutes: Annotated[float, typer.Option(min=0.5, help="Of the calls.")] = 30,
    calls: Annotated[int, typer.Option(min=1, help="At once; what the machine carries.")] = 1,
    painted: Annotated[bool, typer.Option(help="Whether a face speaks.")] = True,
) -> None:
    """R1: calls that last: pictures, sound, the server's memory."""
    from benchmarks.transport import soak as run

    _show(run(minutes=minutes, calls=calls, painted=painted), as_json)


@app.command()
def churn(
    as_json: JsonFlag = False,
    sessions: Annotated[int, typer.Option(min=1, help="In all.")] = 200,
    at_once: Annotated[int, typer.Option(min=1, help="In each process of callers.")] = 4,
) -> None:
    """R2: calls that come and go, a third of them killed: what the server holds afterwards."""
    from benchmarks.transport import churn as run

    _show(run(sessions=sessions, at_once=at_once), as_json)


@app.command()
def sync(
    as_json: JsonFlag = False,
    minutes: Annotated[float, typer.Option(min=0.1, help="Of beeping.")] = 10,
    skew_ppm: Annotated[
        float | None,
        typer.Option(
            min=-1000,
            max=1000,
            help="A live voice, its clock so much slow and the camera's fast; without it, a voice "
            "that comes ahead.",
        ),
    ] = None,
) -> None:
    """R10: lips against sound at the receiver."""
    from benchmarks.sync import run

    _show(run(minutes=minutes, skew_ppm=skew_ppm), as_json)


@app.command()
def fuzz(
    as_json: JsonFlag = False,
    minutes: Annotated[float, typer.Option(min=0.01, help="For each parser.")] = 10,
    only: Annotated[str | None, typer.Option(help="One parser alone.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Folder of inputs that failed; tried first, added to.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="chance, or atheris: guided by coverage; pip install atheris.")
    ] = "chance",
) -> None:
    """R7: broken bytes for everything that parses a stranger's."""
    from benchmarks.fuzz import run

    _show(run(minutes=minutes, only=only, corpus=corpus, engine=engine), as_json)


@app.command()
def hostile(
    as_json: JsonFlag = False,
    seconds: Annotated[float, typer.Option(min=1, help="Of each attack that goes on.")] = 5,
) -> None:
    """R7, R13: bombs, floods, noise; the server, its loop, its memory and a bystander's call."""
    from benchmarks.hostile import run

    _show(run(seconds=seconds), as_json)


@app.command("overload-admission")
def overload_admission(
    as_json: JsonFlag = False,
    calls: Annotated[int, typer.Option(min=1, help="What the machine carries.")] = 1,
    seconds: Annotated[float, typer.Option(min=5, help="Of asking for more.")] = 30,
) -> None:
    """R6: twice as many calls as a server takes: who is refused, how fast, and those admitted."""
    from benchmarks.outage import overload_admission as run

    _show(run(calls=calls, seconds=seconds), as_json)


@app.command()
def vanish(
    as_json: JsonFlag = False,
    calls: Annotated[int, typer.Option(min=1, help="Killed at once.")] = 1,
) -> None:
    """R3, R4: who never connects, and who is killed: how long each is kept."""
    from benchmarks.outage import vanish as run

    _show(run(calls=calls), as_json)


@app.command()
def fault(
    as_json: JsonFlag = False,
    seconds: Annotated[float, typer.Option(min=2, help="Of each fault and each rest.")] = 6,
) -> None:
    """R8: a model that raises, hangs and runs out of memory in the middle of a call."""
    from benchmarks.outage import fault as run

    _show(run(seconds=seconds), as_json)


@app.command()
def drain(
    as_json: JsonFlag = False,
    calls: Annotated[int, typer.Option(min=1, help="That run.")] = 1,
    drain_s: Annotated[float, typer.Option(min=0, max=60, help="They may go on.")] = 5,
) -> None:
    """R9: SIGTERM while calls run."""
    from benchmarks.outage import drain as run

    _show(run(calls=calls, drain_s=drain_s), as_json)


@app.command()
def codecs(as_json: JsonFlag = False) -> None:
    """What the video codecs cost on this machine, and how they look."""
    from benchmarks.codecs import run

    _show(run(), as_json)


@app.command()
def viewers(
    as_json: JsonFlag = False,
    seconds: Annotated[float, typer.Option(min=1, help="Of each measurement.")] = 6,
    codec: Annotated[str, typer.Option(help="VP8 or H264.")] = "VP8",
) -> None:
    """What 1, 2, 4 and 8 viewers of a session cost, sharing an encode and encoded for alone."""
    from benchmarks.viewers import VIDEO, run

    if codec not in VIDEO:
        raise ConfigError(f"codec is {codec!r}, must be one of {', '.join(VIDEO)}")
    _show(run(seconds=seconds, codec=codec), as_json)
