"""`lipwire bundle`: look into a model bundle, check it, hold it against a reference."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lipwire.engine.errors import BackendError, BundleError
from lipwire.engine.model.bundle import open_bundle

app = typer.Typer(help="Look into, check and run model bundles.", no_args_is_help=True)

BundleArgument = Annotated[
    Path | None, typer.Argument(metavar="BUNDLE", help="Folder; without it, the shipped one.")
]
DeviceFlag = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 …; without it, what is there.")
]


@app.command()
def inspect(
    bundle: BundleArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole manifest.")] = False,
) -> None:
    """Say what a bundle is and what it holds."""
    opened = open_bundle(bundle)
    manifest = opened.manifest
    if as_json:
        print(json.dumps(asdict(manifest), ensure_ascii=False))
        return
    print(f"{opened.path}: {manifest.name} {manifest.version} ({manifest.kind})")
    print(f"licence  {manifest.licence}")
    spec = manifest.job_spec
    references = f"{spec.references} reference{'s' * (spec.references != 1)}"
    reach = ", the reach of the mouth" * bool(spec.reach_px)
    sound = f"{spec.mel_columns} mel columns{reach}"
    print(f"takes    {spec.crop_size} px {spec.framing}, {references}, {sound}")
    steps = ", ".join(map(str, manifest.steps_offered))
    print(f"steps    {steps}; {manifest.default_steps} by default")
    print(f"cost     {manifest.gflop_per_frame:g} GFLOP a frame, {manifest.parameters:,} weights")
    print(f"built    {manifest.precision}, for {manifest.device} device, opset {manifest.opset}")
    for what, error in manifest.parity.items():
        print(f"parity   {what}: {error:.1e}")
    for name, checksum in manifest.files.items():
        size_mb = (opened.path / name).stat().st_size / 1e6
        print(f"file     {name:22}{size_mb:9.3f} MB  sha256 {checksum[:16]}…")


@app.command()
def verify(bundle: BundleArgument = None, device: DeviceFlag = None) -> None:
    """Check a bundle to the last byte, and that it runs here; exit code 2 says that it does not."""
    opened = open_bundle(bundle)
    manifest = opened.manifest
    print(f"files    {len(manifest.files)}, checksums right")
    graphs = [name for name in manifest.files if name.endswith(".onnx")]
    from lipwire.engine.model.onnx_file import external_data

    for name in graphs:
        if (tensor := external_data(opened.file(name))) is not None:
            raise BundleError(f"{opened.file(name)}: tensor {tensor!r} lies outside the file")
    print(f"graphs   {', '.join(graphs)}: nothing outside them")
    if importlib.util.find_spec("onnx") is not None:
        import onnx

        for name in graphs:
            try:
                onnx.checker.check_model(str(opened.file(name)), full_check=True)
            except onnx.checker.ValidationError as error:
                cause = " ".join(str(error).split())
                raise BundleError(f"{opened.file(name)}: {cause}") from error
        print("onnx     checker content")
    if manifest.network and importlib.util.find_spec("torch") is not None:
        from lipwire.engine.nets import build_network

        build_network(opened)
        print("weights  whole and finite, the network can be rebuilt from them")
    from lipwire.engine.backends import load_backend

    backend = load_backend(opened, "ort", device=device)
    print(f"runs     {backend.description}")
    backend.close()


@app.command()
def build(bundle: BundleArgument = None, device: DeviceFlag = None) -> None:
    """Make ahead what a runtime makes of a bundle here, so that `serve` opens at once.

    TensorRT's plans on a GPU, compiled graphs on a CPU. They are kept for this bundle, device and
    version of the runtime in lipwire's cache (LIPWIRE_CACHE). Every batch size is painted once.
    """
    from lipwire.engine.backends import build_ahead
    from lipwire.engine.model.cache import cache_folder

    opened = open_bundle(bundle)
    if (folder := cache_folder()) is None:
        raise BackendError("there is no private folder to keep it in; set LIPWIRE_CACHE to one")
    for name, what in build_ahead(opened, device):
        print(f"{name:9}{what}", flush=True)
    print(f"{'kept':9}{folder}")


@app.command()
def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    arrays: Annotated[
        Path, typer.Argument(metavar="IN.npz", help="face, ref in ±1; noise; mel in ±4; float32.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .npz to write.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps; without it, the model's own.")
    ] = None,
    no_clip: Annotated[
        bool, typer.Option("--no-clip", help="Let the estimate of x0 leave ±1.")
    ] = False,
    forward: Annotated[
        int | None,
        typer.Option(min=0, max=999, help="Also write what the network returns at this step."),
    ] = None,
    device: DeviceFlag = None,
) -> None:
    """Sample on raw arrays, so that the bundle can be held against a reference."""
    from lipwire.cli.raw_run import read_arrays, run_arrays, write_arrays

    found = run_arrays(
        open_bundle(bundle),
        read_arrays(arrays),
        steps=steps,
        clip=not no_clip,
        forward=forward,
        device=device,
    )
    write_arrays(out, found)
    for name, values in found.items():
        print(f"{name:16}{list(values.shape)}  {values.min():.4f} .. {values.max():.4f}")
