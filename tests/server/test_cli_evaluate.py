"""`lipwire evaluate`: what is wrong is said before anything is measured; figures go where asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from engine.bundle import open_bundle
from server.cli import app

pytest.importorskip("torch")
FIGURES = {"clips": 2, "reconstruction": {"r": 0.5}}


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *(str(arg) for arg in args)])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the measurement is asked for, instead of measuring."""
    import training.evaluate

    asked: list[Any] = []

    def note(*args: Any, **named: Any) -> dict[str, Any]:
        asked.append(named)
        return FIGURES

    monkeypatch.setattr(training.evaluate, "evaluate", note)
    return asked


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(open_bundle().path, tmp_path / "lite"))


def test_figures_are_printed_kept_and_written(
    bundle: Path, tmp_path: Path, seen: list[Any]
) -> None:
    result = call(bundle, tmp_path, "--clips", 2, "--steps", 1, "--write", "--json",
                  tmp_path / "out.json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == FIGURES == json.loads((tmp_path / "out.json").read_text())
    assert seen == [{"clips": 2, "steps": (1,)}]
    assert open_bundle(bundle).manifest.quality == FIGURES


def test_bad_input_is_one_line_before_the_work(
    bundle: Path, tmp_path: Path, seen: list[Any]
) -> None:
    packed = tmp_path / "lite.lipwire"
    assert (
        CliRunner().invoke(app, ["bundle", "pack", str(bundle), "-o", str(packed)]).exit_code == 0
    )
    for args, cause in (
        ((bundle, tmp_path / "none"), "none: no such folder"),
        ((bundle, tmp_path, "--steps", 3), "not 3"),
        ((packed, tmp_path, "--write"), "is packed"),
        ((bundle, tmp_path, "--json", tmp_path / "no" / "out.json"), "no such folder"),
        ((tmp_path / "absent", tmp_path), "absent"),
    ):
        result = call(*args)
        assert result.exit_code == 2 and cause in result.stderr, (args, result.output)
        assert "Traceback" not in result.output
    assert not seen


def test_without_held_out_speakers_it_says_what_to_do(bundle: Path, tmp_path: Path) -> None:
    result = call(bundle, tmp_path)
    assert result.exit_code == 2 and "no val shards; run `lipwire prepare`" in result.stderr
