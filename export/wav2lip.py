"""A checkpoint of Wav2Lip's generator -> a bundle that paints in one pass."""

from __future__ import annotations

from pathlib import Path

from engine.bundle import Bundle
from engine.nets.wav2lip import Wav2Lip
from export.calibration import read_calibration
from export.checkpoint import read_checkpoint
from export.write import Precision, Recipe, write_bundle

WEIGHTS_LICENCE = "research only; the published weights were trained on LRS2"


def load_wav2lip(path: Path) -> Wav2Lip:
    """The network of a published checkpoint; no code in the file is run.

    Raises:
        BundleError: unreadable, or tensors are missing, misshapen, left over or not finite.
    """
    net = Wav2Lip()
    read_checkpoint(path).fill(net)
    return net.eval()


def export_wav2lip(
    checkpoint: Path,
    out: Path,
    *,
    name: str = "wav2lip",
    version: str = "0",
    licence: str = WEIGHTS_LICENCE,
    precision: Precision = "float32",
    calibrate: Path | None = None,
) -> Bundle:
    """Write a bundle; it appears at `out` only when every check has passed.

    Args:
        checkpoint: .pth or .safetensors with the generator's weights.
        out: folder of the bundle; an older bundle there is replaced.
        name: of the model.
        version: of the model.
        licence: of the weights.
        precision: of the graphs' arithmetic.
        calibrate: shards or an .npz, which int8 needs.

    Raises:
        BundleError: see `load_wav2lip` and `export.write.write_bundle`.
    """
    net = load_wav2lip(checkpoint)
    recipe = Recipe(
        kind="wav2lip",
        name=name,
        version=version,
        licence=licence,
        prediction="image",
        spacing="trailing",
        steps_offered=(1,),
        default_steps=1,
        framing="box",
        training={"checkpoint": checkpoint.name},
    )
    calibration = read_calibration(calibrate, net) if calibrate is not None else None
    return write_bundle(net, recipe, out, precision=precision, calibration=calibration)
