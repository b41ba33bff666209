"""`lipwire evaluate`: what is wrong is said before anything is measured; figures go where asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip
from typer.testing import CliRunner, Result

from lipwire.cli.main import app
from lipwire.engine.model.bundle import open_bundle

pytest.importorskip("torch")
FIGURES = {"clips": 2, "reconstruction": {"r": 0.5}}


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *(str(arg) for arg in args)])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the measurement is asked for, instead of measuring."""
    import lipwire.training.evaluation.bundle

    asked: list[Any] = []

    def note(*args: Any, **named: Any) -> dict[str, Any]:
        asked.append(named)
        return FIGURES

    monkeypatch.setattr(lipwire.training.evaluation.bundle, "evaluate", note)
    return asked


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(open_bundle().path, tmp_path / "lite"))


def test_figures_are_printed_kept_and_written(
    bundle: Path, tmp_path: Path, seen: list[Any]
) -> None:
    result = call(
        bundle, tmp_path, "--clips", 2, "--steps", 1, "--write", "--json", tmp_path / "out.json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == FIGURES == json.loads((tmp_path / "out.json").read_text())
    assert seen == [{"clips": 2, "steps": (1,)}]
    assert open_bundle(bundle).manifest.quality == FIGURES


def test_bad_input_is_one_line_before_the_work(
    bundle: Path, tmp_path: Path, seen: list[Any]
) -> None:
    for args, cause in (
        ((bundle, tmp_path / "none"), "none: no such folder"),
        ((bundle, tmp_path, "--steps", 3), "not 3"),
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


# --- the paper's section 4 ---


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROOT with two films of a face."""
    root = tmp_path_factory.mktemp("films")
    for name in ("a", "bb"):
        write_clip(root / f"{name}.mp4", frames=14)
    return root


def test_from_a_list_to_the_table(films: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\nbb\nnone\n")
    out = tmp_path / "out"
    asked = ("list", tmp_path / "list.txt", films, "-o", out, "-m", "copy", "--dataset", "made")
    result = call(*asked)
    assert result.exit_code == 0, result.output
    assert "3 clips, 0 were there already, 2 measured, left out: 1 missing file" in result.stdout
    assert "3 clips, 3 were there already, 0 measured" in call(*asked).stdout
    shown = call("table", out)
    assert (
        "| made | copy |" in shown.stdout and "| VoxCeleb2 | Wav2Lip (published) |" in shown.stdout
    )
    assert "missing file: 1 (none)" in shown.stdout
    files = [tmp_path / f"t{suffix}" for suffix in (".md", ".csv", ".tex")]
    wanted = [arg for path in files for arg in ("-o", path)]
    assert call("table", out, *wanted, "--json", tmp_path / "t.json").exit_code == 0
    assert files[0].read_text(encoding="utf-8") == shown.stdout
    assert all("made" in path.read_text(encoding="utf-8") for path in files)
    [figures] = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert figures["clips"] == 2 and figures["methods"]["copy"]["r"][0] == 0.0


def test_finished_films_strips_and_a_study(films: Path, tmp_path: Path) -> None:
    fakes = [Path(shutil.copytree(films, tmp_path / name)) for name in ("one", "two")]
    result = call("videos", films, *fakes, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "2 clips, 0 were there already, 2 measured" in result.stdout
    drawn = call("strips", f"real={films / 'a.mp4'}", fakes[0] / "a.mp4", "-o", tmp_path / "s.png")
    assert drawn.exit_code == 0 and (tmp_path / "s.png").stat().st_size > 1000
    made = call("study", *fakes, "-o", tmp_path / "page")
    assert made.exit_code == 0 and (tmp_path / "page" / "index.html").is_file()
    (tmp_path / "r.json").write_text("{}")
    refused = call("study-report", tmp_path / "page.key.json", tmp_path / "r.json")
    assert refused.exit_code == 2 and "is of another study" in refused.stderr


def test_what_cannot_be_evaluated_is_one_line(films: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\n")
    asked = ("list", tmp_path / "list.txt", films, "-o", tmp_path / "out", "-m", "copy")
    for args, cause in (
        (("list", tmp_path / "no.txt", films, "-o", tmp_path / "out", "-m", "copy"), "not a list"),
        ((*asked, "-m", "copy"), "two methods have one name"),
        ((*asked, "--shard", "3/2"), "must be like 2/8"),
        ((*asked, "--syncnet", tmp_path / "no.model"), "no such checkpoint"),
        ((*asked, "--inception", tmp_path / "no.pt"), "FID needs Inception's weights"),
        (("videos", films, films, "-o", tmp_path / "out", "--voices", films), "belongs to"),
        (("videos", films, tmp_path, "-o", tmp_path / "out"), "holds no video"),
        (("table", tmp_path), "no folder of an evaluation"),
        (("strips", tmp_path / "no.mp4", "-o", tmp_path / "s.png"), "no such file"),
        (("study", films, "-o", tmp_path / "page"), "2 to 5 folders"),
    ):
        result = call(*args)
        assert result.exit_code == 2 and cause in result.stderr, (args, result.output)
        assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
