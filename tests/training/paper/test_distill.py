from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import TINY_LITE, TINY_PAPER, five_frames

from lipwire.engine.backends import load_backend
from lipwire.engine.errors import BundleError, ConfigError
from lipwire.engine.model.bundle import check_steps
from lipwire.engine.model.ddim import ddim_sample, ddim_step
from lipwire.export.checkpoint import read_checkpoint, write_safetensors
from lipwire.export.diff2lip import export_diff2lip
from lipwire.export.lite import export_lite
from lipwire.export.write import Recipe, as_sampled
from lipwire.training.checkpoint import save_checkpoint
from lipwire.training.config import TrainConfig
from lipwire.training.data.batch import Slot
from lipwire.training.families import SCHEDULE, Family, Given, LiteFamily, PaperFamily, open_network
from lipwire.training.loop import Trainer
from lipwire.training.paper.diff2lip import given_of, noised
from lipwire.training.paper.distill import (
    DISTIL,
    DistilObjective,
    Hop,
    distil,
    hops,
    student_of,
    two_steps_as_one,
)
from lipwire.training.paper.trajectory import trajectory

CONFIG = TrainConfig(
    steps=3, batch=2, warmup=1, learning_rate=1e-3, checkpoint_every=3, sample_every=3
)


def test_a_students_levels_are_every_second_of_its_teachers() -> None:
    assert hops(1) == [Hop(999, 499, None)]
    assert hops(2) == [Hop(999, 749, 499), Hop(499, 249, None)]
    for steps in (1, 2, 4, 8):
        assert [h.start for h in hops(steps)] == list(SCHEDULE.timesteps(steps, "trailing"))


def test_two_steps_as_one_solves_the_ddim_step() -> None:
    """One step with the x0 that it returns ends where two steps ended."""
    random = torch.Generator().manual_seed(0)
    x_t, first, second = torch.randn(3, 2, 3, 4, 8, generator=random)
    for hop in [*hops(4), *hops(1)]:
        start, middle = SCHEDULE.alpha_bar(hop.start), SCHEDULE.alpha_bar(hop.middle)
        end = 1.0 if hop.end is None else SCHEDULE.alpha_bar(hop.end)
        x = ddim_step(x_t, first, start, middle, prediction="x0", clip=False)
        x = ddim_step(x, second, middle, end, prediction="x0", clip=False)
        x0 = two_steps_as_one(x_t, x, start, end)
        once = ddim_step(x_t, x0, start, end, prediction="x0", clip=False)
        torch.testing.assert_close(once, x, rtol=1e-3, atol=1e-3)


