"""The user study: a rater by keyboard in a real browser, and the scores of several."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip

from lipwire.benchmarks.rig.chromium import find_chromium
from lipwire.engine.errors import ConfigError
from lipwire.training.evaluation.study import QUESTIONS, make_study, opinion_table, read_opinions

CHROMIUM = find_chromium()
SOURCES = "videos => videos.map(video => video.getAttribute('src'))"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two methods with two films each, and one film that only the first has."""
    base = tmp_path_factory.mktemp("films")
    found = []
    for method in ("ours", "theirs"):
        (base / method).mkdir()
        for name in ("anna", "ben"):
            write_clip(base / method / f"{name}{'x' * len(method)}.mp4", frames=10)
            (base / method / f"{name}{'x' * len(method)}.mp4").rename(base / method / f"{name}.mp4")
        found.append(base / method)
    write_clip(base / "ours" / "only.mp4", frames=5)
    return found


@pytest.fixture
def study(folders: list[Path], tmp_path: Path) -> Path:
    assert make_study(folders, tmp_path / "study", seed=3, title="A </script> b") == ["only"]
    return tmp_path / "study"


def key_of(study: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(study.with_name("study.key.json").read_text())
    return found


def test_the_page_tells_nobody_whose_film_it_is(study: Path, folders: list[Path]) -> None:
    page, key = (study / "index.html").read_text(), key_of(study)
    assert sorted(key["items"].values()) == ["anna", "ben"]
    assert "//" not in page.replace("</", "") or "http" not in page, "nothing is fetched"
    for word in ("ours", "theirs", "anna"):
        assert word not in page and not any(word in p.name for p in study.rglob("*"))
    for medium, method in key["owners"].items():
        copies = [
            (study / "media" / medium).read_bytes() == path.read_bytes()
            for path in folders[0].parent.glob(f"{method}/*.mp4")
        ]
        assert any(copies)


def rating(key: dict[str, Any], item: str, ours: int, theirs: int, prefer: str) -> dict[str, Any]:
    made = json.loads(json.dumps({"item": item, "scores": {}}))
    from lipwire.training.evaluation.study import _digest

    for method, score in (("ours", ours), ("theirs", theirs)):
        medium = _digest(f"{key['study']}/{key['items'][item]}/{method}") + ".mp4"
        made["scores"][medium] = dict.fromkeys(QUESTIONS, score)
        if method == prefer:
            made["preferred"] = medium
    return made  # type: ignore[no-any-return]


def write_ratings(path: Path, study: str, rater: str, ratings: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"study": study, "rater": rater, "ratings": ratings}))
    return path


def test_scores_are_means_over_raters_and_films(study: Path, tmp_path: Path) -> None:
    key = key_of(study)
    first, second = key["items"]
    files = [
        write_ratings(
            tmp_path / "1.json",
            key["study"],
            "1",
            [rating(key, first, 5, 2, "ours"), rating(key, second, 4, 1, "ours")],
        ),
        write_ratings(tmp_path / "2.json", key["study"], "2", [rating(key, first, 3, 3, "theirs")]),
    ]
    found = read_opinions(study.with_name("study.key.json"), files)
    assert (found.raters, found.ratings, found.unfinished) == (2, 3, ["2"])
    for question in QUESTIONS:
        value, (low, high) = found.scores["ours"][question]
        assert value == pytest.approx(4.0) and 3 <= low <= value <= high <= 5
        assert found.scores["theirs"][question][0] == pytest.approx(2.0)
    assert found.scores["ours"]["preference"][0] == pytest.approx(200 / 3)
    table = opinion_table(found)
    assert table.head[1:] == (
        "Wav2Lip (published)",
        "PC-AVS (published)",
        "Diff2Lip (published)",
        "ours",
        "theirs",
    )
    assert table.rows[0][3] == "4.16" and table.rows[0][4].startswith("4.00 (")
    assert "Unfinished" in table.foot[-1]


