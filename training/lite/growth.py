"""An earlier painter's weights in a network that takes more: other references, and being told."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

import torch
from torch import Tensor

from lipwire.engine.nets.lite import LiteConfig, LiteNet
from lipwire.training.checkpoint import fit_weights, weights_of

# What a new reference has of the last one's part at first. Smaller: its gradients are small as well
# and it is slow to be used; larger: where the two differ, a grown network shows a mixture of them.
NEW_SHARE = 0.1


def grown_painter(
    weights: Mapping[str, Tensor], earlier: Mapping[str, Any] | None, net: LiteNet
) -> dict[str, Tensor]:
    """The weights, fitted to `net`; what they lack is added so that it has no effect.

    A new reference takes over a part of the last one's: shown the same picture in both, the grown
    network paints what the earlier one did. What compares codes says nothing until it is trained.
    A misfit of any other kind is left as it is, for whoever loads the weights to name.
    """
    grown = {name: value.float() for name, value in weights.items()}
    added = net.state_dict()
    lacking = [name for name in added if name not in grown]
    grown |= {name: added[name] for name in lacking if name.startswith("encoder.comparison.")}
    had = LiteConfig.from_dict(dict(earlier)).references if earlier else net.config.references
    more = net.config.references - had
    if more <= 0 or "encoder.stem.weight" not in grown:
        return grown
    rest = 1 - more * NEW_SHARE
    # Each reference is six planes of the stem's input, two of the flow, one of the gates; planes
    # lie four times as deep where pixels are unshuffled.
    stem = grown["encoder.stem.weight"]
    last = stem[:, -24:]
    grown["encoder.stem.weight"] = torch.cat(
        [stem[:, :-24], rest * last, *[NEW_SHARE * last] * more], dim=1
    )
    for name in ("denoiser.flow.2.weight", "denoiser.flow.2.bias"):
        grown[name] = torch.cat([grown[name], *[grown[name][-2:]] * more])
    weight, bias = grown["denoiser.paint.2.weight"], grown["denoiser.paint.2.bias"]
    grown["denoiser.paint.2.weight"] = torch.cat([weight, *[weight[-4:]] * more])
    grown["denoiser.paint.2.bias"] = torch.cat(
        [bias[:-4], bias[-4:] + log(rest), *[bias[-4:] + log(NEW_SHARE)] * more]
    )
    return grown


def take_painter(net: LiteNet, earlier: Mapping[str, Any], origin: object) -> None:
    """Load an earlier checkpoint's encoder and denoiser, see `grown_painter`.

    Raises:
        CheckpointError: a tensor is missing or does not fit; names the first.
    """
    weights = grown_painter(weights_of(earlier), earlier.get("net_config"), net)
    for name in ("encoder", "denoiser"):
        inside = [key for key in weights if key.startswith(f"{name}.")]
        own = {key.removeprefix(f"{name}."): weights[key] for key in inside}
        fit_weights(getattr(net, name), own, origin)
