"""A run's average without its optimisers: small enough to be kept, and gone on from, elsewhere.

    python -m lipwire.training.lean RUN/checkpoint.pt OUT.pt
    lipwire train SHARDS OTHER_RUN --preset lite-units --init OUT.pt --voice VOICE.pt

Halves of floats: network and critics, what the codes mean, how many samples were seen in all.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lipwire.engine.errors import CheckpointError
from lipwire.training.checkpoint import load_checkpoint, save_checkpoint

KEPT = ("family", "step", "net_config", "code_stats", "config")


def samples_seen(state: Mapping[str, Any]) -> int:
    """By a checkpoint's network, with those of the runs that it went on from."""
    if "samples" in state:
        return int(state["samples"])
    batch = int(state.get("config", {}).get("batch", 0))
    return int(state.get("before", 0)) + int(state.get("step", 0)) * batch


def lean(state: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a run's checkpoint.

    Raises:
        CheckpointError: it is no lite run's.
    """
    if missing := [name for name in ("ema", *KEPT) if name not in state]:
        raise CheckpointError(f"not a lite run's checkpoint, has no {', '.join(missing)}")

    def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        half = {k: v.half().contiguous() for k, v in tensors.items() if v.is_floating_point()}
        return {k: half.get(k, v) for k, v in tensors.items()}

    kept = {name: state[name] for name in KEPT}
    kept |= {"samples": samples_seen(state), "ema": halved(state["ema"])}
    return kept | ({"critic": halved(state["critic"])} if "critic" in state else {})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    kept = lean(load_checkpoint(options.checkpoint))
    save_checkpoint(kept, options.out)
    size_mb, samples = options.out.stat().st_size / 1e6, f"{kept['samples']:,} samples in all"
    print(f"{options.out}: {size_mb:.1f} MB, step {kept['step']}, {samples}")


if __name__ == "__main__":
    main()
