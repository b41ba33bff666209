"""`lipwire bench roofline`: what GPUs that we do not have should reach. Predicted, not measured.

Every operation of a network takes the longest of: its arithmetic at a stated share of the device's
peak, its bytes at a stated share of the memory's, and the least that a kernel takes. Operations
between matrix products and convolutions are taken as fused into them: they move no bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from engine.nets.graphs import ENCODE, graphs

# Shares of the peaks that well-tuned float16 inference reaches on convolutions of this size.
COMPUTE_SHARE, MEMORY_SHARE = 0.5, 0.75
# Inside a CUDA graph, for the operation and the normalisation beside it: below this an operation
# costs no less for being smaller.
KERNEL_S = 6e-6
BYTES = 2  # float16
BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peaks as the maker states them."""

    name: str
    tflops: float
    """float16 on tensor cores, float32 accumulation, without sparsity"""
    gb_s: float
    """memory"""
    source: str


GPUS = (
    Gpu("A6000", 154.8, 768, "NVIDIA RTX A6000 datasheet: 309.7 TFLOPS with sparsity, 768 GB/s"),
    Gpu("L4", 121.0, 300, "NVIDIA L4 datasheet: 242 TFLOPS with sparsity, 300 GB/s"),
    Gpu("4090", 165.2, 1008, "NVIDIA Ada architecture whitepaper, RTX 4090: 165.2, 1008 GB/s"),
    Gpu("H100", 989.4, 3350, "NVIDIA H100 SXM datasheet: 1979 TFLOPS with sparsity, 3.35 TB/s"),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One matrix product or convolution, for one frame."""

    flop: int
    weights: int
    """values read whatever the batch"""
    activations: int
    """values read and written for every frame"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network does, once a frame and once a step."""

    encode: tuple[Operation, ...]
    step: tuple[Operation, ...]

    def gflop(self, steps: int) -> float:
        """Of one frame, a multiply-add counting as two."""
        flop = sum(op.flop for op in self.encode) + steps * sum(op.flop for op in self.step)
        return flop / 1e9

    def gbytes(self, steps: int, batch: int) -> float:
        """Moved for a batch."""
        moved = [sum(op.weights + batch * op.activations for op in part)
                 for part in (self.encode, self.step)]  # fmt: skip
        return BYTES * (moved[0] + steps * moved[1]) / 1e9

    def seconds(self, gpu: Gpu, steps: int, batch: int) -> float:
        """Predicted for a batch."""

        def took(part: Sequence[Operation]) -> float:
            return sum(
                max(
                    batch * op.flop / (COMPUTE_SHARE * gpu.tflops * 1e12),
                    BYTES * (op.weights + batch * op.activations) / (MEMORY_SHARE * gpu.gb_s * 1e9),
                    KERNEL_S,
                )
                for op in part
            )

        return took(self.encode) + steps * took(self.step)


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation that does arithmetic worth counting."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._weights = weights

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run it, and count."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            flop = int(count(*args, **kwargs, out_val=out))
            tensors = [
                leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
            ]
            # A layer's weight may come transposed: it is the same storage.
            held = [t for t in tensors if t.untyped_storage().data_ptr() in self._weights]
            moving = [t for t in tensors if t.untyped_storage().data_ptr() not in self._weights]
            made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
            self.operations.append(Operation(flop, _values(held), _values(moving) + _values(made)))
        return out


def _values(tensors: Sequence[torch.Tensor]) -> int:
    return sum(math.prod(t.shape) for t in tensors)


@torch.no_grad()
def cost_of(net: nn.Module) -> Cost:
    """Count a network's operations by running it once."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    counted: dict[str, tuple[Operation, ...]] = {}
    for graph in graphs(net, batch=1):
        with _Ledger(weights) as ledger:
            graph.module(*graph.inputs.values())
        counted[graph.name] = tuple(ledger.operations)
    return Cost(counted.get(ENCODE, ()), counted["step"])


def run(
    networks: Mapping[str, nn.Module], steps: Sequence[int] = (1, 2, 4, 8, 25)
) -> dict[str, Any]:
    """The table: every network on every GPU at every number of steps and batch.

    Args:
        networks: name -> network.
        steps: of DDIM.
    """
    rows = []
    for name, net in networks.items():
        cost = cost_of(net)
        for gpu in GPUS:
            for n in steps:
                for batch in BATCHES:
                    took_s = cost.seconds(gpu, n, batch)
                    rows.append({
                        "network": name, "gpu": gpu.name, "steps": n, "batch": batch,
                        "gflop": batch * cost.gflop(n), "gbytes": cost.gbytes(n, batch),
                        "ms": took_s * 1e3, "frames_per_s": batch / took_s,
                    })  # fmt: skip
    return {
        "predicted": True,
        "assumed": {"compute_share": COMPUTE_SHARE, "memory_share": MEMORY_SHARE,
                    "kernel_us": KERNEL_S * 1e6, "bytes_a_value": BYTES},
        "gpus": [{"name": g.name, "tflops": g.tflops, "gb_s": g.gb_s, "source": g.source}
                 for g in GPUS],
        "rows": rows,
    }  # fmt: skip


def command(*, network: Sequence[str] = ("lite", "paper")) -> dict[str, Any]:
    """`run`, its networks named by text.

    Args:
        network: lite or paper; may repeat.
    """
    from benchmarks import subjects

    result = run({name: subjects.network(name) for name in network})
    singles = {f"{row['network']}, {row['steps']} steps, {row['gpu']}: predicted_frames_per_s":
               row["frames_per_s"] for row in result["rows"] if row["batch"] == 8}  # fmt: skip
    columns = ("steps", "batch", "ms", "gflop", "frames_per_s")
    tables = {
        f"predicted, not measured: {name}, {gpu.name}": [
            {column: row[column] for column in columns}
            for row in result["rows"] if (row["network"], row["gpu"]) == (name, gpu.name)
        ]
        for name in network for gpu in GPUS
    }  # fmt: skip
    return {**result, "figures": singles, "tables": tables}


def markdown(result: dict[str, Any], batches: Sequence[int] = (1, 8)) -> str:
    """The table for people: frames a second, a row for each network, steps and batch."""
    names = [gpu["name"] for gpu in result["gpus"]]
    lines = [
        f"| network | steps | batch | GFLOP | GB moved | {' | '.join(names)} |",
        f"| --- | ---: | ---: | ---: | ---: |{' ---: |' * len(names)}",
    ]
    table: dict[tuple[str, int, int], dict[str, Any]] = {}
    for row in result["rows"]:
        table.setdefault((row["network"], row["steps"], row["batch"]), {})[row["gpu"]] = row
    for (network, steps, batch), by_gpu in table.items():
        if batch in batches:
            any_row = next(iter(by_gpu.values()))
            speeds = " | ".join(f"{by_gpu[name]['frames_per_s']:,.0f}" for name in names)
            lines.append(f"| {network} | {steps} | {batch} | {any_row['gflop']:,.2f} | "
                         f"{any_row['gbytes']:.3f} | {speeds} |")  # fmt: skip
    return "\n".join(lines)
