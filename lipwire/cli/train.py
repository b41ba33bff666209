"""`lipwire train`: models, the experts that judge them, students of few steps, the ablation."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lipwire.cli.data import by_default, need
from lipwire.engine.errors import ConfigError

MODEL = "model"


app = typer.Typer(
    cls=by_default(MODEL),
    no_args_is_help=True,
    help="Train a model (`train SHARDS RUN`, options: `train model -h`), or what that needs.",
)

Shards = Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder that `prepare` wrote.")]
Folder = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of the run; one found here goes on.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples a step, over all devices.")]
Seed = Annotated[int | None, typer.Option(help="Of everything random.")]
PrecisionFlag = Annotated[
    Literal["no", "bf16", "fp16"] | None, typer.Option(help="Mixed precision.")
]
Accumulate = Annotated[int | None, typer.Option(min=1, help="Micro-batches on each device.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that load data.")]
ExpertFile = Annotated[
    Path | None, typer.Option("--expert", help="Checkpoint of a sync expert, ours or published.")
]
PerceptualFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--perceptual-weights",
        help="torchvision's VGG-16, and LPIPS's linear weights; may repeat. Without: Gabor bank.",
    ),
]


def ready(shards: Path) -> None:
    """Raise unless the `train` extra is installed and the shards are there."""
    need("torch", "tensorboard", "accelerate", "torchmetrics")
    if not shards.is_dir():
        raise ConfigError(f"{shards}: no such folder")
    import rich

    rich.reconfigure(stderr=True)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@app.command(MODEL)
def train_model(
    shards: Shards,
    folder: Folder,
    preset: Annotated[
        str,
        typer.Option(
            help="lite, lite-refine, lite-units, smoke, paper, or {lite,paper}-ablation-"
            "{reconstruction,syncnet,perceptual,gan}."
        ),
    ] = "lite",
    steps: Steps = None,
    batch: BatchSize = None,
    seed: Seed = None,
    precision: PrecisionFlag = None,
    accumulate: Accumulate = None,
    workers: Workers = None,
    small: Annotated[
        bool, typer.Option("--small", help="The preset's losses on a 64 px network.")
    ] = False,
    expert: ExpertFile = None,
    perceptual_weights: PerceptualFiles = None,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint that a new run begins with, ours or published.")
    ] = None,
    voice: Annotated[
        Path | None, typer.Option(help="Checkpoint of `train voice`; lite presets and smoke.")
    ] = None,
) -> None:
    """Train a model; killed anywhere, the same command goes on."""
    ready(shards)
    from lipwire.training.config import LiteRecipe, preset_named, scaled_down

    chosen = preset_named(preset)
    wanted = _given(steps=steps, batch=batch, seed=seed, precision=precision)
    wanted |= _given(accumulate=accumulate, workers=workers)
    if isinstance(chosen.objective, LiteRecipe):
        if small or expert or perceptual_weights:
            raise ConfigError(
                f"preset {preset} has its own losses: --small, --expert and --perceptual-weights "
                "belong to paper and the ablation presets"
            )
        if voice is None:
            raise ConfigError(
                f"preset {preset} needs a voice: train one with `lipwire train voice`, and give "
                "its checkpoint with --voice"
            )
        from lipwire.training.lite.denoiser import train_lite

        config = replace(chosen.train, **wanted)
        trainer = train_lite(shards, folder, config, chosen.objective, voice=voice, init=init)
    else:
        if voice:
            raise ConfigError(f"preset {preset} trains its voice itself: leave --voice out")
        from lipwire.training.loop import train
        from lipwire.training.paper.suite import Judges, make_trainer

        chosen = scaled_down(chosen) if small else chosen
        chosen = replace(chosen, train=replace(chosen.train, **wanted))
        judges = Judges(expert, tuple(perceptual_weights or ()))
        trainer = train(make_trainer(chosen, shards, folder, judges, init))
    print(f"{trainer.checkpoint_path}: {trainer.step} steps")


@app.command()
def voice(
    shards: Shards,
    folder: Folder,
    steps: Steps = None,
    batch: BatchSize = None,
    seed: Seed = None,
    speech: Annotated[
        Path | None,
        typer.Option(help="Folder of recordings without film, in any language, heard too."),
    ] = None,
) -> None:
    """Train the lite model's voice branch; killed anywhere, the same command goes on.

    Prints its figures on unseen speakers.
    """
    ready(shards)
    if speech is not None and not speech.is_dir():
        raise ConfigError(f"{speech}: no such folder")
    from lipwire.training.config import VOICE
    from lipwire.training.lite.audio2mouth import train_voice

    config = replace(VOICE, **_given(steps=steps, batch=batch, seed=seed))
    trainer, figures = train_voice(shards, folder, config, speech=speech)
    print(f"{trainer.checkpoint_path}: {trainer.step} steps")
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


@app.command()
def syncnet(
    shards: Shards,
    folder: Folder,
    kind: Annotated[
        Literal["small", "wav2lip"],
        typer.Option(help="small learns from an hour of film, wav2lip (the paper's) from thirty."),
    ] = "small",
    steps: Steps = None,
    batch: BatchSize = None,
    seed: Seed = None,
    precision: PrecisionFlag = None,
    workers: Workers = None,
) -> None:
    """Train a sync expert; prints its loss and accuracy on unseen speakers."""
    ready(shards)
    from lipwire.training.paper.sync_expert import EXPERT_PRESETS, USEFUL_LOSS, train_expert

    wanted = _given(steps=steps, batch=batch, seed=seed, precision=precision, workers=workers)
    config = replace(EXPERT_PRESETS[kind], **wanted)
    trainer, figures = train_expert(shards, folder, kind, config)
    print(f"{trainer.checkpoint_path}: {trainer.step} steps")
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
    if kind == "wav2lip" and figures["val_loss"] > USEFUL_LOSS:
        print(
            f"its loss on unseen speakers is above {USEFUL_LOSS}, below which its authors train "
            "with it; the same command with more --steps goes on",
            file=sys.stderr,
        )


@app.command()
def distill(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Of a run, or the published paper's.")
    ],
    shards: Shards,
    folder: Folder,
    stages: Annotated[
        list[int] | None,
        typer.Option("--stage", help="Steps of a student; repeat, falling by halves. 4, 2, 1."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps a stage.")] = None,
    batch: BatchSize = None,
    seed: Seed = None,
    precision: PrecisionFlag = None,
    workers: Workers = None,
) -> None:
    """Teach a student its teacher's picture in fewer steps, stage by stage."""
    ready(shards)
    from lipwire.training.paper.distill import DISTIL, STAGES, distil

    wanted = _given(steps=steps, batch=batch, seed=seed, precision=precision, workers=workers)
    config = replace(DISTIL, **wanted)
    found = distil(checkpoint, shards, folder, stages=tuple(stages or STAGES), config=config)
    for path in found:
        print(path)


