"""Half precision where it is harmless: a network whose layers say themselves what they compute in.

Runtimes that take types as written (TensorRT's strongly typed networks) then need no list of
exceptions. Convolutions and linear layers compute in float16; normalisation, whose sums of squares
overflow there, in float32; so do the softmax and the DDIM step, by the networks' own casts.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

HALF = (nn.Conv1d, nn.Conv2d, nn.Linear)
FULL = (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)


class InHalf(nn.Module):
    """A layer that computes in float16 and leaves its result so."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.half()

    def forward(self, x: Tensor) -> Tensor:
        """Any float tensor."""
        out: Tensor = self.layer(x.half())
        return out


class InFull(nn.Module):
    """A layer that computes in float32 and gives back what it was given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.float()

    def forward(self, x: Tensor) -> Tensor:
        """Any float tensor."""
        out: Tensor = self.layer(x.float())
        return out.to(x.dtype)


def mixed_precision(net: nn.Module) -> nn.Module:
    """A copy of a float32 network that computes in float16 where that does no harm."""
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, HALF):
                setattr(parent, name, InHalf(child))
            elif isinstance(child, FULL):
                setattr(parent, name, InFull(child))
    return net