class Toy(nn.Module):
    """v = b_t + g_t x_t: two steps of it are one, so a student can be perfect."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(1000, 3, 1, 1) * 0.1)
        # So that x0 = a x_t - s v = 0.2 x_t - s b, which is never clipped.
        a = torch.tensor(SCHEDULE.alphas_cumprod, dtype=torch.float32).sqrt().view(-1, 1, 1, 1)
        self.gain = nn.Parameter((a - 0.2) / (1 - a**2).sqrt())


class ToyFamily(LiteFamily):
    """Calls `Toy`."""

    def size(self, net: Any) -> int:
        return 32

    def config(self, net: Any) -> dict[str, Any]:
        return {}

    def condition(self, net: Any, given: Given) -> tuple[Tensor, ...]:
        return (given.mels,)

    def denoise(self, net: Any, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        assert len(condition[0]) == len(x_t)
        return net.v[t] + net.gain[t] * x_t


@pytest.mark.parametrize("steps", [1, 2])
def test_a_student_matches_its_teachers_two_steps_in_one(tmp_path: Path, steps: int) -> None:
    torch.manual_seed(0)
    family, teacher, student = ToyFamily(), Toy(), Toy()
    student.load_state_dict(teacher.state_dict())
    config = TrainConfig(
        steps=250, batch=2, learning_rate=0.02, warmup=1, ema=0.9, weight_decay=0.0
    )
    objective = DistilObjective(family, family, student, teacher, five_frames(), config, steps)
    noise = torch.randn(4, 3, 16, 32)

    def painted(net: Toy, count: int) -> Tensor:
        def denoise(x: Tensor, t: int) -> Tensor:
            at = torch.full((len(x),), t)
            return family.denoise(net, x, at, (x,))

        levels = SCHEDULE.timesteps(count, "trailing")
        with torch.no_grad():
            return ddim_sample(denoise, noise, levels, SCHEDULE, prediction="v")

    wanted = painted(teacher, 2 * steps)
    before = float((painted(student, steps) - wanted).square().mean())
    trainer = Trainer(tmp_path, config, objective)
    for _ in range(250):
        trainer.run_step()
    after = float((painted(student, steps) - wanted).square().mean())
    assert after < 0.05 * before, (before, after)
    assert torch.equal(teacher.v, objective.teacher.v) and teacher.v.grad is None


@pytest.mark.parametrize(
    ("family", "config"), [(PaperFamily(), TINY_PAPER), (LiteFamily(), TINY_LITE)]
)
def test_the_target_is_two_ddim_steps_of_the_teacher(
    family: Family, config: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    net = family.build(config)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.02 * torch.randn_like(value))
    objective = DistilObjective(student_of(family), family, net, net, five_frames(), CONFIG, 1)
    batch = objective.source.draw(0, Slot())
    _, _, t, x_t = noised(batch)
    assert set(t.tolist()) == {999}
    condition = family.condition(net, given_of(batch))

    def denoise(x: Tensor, level: int) -> Tensor:
        return family.denoise(net, x, torch.full((len(x),), level), condition)

    with torch.no_grad():
        wanted = ddim_sample(denoise, x_t, (999, 499), SCHEDULE, prediction=family.prediction)
    torch.testing.assert_close(objective.target(batch, x_t, t), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "config"), [(PaperFamily(), TINY_PAPER), (LiteFamily(), TINY_LITE)]
)
def test_distil_goes_from_stage_to_stage_and_goes_on(
    family: Family, config: dict[str, Any], shards: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = family.build(config)
    state = {
        "family": family.name,
        "net_config": family.config(net),
        "ema": net.state_dict(),
        "code_stats": torch.zeros(2, 7),
    }
    save_checkpoint(state, tmp_path / "teacher.pt")
    run = tmp_path / "run"
    found = distil(tmp_path / "teacher.pt", shards, run, stages=(2, 1), config=CONFIG)
    assert [p.parent.name for p in found] == ["steps-2", "steps-1"]
    stamps = [p.stat().st_mtime_ns for p in found]
    for path, steps in zip(found, (2, 1), strict=True):
        opened = open_network(path)
        assert (opened.family.prediction, opened.family.spacing) == ("v", "trailing")
        assert opened.state["student_steps"] == steps and "code_stats" in opened.state
        assert (path.parent / "samples-000003.png").exists()
    again = distil(tmp_path / "teacher.pt", shards, run, stages=(2, 1), config=CONFIG)
    assert again == found and len(stamps) == 2
    lines = (run / "steps-2" / "stats.jsonl").read_text().splitlines()
    assert len(lines) == 3, "a stage that is done is not trained again"


@pytest.mark.parametrize(
    ("family", "config"), [(PaperFamily(), TINY_PAPER), (LiteFamily(), TINY_LITE)]
)
def test_an_exported_student_paints_what_it_was_trained_to(
    family: Family, config: dict[str, Any], tmp_path: Path
) -> None:
    """The bundle, run by ONNX Runtime, against the sampler of training; also by .safetensors."""
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    student = student_of(family)
    net = student.build(config)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.02 * torch.randn_like(value))
    objective = DistilObjective(student, family, net, net, five_frames(), CONFIG, 2)
    stats = torch.stack([torch.zeros(7), torch.ones(7)])
    save_checkpoint(
        {**objective.state(), "ema": net.state_dict(), "code_stats": stats}, tmp_path / "student.pt"
    )
    export = export_diff2lip if family.name == "paper" else export_lite
    bundle = export(tmp_path / "student.pt", tmp_path / "bundle")
    manifest = bundle.manifest
    assert (manifest.prediction, manifest.spacing) == ("v", "trailing")
    assert (manifest.steps_offered, manifest.default_steps) == ((2,), 2)

    batch = objective.source.draw(0, Slot())
    given = given_of(batch)
    wanted = trajectory(student, net.eval(), given, 2)[-1].x0.numpy()
    arrays = {
        "visible": given.visible,
        "references": given.references,
        "mel": given.mels,
        "noise": given.fill,
    }
    backend = load_backend(bundle, "ort", threads=1)
    if backend.noise_rows == 32:  # the paper's network samples whole pictures
        arrays["noise"] = torch.cat([given.fill, given.fill], dim=2)
    painted = backend.sample({name: v.numpy() for name, v in arrays.items()}, 2)
    backend.close()
    error = abs(painted[:, :, -16:] - wanted).max()
    assert error < 1e-3 * abs(wanted).max(), error
    with pytest.raises(BundleError, match=r"offers \[2\] steps, not 25"):
        check_steps(manifest, 25)
    file = write_safetensors(tmp_path / "bundle", tmp_path / "student.safetensors")
    other = Recipe(family.name, "?", "epsilon", "leading", (1, 25), 25, "box")
    again = as_sampled(other, read_checkpoint(file))
    assert (again.prediction, again.spacing, again.steps_offered) == ("v", "trailing", (2,))
    if family.name == "paper":
        with pytest.raises(BundleError, match="was distilled for 2 steps, not 4"):
            export_diff2lip(file, tmp_path / "four", steps=4)


def test_stages_must_halve(tmp_path: Path) -> None:
    for stages in ((4, 1), (), (2, 4), (0,)):
        with pytest.raises(ConfigError, match="fall by halves"):
            distil(tmp_path / "t.pt", tmp_path, tmp_path, stages=stages)


def test_a_student_speaks_velocity_from_pure_noise() -> None:
    assert student_of(PaperFamily()) == PaperFamily("v", "trailing")
    assert student_of(LiteFamily()) == LiteFamily()
    assert replace(DISTIL, steps=1).weight_decay == 0