@app.command()
def ablate(
    shards: Shards,
    folder: Folder,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each setting.")],
    expert: ExpertFile = None,
    family: Annotated[
        Literal["lite", "paper", "units"],
        typer.Option(help="Which network with the paper's losses; or the recipe lite-units."),
    ] = "lite",
    batch: BatchSize = None,
    clips: Annotated[int, typer.Option(min=2, help="Held-out clips measured.")] = 8,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    precision: Annotated[
        Literal["no", "bf16", "fp16"], typer.Option(help="Mixed precision.")
    ] = "no",
    sampling_steps: Annotated[int, typer.Option(min=1, help="DDIM steps of the measurement.")] = 8,
    perceptual_weights: PerceptualFiles = None,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint whose weights all settings begin with.")
    ] = None,
    voice: Annotated[
        Path | None, typer.Option(help="Checkpoint of `train voice`; units alone.")
    ] = None,
) -> None:
    """Train one network with fewer and more of its losses; figures side by side.

    The four settings of the paper's tables 1 and 3 at 64 px, or lite-units without each loss.
    """
    ready(shards)
    common: dict[str, Any] = {
        "steps": steps,
        "batch": batch,
        "clips": clips,
        "seed": seed,
        "precision": precision,
    }
    if family == "units":
        if voice is None or init is None or expert or perceptual_weights:
            raise ConfigError("--family units needs --voice and --init, and takes no other judges")
        from lipwire.training.evaluation.units_ablation import ablate_units

        found = ablate_units(shards, folder, voice=voice, init=init, **common)
        table = {
            f"{name}, {way}": {k: round(v, 4) for k, v in figures.items()}
            for name, ways in found.items()
            for way, figures in ways.items()
        }
        _print_table(table)
        return
    if expert is None or voice:
        raise ConfigError(
            "the paper's losses need --expert, from `lipwire train syncnet`, and no "
            "--voice: the network learns its own"
        )
    from lipwire.training.evaluation.paper_ablation import ablate as run
    from lipwire.training.paper.suite import Judges

    judges = Judges(expert, tuple(perceptual_weights or ()))
    _print_table(
        run(
            shards,
            folder,
            judges,
            family=family,
            sampling_steps=sampling_steps,
            init=init,
            **common,
        )
    )


def _print_table(found: dict[str, dict[str, Any]]) -> None:
    names, width = list(next(iter(found.values()))), max(map(len, found)) + 1
    print(" " * width + "".join(f"{name:>15}" for name in names))
    for setting, figures in found.items():
        print(f"{setting:{width}}" + "".join(f"{figures[name]!s:>15}" for name in names))


@app.command()
def curves(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG.")],
    smooth: Annotated[int, typer.Option(min=1, help="Steps that a point is the mean of.")] = 50,
) -> None:
    """Draw a run's losses and figures as they went."""
    need("matplotlib")
    from lipwire.training.runlog import draw_curves

    draw_curves(folder, out, smooth)
    print(out)


@app.command()
def sheet(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Of a run, or the published paper's.")
    ],
    shards: Shards,
    who: Annotated[
        str, typer.Option(help="Only clips whose key or speaker contains this are shown.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The PNG.")],
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Where to look.")] = "val",
    columns: Annotated[int, typer.Option(min=1, help="Frames.")] = 10,
) -> None:
    """Draw what a model paints for some people alone, those who may be shown."""
    ready(shards)
    from lipwire.engine.nets.lite import LiteNet
    from lipwire.training.data.dataset import load_clips
    from lipwire.training.evaluation.paper_sheet import paper_sheet
    from lipwire.training.families import open_network
    from lipwire.training.lite.samples import speaker_sheet

    opened, clips = open_network(checkpoint), load_clips(shards, split)
    if isinstance(opened.net, LiteNet):
        stats = opened.state.get("code_stats")
        told = None if stats is None else stats.numpy()
        speaker_sheet(opened.net, clips, who, out, columns, code_stats=told)
    else:
        paper_sheet(opened, clips, who, out, columns)
    print(out)
