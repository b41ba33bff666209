from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import TINY_PAPER, Line, five_frames

import lipwire.training.checkpoint
from lipwire.engine.errors import CheckpointError, ConfigError
from lipwire.training.config import LossWeights, TrainConfig, preset_named, scaled_down
from lipwire.training.families import PaperFamily
from lipwire.training.loop import Trainer, count_on_cpu, learning_rate, share_batch_norm, train
from lipwire.training.paper.diff2lip import ClipObjective

REPO = Path(__file__).resolve().parents[2]
CONFIG = TrainConfig(
    steps=8, batch=8, learning_rate=0.05, warmup=2, checkpoint_every=4, sample_every=8
)


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(ours[k], theirs[k]) for k in ours)


def tiny_paper(config: TrainConfig, weights: LossWeights) -> ClipObjective:
    torch.manual_seed(config.seed)
    family = PaperFamily()
    return ClipObjective(family, family.build(TINY_PAPER), five_frames(), config, weights)


# --- resuming ---


def test_a_resumed_runs_step_counters_lie_on_the_cpu() -> None:
    """Where they lie on a GPU every step waits for each of them."""
    parameter = nn.Parameter(torch.ones(2))
    optimiser = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(2)
    optimiser.step()
    moved = optimiser.state[parameter]["step"]

    class OnDevice:
        def cpu(self) -> Tensor:
            return moved

    optimiser.state[parameter]["step"] = OnDevice()
    count_on_cpu(optimiser)
    count_on_cpu(None)
    assert optimiser.state[parameter]["step"] is moved


@pytest.mark.parametrize("rival", [False, True])
def test_a_killed_run_goes_on_with_the_same_curve(tmp_path: Path, rival: bool) -> None:
    whole = Trainer(tmp_path / "whole", CONFIG, Line(rival=rival))
    curve = [whole.run_step() for _ in range(6)]
    killed = Trainer(tmp_path / "killed", CONFIG, Line(rival=rival))
    for _ in range(3):
        killed.run_step()
    killed.save()
    killed.run_step()  # lost with the kill
    resumed = Trainer(tmp_path / "killed", CONFIG, Line(rival=rival))
    assert resumed.step == 3
    assert [resumed.run_step() for _ in range(3)] == curve[3:]
    assert same(whole.net, resumed.net) and same(whole.ema, resumed.ema)
    if rival:
        ours, theirs = whole.objective.critic, resumed.objective.critic
        assert ours is not None and theirs is not None and same(ours, theirs)


def test_the_papers_objective_with_its_critic_resumes_exactly(tmp_path: Path) -> None:
    config = replace(CONFIG, batch=2, learning_rate=1e-3)
    weights = LossWeights(sync=0, perceptual=0, gan=0.5)
    whole = Trainer(tmp_path / "whole", config, tiny_paper(config, weights))
    curve = [whole.run_step() for _ in range(3)]
    assert len({row["simple"] for row in curve}) == 3
    killed = Trainer(tmp_path / "killed", config, tiny_paper(config, weights))
    killed.run_step()
    killed.save()
    resumed = Trainer(tmp_path / "killed", config, tiny_paper(config, weights))
    assert [resumed.run_step() for _ in range(2)] == curve[1:]
    assert same(whole.net, resumed.net)


def test_a_seed_is_a_run(tmp_path: Path) -> None:
    def first_loss(seed: int, name: str) -> float:
        config = replace(CONFIG, batch=2, seed=seed)
        none = LossWeights(l2=0, sync=0, perceptual=0, gan=0)
        return Trainer(tmp_path / name, config, tiny_paper(config, none)).run_step()["total"]

    assert first_loss(1, "a") == first_loss(1, "b") != first_loss(2, "c")


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    Trainer(tmp_path, CONFIG, Line()).save()
    with pytest.raises(ConfigError, match="learning_rate"):
        Trainer(tmp_path, replace(CONFIG, learning_rate=0.1), Line())
    Trainer(tmp_path, replace(CONFIG, steps=100, workers=1), Line())  # longer, faster: fine


def test_another_network_is_named_by_its_first_tensor(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, CONFIG, Line())
    trainer.net.weight = nn.Parameter(torch.zeros(1, 5))
    trainer.save()
    with pytest.raises(CheckpointError, match=r"weight is \[1, 5\] .* \[1, 4\] in the network"):
        Trainer(tmp_path, CONFIG, Line())


def test_a_torn_checkpoint_is_an_error_of_one_line(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, CONFIG, Line())
    trainer.save()
    content = trainer.checkpoint_path.read_bytes()
    trainer.checkpoint_path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a checkpoint that can be read"):
        Trainer(tmp_path, CONFIG, Line())
    torch.save({"step": 1}, trainer.checkpoint_path)
    with pytest.raises(CheckpointError, match="has no config, ema, net, optimiser"):
        Trainer(tmp_path, CONFIG, Line())


# --- a run ---


