"""`lipwire evaluate`: a bundle on held-out speakers, the paper's section 4, a study with people."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lipwire.cli import paper_flags as flags
from lipwire.cli.data import by_default, need, resumable
from lipwire.cli.train import ready
from lipwire.engine.errors import ConfigError

BUNDLE = "bundle"


app = typer.Typer(
    cls=by_default(BUNDLE),
    no_args_is_help=True,
    help="Measure a bundle (`evaluate BUNDLE SHARDS`, options: `evaluate bundle -h`), or any "
    "method as the paper's section 4 does.",
)


def _check_json(path: Path | None) -> None:
    if path is not None and not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder")


def _write_json(path: Path | None, found: Any) -> None:
    if path is not None:
        text = json.dumps(found, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


def _give(tables: Any, files: list[Path] | None) -> None:
    """Write tables, or show them."""
    from lipwire.training.evaluation.table_files import to_markdown, write_tables

    for path in files or ():
        write_tables(tables, path)
    if not files:
        print(to_markdown(tables), end="")


@app.command(BUNDLE)
def bundle_on_shards(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder that `prepare` wrote.")],
    clips: Annotated[int, typer.Option(min=2, help="Clips at most.")] = 40,
    steps: Annotated[
        list[int] | None, typer.Option(help="Denoising steps; may repeat. Without it, all.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Put it into the manifest.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write it here too.")] = None,
) -> None:
    """Measure a bundle on speakers it has not seen; prints JSON."""
    from lipwire.engine.model.bundle import check_steps, open_bundle
    from lipwire.export.model_card import update_manifest

    # Whatever is wrong is said before the minutes, not after them.
    ready(shards)
    opened = open_bundle(bundle)
    for count in steps or ():
        check_steps(opened.manifest, count)
    _check_json(json_file)
    from lipwire.training.evaluation.bundle import evaluate as run

    quality = run(opened, shards, clips=clips, steps=tuple(steps) if steps else None)
    print(json.dumps(quality))
    _write_json(json_file, quality)
    if write:
        update_manifest(opened, quality=quality)


@app.command("voice")
def voice(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder that `prepare` wrote.")],
    against: Annotated[
        Path | None, typer.Option(help="Another bundle: how much more or less r is than its.")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Print tables in Markdown instead of JSON.")
    ] = False,
) -> None:
    """Measure what a bundle's voice hears on speakers it has not seen; prints JSON.

    No picture is painted: codes against those of the people, as recorded (by language and by
    speaker too), soft, by telephone and in noise, and what the lips do when the voice is over.
    """
    ready(shards)
    from lipwire.engine.model.bundle import open_bundle
    from lipwire.training.data.dataset import load_clips
    from lipwire.training.evaluation.hearing import measure_voice
    from lipwire.training.evaluation.hearing_table import voice_table

    other = None if against is None else open_bundle(against)
    report = measure_voice(open_bundle(bundle), load_clips(shards, "val"), other)
    print(voice_table(report) if table else json.dumps(report, indent=1))


@app.command("call")
def as_in_a_call(
    films: Annotated[
        list[Path], typer.Argument(metavar="FILM...", help="Films of one face each, with sound.")
    ],
    voice: Annotated[Path, typer.Option(help="A sound file: what the faces are made to say.")],
    bundle: Annotated[
        Path | None, typer.Option(help="The model; without it, the one that ships.")
    ] = None,
    expert: Annotated[
        Path | None,
        typer.Option(help="Checkpoint of `train syncnet`: how sure it is that mouths are in step."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--films", help="Write all ways side by side here.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here.")
    ] = None,
) -> None:
    """Measure what a call shows: mouths generated, chosen from the past, from the whole film.

    Figures are ratios to the film's own; `realism` 1 is a mouth that cannot be told from the
    person's own of another moment. Closures are those of the film that are shown.
    """
    need("torch", "efficientnet_lite_pytorch")
    _check_json(json_file)
    from lipwire.engine import open_engine
    from lipwire.engine.media.sound import read_speech
    from lipwire.engine.types import PLAYOUT_RATE_HZ
    from lipwire.training.evaluation.call import measure_films
    from lipwire.training.paper.sync_expert import load_expert

    sound = read_speech(voice, PLAYOUT_RATE_HZ)
    judge = None if expert is None else load_expert(expert)
    with open_engine(bundle) as engine:
        found = measure_films(engine, films, sound, expert=judge, folder=folder, told=print)
    _write_json(json_file, found)


# --- the paper's section 4 ---


@app.command("list")
def file_list(
    listed: Annotated[
        Path, typer.Argument(metavar="LIST", help="A line a clip, or `sound picture` pairs.")
    ],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that its names are in.")],
    out: flags.OutFolder,
    methods: Annotated[
        list[str],
        typer.Option(
            "--method",
            "-m",
            help="BUNDLE, NAME=BUNDLE, silence=BUNDLE (fed silence) or "
            "copy (no method at all); may repeat.",
        ),
    ],
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; without it, each bundle's own choice.")
    ] = None,
    protocol: flags.ProtocolFlag = "call",
    crop: Annotated[
        Literal["face", "voxceleb2"],
        typer.Option(help="Of --protocol paper: around the face, or VoxCeleb2's fixed place."),
    ] = "face",
    device: Annotated[
        str | None, typer.Option(help="cuda:0 ...; without it, the CPU. --shard for several.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the films: OUT/videos.")] = False,
    dataset: flags.Dataset = "-",
    shard: flags.ShareFlag = "1/1",
    workers: flags.Workers = 1,
    again: flags.Again = False,
    frames: flags.Frames = 250,
    every: flags.Every = 5,
    syncnet: flags.SyncNetFile = None,
    inception: flags.InceptionFile = None,
    perceptual_weights: flags.PerceptualFiles = None,
    face_net: flags.FaceFile = None,
) -> None:
    """Generate and measure the clips of a VoxCeleb2, LRW or Wav2Lip list; a killed run goes on.

    A clip named once, or twice in one line, is reconstructed; pairs are cross generation.
    """
    if crop != "face" and protocol != "paper":
        raise ConfigError("--crop belongs to --protocol paper")
    judges = (syncnet, inception, perceptual_weights, face_net)
    plan = flags.make_plan(dataset, frames, every, *judges, protocol, crop, device)
    from lipwire.training.evaluation.lists import Share
    from lipwire.training.evaluation.methods import MethodSpec
    from lipwire.training.evaluation.run import evaluate_list

    specs = [MethodSpec.parse(method, steps) for method in methods]
    if len({spec.name for spec in specs}) < len(specs):
        raise ConfigError("two methods have one name; name them: --method NAME=BUNDLE")
    with resumable("clips that are measured"):
        how: dict[str, Any] = {"workers": workers, "keep": keep, "again": again}
        summary = evaluate_list(listed, root, out, specs, plan, share=Share.parse(shard), **how)
    flags.report(summary, out)


@app.command("lists")
def make_lists(
    root: Annotated[
        Path, typer.Argument(metavar="VOXCELEB2", help="Folder of the test set's films.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the lists.")],
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
) -> None:
    """Make the paper's lists of VoxCeleb2's test set: reconstruction, cross, ablation."""
    from lipwire.training.evaluation.list_makers import RECONSTRUCTION_CLIPS, make_voxceleb2_lists

    counts = make_voxceleb2_lists(root, out, seed)
    for name, count in counts.items():
        print(f"{out / name}.txt: {count} lines")
    if counts["reconstruction"] != RECONSTRUCTION_CLIPS:
        found = f"this folder {counts['reconstruction']}"
        print(f"the paper's test set has {RECONSTRUCTION_CLIPS} videos, {found}", file=sys.stderr)


@app.command()
def videos(
    real: Annotated[Path, typer.Argument(metavar="REAL", help="Folder of the real films.")],
    fakes: Annotated[
        list[Path],
        typer.Argument(metavar="FAKE...", help="A folder a method, its films named as the real."),
    ],
    out: flags.OutFolder,
    setting: Annotated[
        Literal["reconstruction", "cross"],
        typer.Option(help="cross: REAL shows the faces, but not the true mouths."),
    ] = "reconstruction",
    voices: Annotated[
        Path | None, typer.Option(help="Folder of the films whose voices drive a cross generation.")
    ] = None,
    protocol: flags.ProtocolFlag = "call",
    dataset: flags.Dataset = "-",
    shard: flags.ShareFlag = "1/1",
    workers: flags.Workers = 1,
    again: flags.Again = False,
    frames: flags.Frames = 250,
    every: flags.Every = 5,
    syncnet: flags.SyncNetFile = None,
    inception: flags.InceptionFile = None,
    perceptual_weights: flags.PerceptualFiles = None,
    face_net: flags.FaceFile = None,
) -> None:
    """Measure finished films of any method against the real ones."""
    if voices is not None and setting != "cross":
        raise ConfigError("--voices belongs to --setting cross; a reconstruction has its own voice")
    judges = (syncnet, inception, perceptual_weights, face_net)
    plan = flags.make_plan(dataset, frames, every, *judges, protocol)
    from lipwire.training.evaluation.lists import Share
    from lipwire.training.evaluation.run import evaluate_videos

    with resumable("clips that are measured"):
        how: dict[str, Any] = {"voices": voices, "workers": workers, "again": again}
        part = Share.parse(shard)
        summary = evaluate_videos(real, fakes, out, plan, setting=setting, share=part, **how)
    flags.report(summary, out)


@app.command()
def table(
    folders: Annotated[
        list[Path], typer.Argument(metavar="OUT...", help="Folders of results; shards are merged.")
    ],
    out: flags.TableFile = None,
    published: Annotated[bool, typer.Option(help="Show the paper's rows too.")] = True,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="As tables 1 and 3: a method is a set of losses.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here too.")
    ] = None,
) -> None:
    """Lay results out as the paper's table 2, with intervals and what was left out."""
    need("torch")
    from lipwire.training.evaluation.table import ablation_tables, summarise, tables

    results = summarise(folders)
    found = (ablation_tables if ablation else tables)(results, published=published)
    _give(found, out)
    _write_json(json_file, [result.to_dict() for result in results])


