"""A checkpoint in the paper's published format -> a bundle.

The state dict says how the network is built, but for what leaves no trace in shapes: the side of
the picture, and how wide one attention head is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lipwire.engine.errors import BundleError, ConfigError
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.nets.diff2lip import Diff2LipConfig, Diff2LipUNet
from lipwire.export.checkpoint import Checkpoint, read_checkpoint
from lipwire.export.write import Options, Recipe, as_sampled, write_bundle

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
    head_channels: int | None = None,
) -> Diff2LipConfig:
    """How the network of a state dict is built.

    Args:
        tensors: of the state dict.
        image_size: side of the crop; None takes the published one for these multipliers.
        head_channels: of one attention head; None takes the published one.

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
    name = "output_blocks.{}.{}.in_layers.2.weight"
    doubling = [k for k in range(outputs) if {name.format(k, 1), name.format(k, 2)} & set(tensors)]
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
        num_head_channels=head_channels or HEAD_CHANNELS,
    )


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    found = {int(m[1]) for name in tensors if (m := re.match(rf"{prefix}\.(\d+)\.", name))}
    return max(found, default=-1) + 1


def open_diff2lip(
    path: Path, *, image_size: int | None = None, head_channels: int | None = None
) -> tuple[Diff2LipUNet, Checkpoint]:
    """The network of a checkpoint, published or of a run, and the rest of it; no code in it is run.

    What a checkpoint of a run or a .safetensors says of itself goes before the published defaults,
    and what is given here before both.

    Raises:
        BundleError: unreadable, of another architecture, or tensors are missing, misshapen or not
            finite; the first are named.
    """
    checkpoint = read_checkpoint(path)
    said = checkpoint.about.get("net_config")
    said = said if isinstance(said, dict) else {}
    try:
        config = infer_config(
            checkpoint.tensors,
            image_size=image_size or said.get("image_size"),
            head_channels=head_channels or said.get("num_head_channels"),
        )
        net = Diff2LipUNet(config)
    except (BundleError, ConfigError) as error:
        raise BundleError(f"{path}: {error}") from error
    checkpoint.fill(net)
    return net.eval(), checkpoint


def export_diff2lip(
    checkpoint: Path,
    out: Path,
    options: Options | None = None,
    *,
    image_size: int | None = None,
    head_channels: int | None = None,
    steps: int | None = None,
) -> Bundle:
    """Write a bundle; it appears at `out` only when every check has passed.

    Args:
        checkpoint: .pt or .safetensors: the published state dict, or of `lipwire train` or
            `lipwire train distill`, which says how it is sampled.
        out: folder or file, see `lipwire.export.write.write_bundle`.
        options: the exporter's wishes.
        image_size: side of the crop; None takes the published one.
        head_channels: of one attention head; None takes the published one.
        steps: default DDIM steps; None takes a student's own, or those of the paper.

    Raises:
        BundleError: see `open_diff2lip`, `lipwire.export.write.as_sampled` and
            `lipwire.export.write.write_bundle`.
    """
    net, loaded = open_diff2lip(checkpoint, image_size=image_size, head_channels=head_channels)
    recipe = Recipe(
        kind="diff2lip",
        licence=WEIGHTS_LICENCE,
        prediction="epsilon",
        spacing="leading",
        steps_offered=STEPS_OFFERED,
        default_steps=DEFAULT_STEPS,
        framing="box",
        training={"checkpoint": checkpoint.name, **loaded.training},
    )
    return write_bundle(net, as_sampled(recipe, loaded, steps), out, options or Options())