def test_train_writes_its_records_once(tmp_path: Path) -> None:
    trainer = train(Trainer(tmp_path, CONFIG, Line()))
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, 9), 8]
    assert lines[-1] == {"step": 8, "figure": 1.0}
    assert lines[7]["total"] < lines[0]["total"]
    assert list((tmp_path / "tensorboard").iterdir()) and trainer.checkpoint_path.exists()
    # Killed after its last checkpoint: what it logged since is logged again, not twice.
    with (tmp_path / "stats.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9}) + "\n" + '{"step": 4')
    train(Trainer(tmp_path, replace(CONFIG, steps=10), Line()))
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "total" in line] == list(range(1, 11))


def test_micro_batches_are_one_batch(tmp_path: Path) -> None:
    whole = Trainer(tmp_path / "whole", CONFIG, Line(rival=True))
    split = Trainer(tmp_path / "split", replace(CONFIG, accumulate=4), Line(rival=True))
    for _ in range(3):
        a, b = whole.run_step(), split.run_step()
        assert a == pytest.approx(b, rel=1e-5)
    for x, y in zip(whole.net.parameters(), split.net.parameters(), strict=True):
        torch.testing.assert_close(x, y)


def test_a_run_goes_on_with_other_micro_batches(tmp_path: Path) -> None:
    """As on fewer devices: the same samples a step, dealt out otherwise."""
    whole = Trainer(tmp_path / "whole", CONFIG, Line(rival=True))
    begun = Trainer(tmp_path / "moved", CONFIG, Line(rival=True))
    for _ in range(2):
        whole.run_step(), begun.run_step()
    begun.save()
    moved = Trainer(tmp_path / "moved", replace(CONFIG, accumulate=4), Line(rival=True))
    assert moved.step == 2
    for _ in range(2):
        assert whole.run_step() == pytest.approx(moved.run_step(), rel=1e-5)


def test_loading_in_other_processes_changes_nothing(tmp_path: Path) -> None:
    here = Trainer(tmp_path / "here", CONFIG, Line())
    there = Trainer(tmp_path / "there", replace(CONFIG, workers=1), Line())
    assert [here.run_step() for _ in range(3)] == [there.run_step() for _ in range(3)]


def test_bfloat16_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    config = replace(CONFIG, batch=2, precision="bf16", learning_rate=1e-3)
    trainer = Trainer(tmp_path, config, tiny_paper(config, LossWeights(sync=0, perceptual=0)))
    first = trainer.run_step()
    assert all(value == value for value in first.values())  # none is NaN
    assert {p.dtype for p in trainer.net.parameters()} == {torch.float32}
    plain = Trainer(
        tmp_path / "plain",
        replace(config, precision="bf16"),
        tiny_paper(config, LossWeights(sync=0, perceptual=0)),
    )
    assert plain.run_step()["simple"] == first["simple"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_half_precision_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bf16"):
        Trainer(tmp_path, replace(CONFIG, precision="fp16"), Line())


def test_half_precision_with_a_critic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one loss scale, .* use bf16"):
        Trainer(tmp_path, replace(CONFIG, precision="fp16"), Line(rival=True))


def test_averages_are_kept_on_the_way(tmp_path: Path) -> None:
    trainer = train(Trainer(tmp_path, replace(CONFIG, steps=6, keep_every=3), Line()))
    kept = [torch.load(path, weights_only=True) for path in sorted(tmp_path.glob("average-*.pt"))]
    assert [state["step"] for state in kept] == [3, 6] and "optimiser" not in kept[0]
    first, last = (state["ema"]["weight"] for state in kept)
    assert torch.equal(last, trainer.ema.state_dict()["weight"]) and not torch.equal(first, last)


def test_an_uneven_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch 8 cannot be dealt out"):
        Trainer(tmp_path, replace(CONFIG, accumulate=3), Line())


def test_a_step_that_is_not_finite_is_not_taken(tmp_path: Path) -> None:
    class Burst(Line):
        def forward(self, batch: tuple[Tensor, Tensor]) -> Any:
            return super().forward((batch[0] * float("inf"), batch[1]))

    trainer = Trainer(tmp_path, CONFIG, Burst())
    before = [p.clone() for p in trainer.net.parameters()]
    trainer.run_step()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.net.parameters(), strict=True))


# --- what may happen to it ---


def test_a_full_disk_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tmp_path, CONFIG, Line())
    trainer.run_step()
    trainer.save()
    good = trainer.checkpoint_path.read_bytes()
    plain_write = lipwire.training.checkpoint._Remembering.write

    def full_after_some_bytes(self: Any, data: bytes) -> int:
        if self.file.tell() > 500:
            self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise self.error
        return plain_write(self, data)

    trainer.run_step()
    with monkeypatch.context() as patched:
        patched.setattr(lipwire.training.checkpoint._Remembering, "write", full_after_some_bytes)
        with pytest.raises(CheckpointError, match="No space left on device.*untouched"):
            trainer.save()
    assert trainer.checkpoint_path.read_bytes() == good
    assert not list(tmp_path.glob("*.partial")), "and its space is given back"
    assert Trainer(tmp_path, CONFIG, Line()).step == 1


