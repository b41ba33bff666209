from __future__ import annotations

from pathlib import Path

import pytest

from lipwire.engine.errors import ConfigError
from lipwire.training.evaluation import list_makers
from lipwire.training.evaluation.list_makers import make_voxceleb2_lists
from lipwire.training.evaluation.lists import read_list


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Nine people with two videos each, of two utterances each."""
    for person in range(9):
        for video in ("b_first", "c_second"):
            folder = tmp_path / "vox" / "test" / "mp4" / f"id{person:05d}" / video
            folder.mkdir(parents=True)
            for utterance in ("00012", "00007"):
                (folder / f"{utterance}.mp4").touch()
    return tmp_path / "vox"


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_the_rules_of_the_paper(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_makers, "IDENTITIES", 4)
    monkeypatch.setattr(list_makers, "ABLATION", 5)
    monkeypatch.setattr(list_makers, "STUDY", 3)
    out = tmp_path / "lists"
    counts = make_voxceleb2_lists(films, out)
    assert counts == {
        "reconstruction": 18,
        "cross": 12,
        "ablation-reconstruction": 5,
        "ablation-cross": 5,
        "study": 3,
    }
    first = lines(out / "reconstruction.txt")
    assert first[0] == "id00000/b_first/00007 id00000/b_first/00007"
    assert all(line.split()[0].endswith("/00007") for line in first), "first utterances"
    pairs = [tuple(line.split()) for line in lines(out / "cross.txt")]
    assert len(set(pairs)) == 12 and all(
        a != b and "b_first" in a and "b_first" in b for a, b in pairs
    )
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 4
    assert set(lines(out / "ablation-cross.txt")) < set(lines(out / "cross.txt"))
    for line in lines(out / "study.txt"):
        sound, picture = line.split()
        assert sound in {name.split()[0] for name in first} and picture[:7] != sound[:7]
    assert read_list(out / "reconstruction.txt", films)[0] == "reconstruction"
    setting, found = read_list(out / "cross.txt", films)
    assert setting == "cross" and all(p.audio.is_file() and p.video.is_file() for p in found)

    before = {path.name: path.read_text() for path in out.iterdir()}
    make_voxceleb2_lists(films, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == before, "the same again"
    make_voxceleb2_lists(films, out, seed=1)
    assert lines(out / "cross.txt") != before["cross.txt"].splitlines()[1:], (
        "others by another seed"
    )


def test_as_many_as_there_are(films: Path, tmp_path: Path) -> None:
    counts = make_voxceleb2_lists(films, tmp_path / "lists")
    assert counts == {
        "reconstruction": 18,
        "cross": 72,
        "ablation-reconstruction": 18,
        "ablation-cross": 72,
        "study": 18,
    }


def test_a_folder_without_such_films_is_named(tmp_path: Path, films: Path) -> None:
    with pytest.raises(ConfigError, match="no film lies there as VoxCeleb2's do"):
        make_voxceleb2_lists(tmp_path / "lists", tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        make_voxceleb2_lists(films, tmp_path / "file" / "lists")
