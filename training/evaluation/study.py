"""The paper's user study: a blind page for raters, and mean opinion scores of what they say.

OUT/index.html     the page; everything it needs is beside it, it can be opened as a file
OUT/media/*        the films under names that say nothing
OUT.key.json       which film is whose: kept out of OUT, so that OUT can be handed around
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from lipwire.engine.errors import ConfigError
from lipwire.engine.types import F64
from lipwire.training.data.shards import write_json
from lipwire.training.evaluation.lists import folder_pairs
from lipwire.training.evaluation.measures import DRAWS, Interval
from lipwire.training.evaluation.published import PAPER, TABLE_4
from lipwire.training.evaluation.table_files import Table

QUESTIONS = ("visual", "sync", "overall")
ASKED = {"visual": "Visual quality", "sync": "Lip-sync quality", "overall": "Overall quality"}
MAX_METHODS = 5  # side by side: more do not fit a screen, nor a memory
PLAYABLE = {".mp4", ".webm", ".mov"}  # that browsers play
_PLACE = "/*STUDY*/null"


def make_study(
    folders: Sequence[Path], out: Path, *, seed: int = 0, title: str = "Lip sync"
) -> list[str]:
    """Write the page.

    Args:
        folders: a folder of films for each method; films of one name are shown side by side.
        out: folder of the page; must not exist.
        seed: of the order in which films and sides are shown, with the rater's name.
        title: of the page.

    Returns:
        Names left out because a method lacks them.

    Raises:
        ConfigError: too few or too many folders, nothing in common, or `out` is there already.
    """
    names = [folder.name for folder in folders]
    if not 2 <= len(folders) <= MAX_METHODS or len(set(names)) < len(names):
        raise ConfigError(f"a study takes 2 to {MAX_METHODS} folders of different names")
    key_path = out.with_name(f"{out.name}.key.json")
    for path in (out, key_path):
        if path.exists():
            raise ConfigError(f"{path}: is there already; raters may have begun, choose another")
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent}: no such folder")
    shown, missing = [], []
    for name, first, others in folder_pairs(folders[0], folders[1:]):
        if all(path.is_file() for path in (first, *others)):
            shown.append((name, [first, *others]))
        else:
            missing.append(name)
    if not shown:
        raise ConfigError("the folders have not one film's name in common")
    for path in (path for _, paths in shown for path in paths):
        if path.suffix.lower() not in PLAYABLE:
            raise ConfigError(f"{path}: browsers play {', '.join(sorted(PLAYABLE))}; convert it")
    study = _digest(f"{seed}/{names}/{[name for name, _ in shown]}")
    items, owners = [], {}
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "media").mkdir(parents=True)
    for name, paths in shown:
        media = []
        for method, path in zip(names, paths, strict=True):
            opaque = _digest(f"{study}/{name}/{method}") + path.suffix.lower()
            shutil.copyfile(path, partial / "media" / opaque)
            media.append(opaque)
            owners[opaque] = method
        items.append({"id": _digest(f"{study}/{name}"), "media": sorted(media)})
    about = {
        "study": study,
        "title": title,
        "seed": seed,
        "items": items,
        "questions": [[q, ASKED[q]] for q in QUESTIONS],
    }
    template = (
        files("lipwire.training.evaluation").joinpath("study.html").read_text(encoding="utf-8")
    )
    assert template.count(_PLACE) == 1
    # `</` inside a script would end it.
    page = template.replace(_PLACE, json.dumps(about).replace("</", "<\\/"))
    (partial / "index.html").write_text(page, encoding="utf-8")
    write_json(
        key_path,
        {
            "study": study,
            "methods": names,
            "owners": owners,
            "items": {item["id"]: name for item, (name, _) in zip(items, shown, strict=True)},
        },
    )
    partial.rename(out)
    return missing


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- report ---


@dataclass(frozen=True, slots=True)
class Opinions:
    """What raters think of each method: (value, 95 % interval)."""

    raters: int
    ratings: int
    """items rated, over all raters"""
    unfinished: list[str]
    """raters who did not see everything; what they rated counts"""
    scores: dict[str, dict[str, tuple[float, Interval]]]
    """method -> visual, sync, overall (1 to 5), preference (percent)"""


def read_opinions(key_path: Path, paths: Sequence[Path]) -> Opinions:
    """Mean opinion scores and preference from what raters exported.

    Args:
        key_path: the study's key.
        paths: a JSON file of each rater.

    Raises:
        ConfigError: a file is unreadable, of another study, or a rater's second one.
    """
    key = _read(key_path)
    if not {"study", "methods", "owners", "items"} <= key.keys():
        raise ConfigError(f"{key_path}: is not a study's key")
    items, methods = list(key["items"]), key["methods"]
    columns = (*QUESTIONS, "preference")
    # NaN where a rater has not rated: [method, question, rater, item]
    table = np.full((len(methods), len(columns), len(paths), len(items)), np.nan)
    seen: dict[str, Path] = {}
    unfinished, count = [], 0
    for number, path in enumerate(paths):
        told = _read(path)
        if told.get("study") != key["study"]:
            raise ConfigError(f"{path}: is of another study")
        rater = str(told.get("rater"))
        if rater in seen:
            raise ConfigError(f"{path}: rater {rater!r} is in {seen[rater]} already")
        seen[rater] = path
        try:
            for rating in told["ratings"]:
                _enter(table[:, :, number, items.index(rating["item"])], rating, key)
                count += 1
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: a rating is not as the page writes it ({error})") from error
        if len(told["ratings"]) < len(items):
            unfinished.append(rater)
    scores = {
        method: {name: _mean(table[m, q]) for q, name in enumerate(columns)}
        for m, method in enumerate(methods)
    }
    return Opinions(len(paths), count, unfinished, scores)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: is not a JSON object")
    return found


def _enter(cells: F64, rating: dict[str, Any], key: dict[str, Any]) -> None:
    """One rater's view of one item into f64[method, question]."""
    for medium, scores in rating["scores"].items():
        method = key["methods"].index(key["owners"][medium])
        for q, question in enumerate(QUESTIONS):
            score = scores[question]
            if score not in (1, 2, 3, 4, 5):
                raise ValueError(f"score {score!r}")
            cells[method, q] = score
    preferred = key["methods"].index(key["owners"][rating["preferred"]])
    cells[:, len(QUESTIONS)] = 0
    cells[preferred, len(QUESTIONS)] = 100


