"""A checkpoint of Wav2Lip's generator -> a bundle that paints in one pass."""

from __future__ import annotations

from pathlib import Path

from lipwire.engine.model.bundle import Bundle
from lipwire.engine.nets.wav2lip import Wav2Lip
from lipwire.export.checkpoint import read_checkpoint
from lipwire.export.write import Options, Recipe, write_bundle

WEIGHTS_LICENCE = "research only; the published weights were trained on LRS2"


def load_wav2lip(path: Path) -> Wav2Lip:
    """The network of a published checkpoint; no code in the file is run.

    Raises:
        BundleError: unreadable, or tensors are missing, misshapen, left over or not finite.
    """
    net = Wav2Lip()
    read_checkpoint(path).fill(net)
    return net.eval()


def export_wav2lip(checkpoint: Path, out: Path, options: Options | None = None) -> Bundle:
    """Write a bundle; it appears at `out` only when every check has passed.

    Raises:
        BundleError: see `load_wav2lip` and `lipwire.export.write.write_bundle`.
    """
    recipe = Recipe(
        kind="wav2lip",
        licence=WEIGHTS_LICENCE,
        prediction="image",
        spacing="trailing",
        steps_offered=(1,),
        default_steps=1,
        framing="box",
        training={"checkpoint": checkpoint.name},
    )
    return write_bundle(load_wav2lip(checkpoint), recipe, out, options or Options())