STOPPED = """
import os, signal, sys
from pathlib import Path
from toys import Line
from lipwire.training.config import TrainConfig
from lipwire.training.loop import Trainer, train

class Interrupted(Line):
    def forward(self, batch):
        if trainer.step == 3:
            os.kill(os.getpid(), signal.{name})
        return super().forward(batch)

config = TrainConfig(steps=1000, batch=8, checkpoint_every=1000, sample_every=1000)
trainer = Trainer(Path(sys.argv[1]), config, Interrupted())
try:
    train(trainer)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_ends_the_step_saves_and_says_how_to_go_on(tmp_path: Path, name: str) -> None:
    assert hasattr(signal, name)
    done = subprocess.run(
        [sys.executable, "-c", STOPPED.format(name=name), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{REPO}:{REPO / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert "stopped and saved at step 4; to go on:" in done.stderr
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4


NAMES = ("one", "two")


def test_two_ranks_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Gradients of denoiser and critic, averages and losses, with gradient accumulation too."""
    command = [
        sys.executable,
        *"-m torch.distributed.run --nproc-per-node 2".split(),
        *"--rdzv-backend c10d --rdzv-endpoint localhost:0".split(),
        str(REPO / "tests" / "ranks.py"),
        str(tmp_path / "two"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(REPO),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
    )
    assert done.returncode == 0, done.stderr
    from ranks import make

    one = make(tmp_path / "one")
    first = one.run_step()
    one.save()
    second = one.run_step()
    ours, theirs = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in NAMES)
    for name in ("optimiser", "critic_optimiser"):
        # Adam's first moment after one step is the gradient, as averaged and clipped.
        # (Biases in front of a norm have none but rounding, so not tensor by tensor.)
        mine, other = (
            torch.cat([value["exp_avg"].flatten() for value in state[name]["state"].values()])
            for state in (ours, theirs)
        )
        assert float((mine - other).norm() / mine.norm()) < 1e-4
    said = json.loads(done.stdout.splitlines()[-1])
    folder, data, settings = said["refused"]
    assert "some processes begin at step 0, others at 1; all nodes must see" in folder
    assert "the processes draw different clips; all nodes must see the same shards" in data
    assert "the processes have different settings" in settings
    for line, row in zip(said["curve"], (first, second), strict=True):
        assert line == pytest.approx(row, rel=1e-3)
    fewer = make(tmp_path / "two", accumulate=2)  # goes on where two processes stopped
    assert fewer.step == 1 and fewer.run_step() == pytest.approx(second, rel=1e-3)


def test_batch_normalisation_sees_the_whole_batch_or_is_refused() -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    plain, shared = net(), net()
    share_batch_norm(plain, 1, "cpu")
    assert type(plain[1]) is nn.BatchNorm1d  # type: ignore[index]
    share_batch_norm(shared, 8, "cuda")
    assert isinstance(shared[1], nn.SyncBatchNorm)  # type: ignore[index]
    assert shared.state_dict().keys() == plain.state_dict().keys()
    with pytest.raises(ConfigError, match="which 2 processes on cpu cannot do together"):
        share_batch_norm(net(), 2, "cpu")
    share_batch_norm(nn.Linear(4, 4), 2, "cpu")


# --- settings ---


def test_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(steps=1000, warmup=100, learning_rate=1e-3)
    rates = [learning_rate(config, s) for s in range(1000)]
    assert rates[0] == pytest.approx(1e-5) and max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(5e-5, rel=0.1)
    steady = replace(config, schedule="constant")
    assert learning_rate(steady, 500) == learning_rate(steady, 10**6) == 1e-3


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"learning_rate": 2.0}, {"ema": 1.0}, {"accumulate": 0}]
)
def test_bad_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        replace(TrainConfig(), **bad)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="weight sync"):
        LossWeights(sync=-0.1)


def test_the_ablation_presets_add_one_loss_after_the_other() -> None:
    """Paper, sec. 4.3: simple; + L2 and sync; + perceptual; + sequence GAN."""
    for family in ("paper", "lite"):
        rows = []
        for name in ("reconstruction", "syncnet", "perceptual", "gan"):
            weights = preset_named(f"{family}-ablation-{name}").objective
            assert isinstance(weights, LossWeights)
            rows.append((weights.l2, weights.sync, weights.perceptual, weights.gan))
        assert rows == [(0, 0, 0, 0), (1, 0.1, 0, 0), (1, 0.1, 0.25, 0), (1, 0.1, 0.25, 0.5)]
    assert preset_named("paper").objective == LossWeights(1.0, 0.1, 0.25, 0.5)
    assert scaled_down(preset_named("paper")).net["image_size"] == 64
    with pytest.raises(ConfigError, match="no preset is named 'papr'; there are lite, lite-refine"):
        preset_named("papr")
