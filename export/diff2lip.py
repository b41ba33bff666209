"""A checkpoint in the paper's published format -> a bundle.

The state dict says how the network is built, but for what leaves no trace in shapes: the side of
the picture, and how wide one attention head is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from engine.bundle import Bundle
from engine.errors import BundleError, ConfigError
from engine.nets.diff2lip import Diff2LipConfig, Diff2LipUNet
from export.calibration import read_calibration
from export.checkpoint import read_checkpoint
from export.write import Precision, Recipe, write_bundle

STEPS_OFFERED = (1, 2, 4, 8, 25)
DEFAULT_STEPS = 25
HEAD_CHANNELS = 64
WEIGHTS_LICENCE = "CC BY-NC 4.0"
# The published sizes, by their channel multipliers.
_IMAGE_SIZES = {(1, 2, 3, 4): 64, (1, 1, 2, 3, 4): 128, (1, 1, 2, 3, 4, 4): 256}


def infer_config(
    tensors: Mapping[str, Tensor],
    *,
    image_size: int | None = None,
    head_channels: int = HEAD_CHANNELS,
) -> Diff2LipConfig:
    """How the network of a state dict is built.

    Args:
        tensors: of the state dict.
        image_size: side of the crop; None takes the published one for these multipliers.
        head_channels: of one attention head.

    Raises:
        BundleError: these are not the tensors of the paper's network; the first that is missing is
            named.
        ConfigError: they make no network, or the head does not fit.
    """

    def width(name: str, axis: int = 0) -> int:
        if name not in tensors:
            raise BundleError(f"{name} is missing: not a state dict of Diff2Lip's network")
        shape = tensors[name].shape
        if axis >= len(shape):
            raise BundleError(f"{name} is {list(shape)}, which is not Diff2Lip's")
        return int(shape[axis])

    base = width("time_embed.0.weight", axis=1)
    outputs = _count(tensors, "output_blocks")
    # Where the resolution doubles, an output block ends in a second residual block.
    doubling = [index for index in range(outputs)
                if any(f"output_blocks.{index}.{layer}.in_layers.2.weight" in tensors
                       for layer in (1, 2))]  # fmt: skip
    blocks = doubling[0] if doubling else outputs - 1  # residual blocks a level, going down
    levels = len(doubling) + 1
    if blocks < 1 or outputs != levels * (blocks + 1):
        width("input_blocks.1.0.in_layers.2.weight")  # the likelier complaint
        raise BundleError(f"{outputs} output_blocks do not make {levels} equal levels")
    multipliers, attention = [], []
    for level in range(levels):
        block = f"input_blocks.{1 + level * (blocks + 1)}"
        multipliers.append(width(f"{block}.0.out_layers.3.weight") // max(base, 1))
        if f"{block}.1.qkv.weight" in tensors:
            attention.append(2**level)
    published = _IMAGE_SIZES.get(tuple(multipliers), Diff2LipConfig.official().image_size)
    return Diff2LipConfig(
        image_size=image_size or published,
        model_channels=base,
        num_res_blocks=blocks,
        attention_resolutions=tuple(attention),
        channel_mult=tuple(multipliers),
        num_head_channels=head_channels,
    )


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    found = {int(m[1]) for name in tensors if (m := re.match(rf"{prefix}\.(\d+)\.", name))}
    return max(found, default=-1) + 1


def load_diff2lip(
    path: Path, *, image_size: int | None = None, head_channels: int = HEAD_CHANNELS
) -> Diff2LipUNet:
    """The network of a published checkpoint; no code in the file is run.

    Raises:
        BundleError: unreadable, of another architecture, or tensors are missing, misshapen or not
            finite; the first are named.
    """
    checkpoint = read_checkpoint(path)
    try:
        config = infer_config(
            checkpoint.tensors, image_size=image_size, head_channels=head_channels
        )
        net = Diff2LipUNet(config)
    except (BundleError, ConfigError) as error:
        raise BundleError(f"{path}: {error}") from error
    checkpoint.fill(net)
    return net.eval()


def export_diff2lip(
    checkpoint: Path,
    out: Path,
    *,
    name: str = "diff2lip",
    version: str = "0",
    licence: str = WEIGHTS_LICENCE,
    image_size: int | None = None,
    head_channels: int = HEAD_CHANNELS,
    steps: int = DEFAULT_STEPS,
    precision: Precision = "float32",
    calibrate: Path | None = None,
) -> Bundle:
    """Write a bundle; it appears at `out` only when every check has passed.

    Args:
        checkpoint: .pt or .safetensors, the published state dict.
        out: folder of the bundle; an older bundle there is replaced.
        name: of the model.
        version: of the model.
        licence: of the weights.
        image_size: side of the crop; None takes the published one.
        head_channels: of one attention head.
        steps: default DDIM steps.
        precision: of the graphs' arithmetic.
        calibrate: shards or an .npz, which int8 needs.

    Raises:
        BundleError: see `load_diff2lip` and `export.write.write_bundle`.
    """
    net = load_diff2lip(checkpoint, image_size=image_size, head_channels=head_channels)
    recipe = Recipe(
        kind="diff2lip",
        name=name,
        version=version,
        licence=licence,
        prediction="epsilon",
        spacing="leading",
        steps_offered=tuple(sorted({*STEPS_OFFERED, steps})),
        default_steps=steps,
        framing="box",
        training={"checkpoint": checkpoint.name},
    )
    calibration = read_calibration(calibrate, net) if calibrate is not None else None
    return write_bundle(net, recipe, out, precision=precision, calibration=calibration)
