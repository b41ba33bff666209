"""A lite checkpoint -> a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lipwire.engine.errors import BundleError, ConfigError
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.nets import make_network
from lipwire.engine.nets.lite import LiteNet, rescale_codes, voice_settings
from lipwire.export.checkpoint import Checkpoint, read_checkpoint
from lipwire.export.write import Options, Recipe, as_sampled, write_bundle

STEPS_OFFERED = (1, 2, 4, 8, 25)
DEFAULT_STEPS = 2
WEIGHTS_LICENCE = "CC BY-NC 4.0"


def replace_voice(painter: Checkpoint, voice: Checkpoint) -> Checkpoint:
    """A painter's checkpoint with another voice, which asks for the same mouths in its units.

    Raises:
        BundleError: one of them does not say what its codes mean.
    """
    for part in (painter, voice):
        settings, stats = (part.about.get(name) for name in ("net_config", "code_stats"))
        if not isinstance(settings, dict) or not isinstance(stats, Tensor):
            raise BundleError(
                f"{part.path}: does not say what its codes mean (net_config, code_stats); a voice "
                "and its painter are checkpoints of `lipwire train voice` and `lipwire train`"
            )
    own = {n[6:]: value for n, value in voice.tensors.items() if n.startswith("voice.")}
    own = own or dict(voice.tensors)
    said = rescale_codes(own, voice.about["code_stats"], painter.about["code_stats"])
    return replace(
        painter,
        tensors={
            **{k: v for k, v in painter.tensors.items() if not k.startswith("voice.")},
            **{f"voice.{name}": value for name, value in said.items()},
        },
        about={
            **painter.about,
            "net_config": {
                **painter.about["net_config"],
                **voice_settings(voice.about["net_config"]),
            },
        },
    )


def load_lite(path: Path, voice: Path | None = None) -> tuple[LiteNet, Checkpoint]:
    """The averaged network of a `lipwire train` checkpoint, or of a .safetensors made of one.

    Raises:
        BundleError: not such a checkpoint, or tensors are missing, misshapen or not finite.
    """
    checkpoint = read_checkpoint(path)
    if voice is not None:
        checkpoint = replace_voice(checkpoint, read_checkpoint(voice))
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


def _code_stats(checkpoint: Checkpoint) -> dict[str, list[float]]:
    """What its codes mean, for the manifest; empty where the checkpoint does not say it."""
    stats = checkpoint.about.get("code_stats")
    if not isinstance(stats, Tensor):
        return {}
    return {
        name: [float(f"{value:.6g}") for value in row]
        for name, row in zip(("mean", "spread"), stats.tolist(), strict=True)
    }


def export_lite(
    checkpoint: Path,
    out: Path,
    options: Options | None = None,
    *,
    voice: Path | None = None,
    training: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle; it appears at `out` only when every check has passed.

    Args:
        checkpoint: of `lipwire train`.
        out: folder or file, see `lipwire.export.write.write_bundle`.
        options: the exporter's wishes.
        voice: of `lipwire train voice`: speaks instead of the checkpoint's own.
        training: what the manifest says of the data, beside the run's own settings.

    Raises:
        BundleError: see `load_lite` and `lipwire.export.write.write_bundle`.
    """
    net, loaded = load_lite(checkpoint, voice)
    recipe = Recipe(
        kind="lite",
        licence=WEIGHTS_LICENCE,
        prediction="v",
        spacing="trailing",
        steps_offered=STEPS_OFFERED,
        default_steps=DEFAULT_STEPS,
        framing="stabilised",
        codes=_code_stats(loaded),
        expression=net.voice.expression,
        training={**loaded.training, **(training or {})},
    )
    return write_bundle(net, as_sampled(recipe, loaded), out, options or Options())