def _mean(ratings: F64) -> tuple[float, Interval]:
    """Mean of f64[rater, item] and its 95 % interval, drawing raters and items again.

    Both are samples: other people would judge otherwise, and so would these of other films.
    """
    if not np.isfinite(ratings).any():
        return nan, (nan, nan)
    rng, drawn = np.random.default_rng(0), []
    people, films = ratings.shape
    for _ in range(DRAWS):
        part = ratings[rng.integers(0, people, people)][:, rng.integers(0, films, films)]
        known = part[np.isfinite(part)]
        if len(known):
            drawn.append(known.mean())
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(np.nanmean(ratings)), (float(low), float(high))


def opinion_table(opinions: Opinions) -> Table:
    """The paper's table 4 with ours beside the published columns."""

    def cell(value: tuple[float, Interval]) -> str:
        return f"{value[0]:.2f} ({value[1][0]:.2f} to {value[1][1]:.2f})"

    rows = []
    for name in (*QUESTIONS, "preference"):
        label = "Preference, % ↑" if name == "preference" else f"MOS ({ASKED[name]}) ↑"
        published = [f"{column[name]:.2f}" for column in TABLE_4.values()]
        rows.append((label, *published, *(cell(s[name]) for s in opinions.scores.values())))
    head = ("Measure", *(f"{name} (published)" for name in TABLE_4), *opinions.scores)
    foot = [
        f"(published): {PAPER}, table 4: 15 raters, 20 films of VoxCeleb2.",
        f"{opinions.raters} raters, {opinions.ratings} ratings; 95 % intervals by drawing "
        "raters and films again.",
    ]
    if opinions.unfinished:
        foot.append(f"Unfinished, counted as far as they came: {', '.join(opinions.unfinished)}.")
    return Table("User study, the paper's table 4", head, rows, tuple(foot))
