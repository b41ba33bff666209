"""`lipwire export`: a checkpoint becomes a bundle that runs here and elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lipwire.cli.data import need

if TYPE_CHECKING:
    from lipwire.engine.model.bundle import Bundle

app = typer.Typer(help="Make a model bundle from a checkpoint.", no_args_is_help=True)

CheckpointArgument = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A .pt, .pth or .safetensors file.")
]
OutFlag = Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle.")]
NameFlag = Annotated[str | None, typer.Option(help="Name of the model.")]
VersionFlag = Annotated[str, typer.Option(help="Version of the model.")]
LicenceFlag = Annotated[str | None, typer.Option(help="Licence of the weights.")]
PrecisionFlag = Annotated[
    Literal["float32", "float16"], typer.Option(help="Arithmetic of the graphs: float16 for GPUs.")
]


def _options(
    name: str | None, version: str, licence: str | None, precision: Literal["float32", "float16"]
) -> Any:
    """What the flags wish, as lipwire.export.write.Options."""
    need("torch", "onnx", "onnxscript", "safetensors")
    from lipwire.export.write import Options

    return Options(name, version, licence, precision)


@app.command()
def lite(
    checkpoint: CheckpointArgument,
    out: OutFlag,
    name: NameFlag = None,
    version: VersionFlag = "0",
    licence: LicenceFlag = None,
    precision: PrecisionFlag = "float32",
    voice: Annotated[
        Path | None,
        typer.Option(help="Checkpoint of `train voice` that speaks instead of the run's own."),
    ] = None,
    data: Annotated[str, typer.Option(help="What it was trained on, for the manifest.")] = "",
) -> None:
    """Export a run of `lipwire train`; refused where ONNX Runtime and torch differ."""
    options = _options(name, version, licence, precision)
    from lipwire.export.lite import export_lite

    training = {"data": data} if data else None
    _report(export_lite(checkpoint, out, options, voice=voice, training=training))


@app.command()
def diff2lip(
    checkpoint: CheckpointArgument,
    out: OutFlag,
    name: NameFlag = None,
    version: VersionFlag = "0",
    licence: LicenceFlag = None,
    precision: PrecisionFlag = "float32",
    image_size: Annotated[
        int | None,
        typer.Option(min=8, help="Side of the crop; without it, the published network's."),
    ] = None,
    head_channels: Annotated[
        int | None, typer.Option(min=1, help="Channels of one attention head.", show_default="64")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, help="Default denoising steps.", show_default="25, or a student's own"
        ),
    ] = None,
) -> None:
    """Export the paper's network, as published or from a run; its architecture is inferred."""
    options = _options(name, version, licence, precision)
    from lipwire.export.diff2lip import export_diff2lip

    shape = {"image_size": image_size, "head_channels": head_channels, "steps": steps}
    _report(export_diff2lip(checkpoint, out, options, **shape))


@app.command()
def wav2lip(
    checkpoint: CheckpointArgument,
    out: OutFlag,
    name: NameFlag = None,
    version: VersionFlag = "0",
    licence: LicenceFlag = None,
    precision: PrecisionFlag = "float32",
) -> None:
    """Export a checkpoint of Wav2Lip's generator, which paints in one pass."""
    options = _options(name, version, licence, precision)
    from lipwire.export.wav2lip import export_wav2lip

    _report(export_wav2lip(checkpoint, out, options))


@app.command()
def weights(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
) -> None:
    """Write a bundle's weights as safetensors, from which it can be exported again."""
    need("torch", "safetensors")
    from lipwire.export.checkpoint import write_safetensors

    print(write_safetensors(bundle, out))


def _report(bundle: Bundle) -> None:
    manifest = bundle.manifest
    size_mb = sum((bundle.path / name).stat().st_size for name in manifest.files) / 1e6
    print(f"{bundle.path}: {manifest.name} {manifest.version}, {size_mb:.1f} MB")
    print(f"cost     {manifest.gflop_per_frame} GFLOP a frame at {manifest.default_steps} steps")
    for what, error in manifest.parity.items():
        print(f"parity   {what}: relative error {error:.1e} against torch")
