"""The `lipwire` command: thin, and quick to start, because every command imports what it needs.

Figures and results go to stdout, progress and complaints to stderr. What a user can put right is
one line and exit code 2; a traceback is our bug.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from lipwire.cli import bench, data, evaluate, train
from lipwire.cli.bank import app as bank_app
from lipwire.cli.bank import bank_key, enroll
from lipwire.cli.bundle import app as bundle_app
from lipwire.cli.cluster import cluster
from lipwire.cli.export import app as export_app
from lipwire.cli.serve import serve, token_app
from lipwire.engine.errors import LipwireError
from lipwire.server import __version__

if TYPE_CHECKING:
    from lipwire.server.dub.dub import DubSummary, Progress

INTERRUPTED = 130  # 128 + SIGINT, as shells count


FILE_HINT = " (the name of a file that begins with - goes behind --)"


def _looks_like_a_file(argument: str) -> bool:
    return argument.startswith("-") and not argument.startswith("--") and "." in argument


class _Commands(TyperGroup):
    """Turns our errors into one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        given = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        try:
            return super().invoke(ctx)
        except LipwireError as error:
            line = " ".join(str(error).split())
            print(f"lipwire: error: {line}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("lipwire: interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            # Typer brings a click of its own, or uses the one that is installed.
            if type(error).__name__ == "NoSuchOption" and any(map(_looks_like_a_file, given)):
                error.message += FILE_HINT  # type: ignore[attr-defined]
            raise


app = typer.Typer(
    name="lipwire",
    cls=_Commands,
    help="A live face and a new voice in, the same face speaking it out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(export_app, name="export")
app.add_typer(bundle_app, name="bundle")
app.add_typer(bench.app, name="bench")
app.add_typer(bank_app, name="bank")
app.command()(enroll)
data.register(app)
app.command()(serve)
app.command()(cluster)
app.add_typer(token_app, name="token")

BundleFlag = Annotated[
    Path | None,
    typer.Option("--bundle", "-b", help="Model folder; without it, the model that ships."),
]
ThreadsFlag = Annotated[
    int | None, typer.Option(help="CPU threads of the model; without it, by the machine.")
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"lipwire {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


# --- using ---


@app.command()
def dub(
    video: Annotated[
        Path, typer.Argument(metavar="VIDEO", help="A video with one face; any container.")
    ],
    speech: Annotated[
        Path, typer.Argument(help="The new voice: a sound file, or a video's sound.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The MP4 to write.")],
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; without it, the model's own choice.")
    ] = None,
    bundle: BundleFlag = None,
    silence: Annotated[
        Literal["original", "generate"],
        typer.Option(help="Mouth shown while the voice is silent; `generate` shuts it."),
    ] = "original",
    original_level: Annotated[
        float, typer.Option(help="Loudness of the video's own sound underneath, 0 to 1.")
    ] = 0.0,
    ducking: Annotated[
        bool, typer.Option(help="The video's own sound in full while the voice is silent.")
    ] = False,
    loudness: Annotated[
        float | None,
        typer.Option(help="Bring the voice to so many LUFS; without it, it stays as it is."),
    ] = None,
    threads: ThreadsFlag = None,
    mark: Annotated[
        bool, typer.Option(help="Draw the words `AI-generated` on every picture.")
    ] = True,
    mark_text: Annotated[str, typer.Option(help="Other words.")] = "AI-generated",
    mark_place: Annotated[
        Literal["top-left", "top-right", "bottom-left", "bottom-right"],
        typer.Option(help="Where they stand."),
    ] = "top-right",
    credentials: Annotated[
        bool, typer.Option(help="Sign the file with Content Credentials (C2PA).")
    ] = True,
    bank: Annotated[
        Path | None,
        typer.Option(help="The person's own mouths from elsewhere, see `lipwire enroll`."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON object.")
    ] = False,
) -> None:
    """Give the face in VIDEO the voice in SPEECH.

    The video's length governs: a longer voice is cut, after a shorter one the original mouth
    and silence follow. OUT appears when it is whole.
    """
    from lipwire.engine.signals import stopping
    from lipwire.server.dub.dub import dub as run
    from lipwire.server.media.banks import open_bank
    from lipwire.server.media.watermark import Watermark

    enrolled = None if bank is None else open_bank(bank, bank_key())

    with stopping() as stop, _progress_bar() as show:

        def progress(done: int, expected: int) -> None:
            if stop():
                raise KeyboardInterrupt
            show(done, expected)

        sound = {"original_level": original_level, "ducking": ducking, "loudness_lufs": loudness}
        model = {"steps": steps, "bundle": bundle, "threads": threads, "bank": enrolled}
        words = Watermark(mark_text, mark_place) if mark else None
        out_how = {"progress": progress, "mark": words, "credentials": credentials}
        how: dict[str, Any] = {"silence": silence, **sound, **model, **out_how}
        summary = run(video, speech, out, **how)
    if as_json:
        print(json.dumps(summary.to_dict()))
    else:
        _print_summary(summary)


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    """A bar on stderr that is told frames done and expected."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("dubbing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    # Where stderr is a file or a pipe a bar is noise.
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("dubbing", total=None)
        yield lambda done, expected: bar.update(
            task, completed=done, total=max(done, expected) if expected else None
        )


def _print_summary(summary: DubSummary) -> None:
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.passed_through.items())
    print(f"{summary.output}: {summary.width}x{summary.height}, {summary.video_s:.2f} s")
    own = f"{summary.pasted} from the person's own mouths, {summary.generated} generated"
    passed = f", passed through: {reasons}" if reasons else ""
    print(f"frames   {summary.frames}: {own}{passed}")
    print(f"voice    {summary.speech_s:.2f} s")
    print(f"model    {summary.model}, {summary.steps} steps")
    print(f"took     {summary.elapsed_s:.2f} s, real-time factor {summary.real_time_factor:.2f}")
    for line in summary.warnings:
        print(f"note     {line}")


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    port: Annotated[
        int | None, typer.Option(help="Port that the server shall have.", show_default="8080")
    ] = None,
    bundle: BundleFlag = None,
) -> None:
    """Say what this machine can do, and what is missing; exit code 1 if `serve` would not work."""
    from lipwire.cli.doctor import examine, print_report
    from lipwire.server.config import load_config

    settings = load_config(port=port, bundle=bundle)
    report = examine(settings)
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        print_report(report)
    raise typer.Exit(0 if report.can_serve else 1)


def main() -> None:
    app(prog_name="lipwire")
