"""`lipwire train` on a Ray cluster: its arguments, behind the number of processes.

    python examples/ray_train.py 16 data/vox /shared/runs/paper --preset paper

Each process takes a GPU where the cluster has any. All must see the shards and the run's folder
under the same names; a run that was killed goes on where it was.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def work(config: dict[str, Any]) -> None:
    """One process: Ray Train has set up torch's process group, which accelerate finds."""
    from lipwire.cli.train import app

    os.chdir(config["folder"])
    app(config["arguments"], standalone_mode=False)


if __name__ == "__main__":
    processes, arguments = int(sys.argv[1]), sys.argv[2:]
    ray.init()
    TorchTrainer(
        work,
        train_loop_config={"arguments": arguments, "folder": os.getcwd()},
        scaling_config=ScalingConfig(
            num_workers=processes, use_gpu="GPU" in ray.cluster_resources()
        ),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
    ).fit()
