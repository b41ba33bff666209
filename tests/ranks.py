"""Two steps of a tiny paper run with its critic, for `torch.distributed.run`; see test_loop.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from toys import TINY_PAPER, clip, five_frames

from lipwire.engine.errors import ConfigError
from lipwire.training.config import LossWeights, TrainConfig
from lipwire.training.data.batch import FiveFrames
from lipwire.training.families import PaperFamily
from lipwire.training.loop import Trainer
from lipwire.training.paper.diff2lip import ClipObjective

CONFIG = TrainConfig(steps=2, batch=4, accumulate=1, learning_rate=1e-3, warmup=1)


def make(folder: Path, accumulate: int = 1, other: bool = False, rate: float = 1e-3) -> Trainer:
    """The run, whatever the number of processes; `other` clips are none that it should have."""
    torch.manual_seed(0)
    family = PaperFamily()
    net = family.build(TINY_PAPER)
    with torch.no_grad():  # zero layers would let a wrong gradient elsewhere go unseen
        for value in net.parameters():
            value.add_(0.02 * torch.randn_like(value))
    changed = {"accumulate": accumulate, "learning_rate": rate}
    config = TrainConfig(**{**CONFIG.to_dict(), **changed})
    weights = LossWeights(sync=0, perceptual=0, gan=0.5)
    clips = FiveFrames([clip(7), clip(8)], 32) if other else five_frames()
    objective = ClipObjective(family, net, clips, config, weights)
    # One process is on the CPU wherever there is a GPU; two must find that out themselves.
    objective.cpu_only = "WORLD_SIZE" not in os.environ
    return Trainer(folder, config, objective)


if __name__ == "__main__":
    trainer = make(Path(sys.argv[1]), accumulate=2)
    assert trainer.accelerator.num_processes == 2
    curve = [trainer.run_step()]
    trainer.save()
    curve.append(trainer.run_step())
    main, folder, refused = trainer.accelerator.is_main_process, Path(sys.argv[1]), []
    # The second process as on a machine that does not see the folder of the run; then with other
    # shards than the first, and started by another command.
    for place, more in (
        (folder if main else folder.with_name("elsewhere"), {}),
        (folder.with_name("data"), {"other": not main}),
        (folder.with_name("rate"), {"rate": 1e-3 if main else 2e-3}),
    ):
        try:
            make(place, accumulate=2, **more)
        except ConfigError as error:
            refused.append(str(error))
    if main:
        print(json.dumps({"curve": curve, "refused": refused}))
    trainer.accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()
    # Gloo's threads may outlive the group, and C++ aborts a process whose interpreter ends before.
    sys.stdout.flush()
    os._exit(0)