@app.command()
def strips(
    films: Annotated[
        list[str],
        typer.Argument(metavar="[LABEL=]VIDEO...", help="A row each, the real one first."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG.")],
    columns: Annotated[int, typer.Option(min=2, help="Moments shown.")] = 8,
    mouths: Annotated[bool, typer.Option("--mouths", help="Mouths alone, enlarged.")] = False,
) -> None:
    """Draw the same moments of several films, as the paper's figures 4 to 6."""
    from lipwire.training.evaluation.strips import draw_strips

    rows = []
    for film in films:
        label, equals, path = film.partition("=")
        rows.append((label, Path(path)) if equals else (Path(film).parent.name, Path(film)))
    draw_strips(rows, out, columns=columns, mouths=mouths)
    print(out)


# --- people ---


@app.command()
def study(
    folders: Annotated[
        list[Path], typer.Argument(metavar="A_DIR B_DIR...", help="Films of each method, by name.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page.")],
    seed: Annotated[int, typer.Option(help="Of the order, with each rater's name.")] = 0,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Lip-sync study",
) -> None:
    """Make a static page on which people rate films blind, side by side, by keyboard."""
    from lipwire.training.evaluation.study import make_study

    for name in make_study(folders, out, seed=seed, title=title):
        print(f"lipwire: {name}: left out, not every folder has it", file=sys.stderr)
    print(f"{out / 'index.html'}: open it, or put the folder on any web server")
    print(f"{out.with_name(out.name + '.key.json')}: whose film is whose; keep it to yourself")


@app.command("study-report")
def studyreport(
    key: Annotated[Path, typer.Argument(metavar="KEY", help="The study's .key.json.")],
    ratings: Annotated[
        list[Path], typer.Argument(metavar="RATINGS...", help="What the raters saved.")
    ],
    out: flags.TableFile = None,
) -> None:
    """Mean opinion scores and preference with 95 % intervals, as the paper's table 4."""
    from lipwire.training.evaluation.study import opinion_table, read_opinions

    found = [opinion_table(read_opinions(key, ratings))]
    _give(found, out)
