"""A lite checkpoint -> a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.bundle import Bundle
from engine.errors import BundleError, ConfigError
from engine.nets import make_network
from engine.nets.lite import LiteNet
from export.checkpoint import Checkpoint, read_checkpoint
from export.write import Options, Recipe, write_bundle

STEPS_OFFERED = (1, 2, 4, 8, 25)
DEFAULT_STEPS = 2
WEIGHTS_LICENCE = "CC BY-NC 4.0"


def load_lite(path: Path) -> tuple[LiteNet, Checkpoint]:
    """The averaged network of a `lipwire train` checkpoint, or of a .safetensors made of one.

    Raises:
        BundleError: not such a checkpoint, or tensors are missing, misshapen or not finite.
    """
    checkpoint = read_checkpoint(path)
    settings = checkpoint.about.get("net_config")
    if not isinstance(settings, dict):
        raise BundleError(f"{path}: not a checkpoint of `lipwire train`, it has no net_config")
    try:
        net = make_network("lite", settings)
    except ConfigError as error:
        raise BundleError(f"{path}: {error}") from error
    assert isinstance(net, LiteNet)
    checkpoint.fill(net)
    return net.eval(), checkpoint


def export_lite(
    checkpoint: Path,
    out: Path,
    options: Options | None = None,
    *,
    training: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle; it appears at `out` only when every check has passed.

    Args:
        checkpoint: of `lipwire train`.
        out: folder or file, see `export.write.write_bundle`.
        options: the exporter's wishes.
        training: what the manifest says of the data, beside the run's own settings.

    Raises:
        BundleError: see `load_lite` and `export.write.write_bundle`.
    """
    net, loaded = load_lite(checkpoint)
    about: dict[str, Any] = {k: loaded.about[k] for k in ("step", "config") if k in loaded.about}
    recipe = Recipe(
        kind="lite",
        licence=WEIGHTS_LICENCE,
        prediction="v",
        spacing="trailing",
        steps_offered=STEPS_OFFERED,
        default_steps=DEFAULT_STEPS,
        framing="stabilised",
        training={**about, **(training or {})},
    )
    return write_bundle(net, recipe, out, options or Options())
