from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lipwire.cli.main import app

pytest.importorskip("torch")


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the training functions are asked for, instead of training."""
    import lipwire.training.evaluation.paper_ablation
    import lipwire.training.evaluation.units_ablation
    import lipwire.training.lite.audio2mouth
    import lipwire.training.lite.denoiser
    import lipwire.training.loop
    import lipwire.training.paper.distill
    import lipwire.training.paper.suite
    import lipwire.training.paper.sync_expert

    asked: list[Any] = []

    def noting(result: Any) -> Any:
        def note(*args: Any, **kwargs: Any) -> Any:
            asked.append((args, kwargs))
            return result

        return note

    run = SimpleNamespace(checkpoint_path=Path("run/checkpoint.pt"), step=20)
    monkeypatch.setattr(lipwire.training.lite.denoiser, "train_lite", noting(run))
    monkeypatch.setattr(
        lipwire.training.lite.audio2mouth, "train_voice", noting((run, {"opening_r": 0.5}))
    )
    monkeypatch.setattr(lipwire.training.paper.suite, "make_trainer", noting(run))
    monkeypatch.setattr(lipwire.training.loop, "train", lambda trainer: trainer)
    monkeypatch.setattr(
        lipwire.training.paper.sync_expert, "train_expert", noting((run, {"val_loss": 0.25}))
    )
    monkeypatch.setattr(
        lipwire.training.paper.distill, "distil", noting([Path("steps-2/checkpoint.pt")])
    )
    figures = {"gan": {"psnr_db": 20.0, "sync": 0.5}}
    monkeypatch.setattr(lipwire.training.evaluation.paper_ablation, "ablate", noting(figures))
    monkeypatch.setattr(
        lipwire.training.evaluation.units_ablation,
        "ablate_units",
        noting({"all": {"cold": {"error": 0.01234}}}),
    )
    return asked


@pytest.mark.parametrize("name", [(), ("model",)])
def test_train_alone_trains_the_lite_model(
    name: tuple[str, ...], seen: list[Any], tmp_path: Path
) -> None:
    options = "--preset smoke --batch 2 --seed 7 --voice v.pt".split()
    result = call("train", *name, tmp_path, "run", *options)
    assert result.exit_code == 0, result.output
    (shards, folder, config, recipe), named = seen[0]
    assert (shards, folder) == (tmp_path, Path("run")) and named == {
        "voice": Path("v.pt"),
        "init": None,
    }
    assert (config.steps, config.batch, config.seed, recipe.gan_start) == (20, 2, 7, 5)
    assert "checkpoint.pt: 20 steps" in result.stdout


def test_options_may_come_first(seen: list[Any], tmp_path: Path) -> None:
    assert call("train", "--preset", "lite", "--voice", "v.pt", tmp_path, "run").exit_code == 0
    assert seen[0][0][2].steps == 7300


def test_a_voice_belongs_to_the_lite_recipe_alone(seen: list[Any], tmp_path: Path) -> None:
    result = call("train", tmp_path, "run")
    assert result.exit_code == 2 and "needs a voice" in result.stderr
    result = call("train", tmp_path, "run", "--preset", "paper", "--voice", "v.pt")
    assert result.exit_code == 2 and "leave --voice out" in result.stderr and not seen


def test_voice_prints_its_figures(seen: list[Any], tmp_path: Path) -> None:
    result = call("train", "voice", tmp_path, "run", "--steps", 5)
    assert result.exit_code == 0 and '{"opening_r": 0.5}' in result.stdout
    assert seen[0][0][2].steps == 5


def test_the_papers_preset_takes_its_judges(seen: list[Any], tmp_path: Path) -> None:
    perceptual = "--perceptual-weights vgg.pth --perceptual-weights lin.pth".split()
    options = "--preset paper --expert e.pt --init c.pt --precision no --small".split()
    result = call("train", tmp_path, "run", *options, *perceptual)
    assert result.exit_code == 0, result.output
    (preset, _, _, judges, init), _ = seen[0]
    assert preset.net["image_size"] == 64 and preset.train.precision == "no"
    assert judges.expert == Path("e.pt") and init == Path("c.pt")
    assert judges.perceptual == (Path("vgg.pth"), Path("lin.pth"))


def test_a_painter_goes_on_from_an_earlier_one(seen: list[Any], tmp_path: Path) -> None:
    result = call(
        "train", tmp_path, "run", "--preset", "lite-refine", "--voice", "v.pt", "--init", "c.pt"
    )
    assert result.exit_code == 0, result.output
    assert seen[0][1] == {"voice": Path("v.pt"), "init": Path("c.pt")}


def test_the_lite_recipe_has_no_judges(seen: list[Any], tmp_path: Path) -> None:
    result = call("train", tmp_path, "run", "--expert", "e.pt")
    assert result.exit_code == 2 and "has its own losses" in result.stderr and not seen


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    result = call("train", tmp_path / "none", "run")
    assert result.exit_code == 2 and "no such folder" in result.stderr
    result = call("train", tmp_path, "run", "--preset", "papr")
    assert (
        result.exit_code == 2 and "there are lite, lite-refine, lite-units, smoke" in result.stderr
    )
    assert call("train", tmp_path, "run", "--steps", 0).exit_code == 2


def test_syncnet_prints_its_figures(seen: list[Any], tmp_path: Path) -> None:
    result = call("train", "syncnet", tmp_path, "run", "--kind", "wav2lip", "--steps", 5)
    assert result.exit_code == 0 and '{"val_loss": 0.25}' in result.stdout
    (_, _, kind, config), _ = seen[0]
    assert kind == "wav2lip" and config.steps == 5 and config.learning_rate == 1e-4
    assert not result.stderr, "good enough to train with"


@pytest.mark.parametrize(("kind", "said"), [("wav2lip", True), ("small", False)])
def test_an_expert_that_is_not_ready_is_told_of(
    seen: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, said: bool
) -> None:
    import lipwire.training.paper.sync_expert as module

    run = SimpleNamespace(checkpoint_path=Path("run/checkpoint.pt"), step=20)
    monkeypatch.setattr(module, "train_expert", lambda *_: (run, {"val_loss": 0.62}))
    result = call("train", "syncnet", tmp_path, "run", "--kind", kind)
    assert result.exit_code == 0 and ("above 0.25" in result.stderr) == said


def test_distill_passes_its_stages(seen: list[Any], tmp_path: Path) -> None:
    result = call("train", "distill", "c.pt", tmp_path, "run", "--stage", 2, "--stage", 1)
    assert result.exit_code == 0 and "steps-2/checkpoint.pt" in result.stdout
    assert seen[0][1]["stages"] == (2, 1)
    call("train", "distill", "c.pt", tmp_path, "run")
    assert seen[1][1]["stages"] == (4, 2, 1)


def test_ablate_prints_a_table(seen: list[Any], tmp_path: Path) -> None:
    result = call("train", "ablate", tmp_path, "run", "--steps", 5, "--expert", "e.pt")
    assert result.exit_code == 0, result.output
    head, row = result.stdout.splitlines()
    assert head.split() == ["psnr_db", "sync"] and row.split() == ["gan", "20.0", "0.5"]
    result = call("train", "ablate", tmp_path, "run", "--steps", 5)
    assert result.exit_code == 2 and "need --expert" in result.stderr


def test_ablate_of_units_wants_a_voice_and_a_painter(seen: list[Any], tmp_path: Path) -> None:
    units = ("train", "ablate", tmp_path, "run", "--family", "units", "--steps", 5)
    voice, init = ("--voice", "v.pt"), ("--init", "c.pt")
    for more in ((), voice, init, (*voice, *init, "--expert", "e.pt")):
        result = call(*units, *more)
        assert result.exit_code == 2 and "needs --voice and --init" in result.stderr and not seen
    result = call(*units, *voice, *init)
    assert result.exit_code == 0, result.output
    head, row = result.stdout.splitlines()
    assert head.split() == ["error"] and row.split() == ["all,", "cold", "0.0123"]
    assert seen[0][1]["init"] == Path("c.pt") and seen[0][1]["steps"] == 5


def test_help_names_every_command() -> None:
    shown = call("train", "-h").stdout
    assert all(
        name in shown
        for name in ("model", "voice", "syncnet", "distill", "ablate", "curves", "sheet")
    )