def test_ratings_that_cannot_count_are_refused(study: Path, tmp_path: Path) -> None:
    key, key_path = key_of(study), study.with_name("study.key.json")
    item = next(iter(key["items"]))
    good = write_ratings(tmp_path / "1.json", key["study"], "1", [rating(key, item, 5, 2, "ours")])
    wrong = rating(key, item, 6, 2, "ours")
    for path, cause in (
        (write_ratings(tmp_path / "2.json", "other", "2", []), "another study"),
        (write_ratings(tmp_path / "3.json", key["study"], "1", []), "rater '1' is in"),
        (write_ratings(tmp_path / "4.json", key["study"], "4", [wrong]), "score 6"),
        (write_ratings(tmp_path / "5.json", key["study"], "5", [{"item": "x"}]), "as the page"),
        (tmp_path / "none.json", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=cause):
            read_opinions(key_path, [good, path])
    with pytest.raises(ConfigError, match="is not a study's key"):
        read_opinions(good, [good])


def test_studies_that_cannot_be(folders: list[Path], study: Path, tmp_path: Path) -> None:
    for given, out, cause in (
        (folders[:1], "new", "2 to 5 folders"),
        ([folders[0], folders[0]], "new", "different names"),
        (folders, "study", "is there already"),
        (folders, "none/new", "no such folder"),
    ):
        with pytest.raises(ConfigError, match=cause):
            make_study(given, tmp_path / out)
    other = tmp_path / "films" / "avi"
    other.mkdir(parents=True)
    (other / "anna.avi").write_bytes(b"x")
    with pytest.raises(ConfigError, match="browsers play"):
        make_study([folders[0], other], tmp_path / "new")


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Any]:
    """A browser's profile: what a page keeps is there for the next page."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=CHROMIUM,
            accept_downloads=True,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        yield made
        made.close()


def begin(context: Any, study: Path) -> Any:
    page = context.new_page()
    page.goto((study / "index.html").as_uri())
    page.fill("#rater", "Rater 7")
    page.keyboard.press("Enter")
    page.wait_for_selector("#form .cell.here")
    return page


@pytest.mark.browser
@pytest.mark.slow
def test_a_rater_by_keyboard_who_stops_and_comes_back(
    context: Any, study: Path, tmp_path: Path
) -> None:
    page = begin(context, study)
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    shown = page.eval_on_selector_all("video", SOURCES)
    page.wait_for_function("[...document.querySelectorAll('video')].every(v => v.readyState >= 2)")
    page.keyboard.press("Space")
    page.wait_for_function("[...document.querySelectorAll('video')].every(v => !v.paused)")
    assert page.eval_on_selector_all("video", "v => v.map(x => x.muted)") == [False, True]
    page.keyboard.press("s")
    assert page.eval_on_selector_all("video", "v => v.map(x => x.muted)") == [True, False]
    page.keyboard.press("Enter")
    assert "1 of 2" in page.inner_text("h1"), "not before all is rated"
    for score in "523344":  # visual A B, sync A B, overall A B
        page.keyboard.press(score)
    page.keyboard.press("ArrowUp")  # to sync of B, put right
    page.keyboard.press("1")
    page.keyboard.press("a")
    assert page.is_enabled("#next")
    page.close()  # in the middle of the first film: nothing is lost

    page = begin(context, study)
    assert "1 of 2" in page.inner_text("h1")
    assert page.eval_on_selector_all("video", SOURCES) == shown
    page.keyboard.press("Enter")
    assert "2 of 2" in page.inner_text("h1")
    for score in "111222":
        page.keyboard.press(score)
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.wait_for_selector("#save")
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    path = tmp_path / "ratings.json"
    saved.value.save_as(path)
    assert all(url.startswith("file:") for url in requested)

    told = json.loads(path.read_text())
    assert told["rater"] == "Rater 7" and len(told["ratings"]) == 2
    left, right = (src.removeprefix("media/") for src in shown)
    first = told["ratings"][0]
    assert first["shown"] == [left, right] and first["preferred"] == left
    assert first["scores"] == {
        left: {"visual": 5, "sync": 3, "overall": 4},
        right: {"visual": 2, "sync": 1, "overall": 4},
    }
    found = read_opinions(study.with_name("study.key.json"), [path])
    assert found.ratings == 2 and not found.unfinished


@pytest.mark.browser
@pytest.mark.slow
def test_raters_see_other_orders(context: Any, folders: list[Path], tmp_path: Path) -> None:
    make_study(folders, tmp_path / "study")
    seen = set()
    page = context.new_page()
    for rater in range(8):
        page.goto((tmp_path / "study" / "index.html").as_uri())
        page.fill("#rater", f"rater {rater}")
        page.keyboard.press("Enter")
        page.wait_for_selector("#form .cell.here")
        seen.add(tuple(page.eval_on_selector_all("video", SOURCES)))
    assert len(seen) > 2, "which film comes first, and on which side, is up to chance"
