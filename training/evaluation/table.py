"""Results -> the paper's tables 1 to 3, published rows beside ours."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lipwire.engine.errors import ConfigError
from lipwire.training.evaluation.frechet import Blocks, frechet_of_clips
from lipwire.training.evaluation.judge import REAL
from lipwire.training.evaluation.list_makers import ABLATION
from lipwire.training.evaluation.measures import Interval, bootstrap
from lipwire.training.evaluation.published import (
    CROSS,
    PAPER,
    RECONSTRUCTION,
    TABLE_1,
    TABLE_1_FIGURES,
    TABLE_2,
    TABLE_3,
    TABLE_3_FIGURES,
)
from lipwire.training.evaluation.store import Record, read_features, read_records, read_settings
from lipwire.training.evaluation.table_files import Table

# name -> how it is printed, and to how many digits
HEADINGS = {
    "fid": ("FID ↓", 2),
    "ssim": ("SSIM ↑", 3),
    "psnr_db": ("PSNR ↑", 2),
    "lmd_px": ("LMD ↓", 2),
    "sync_c": ("Sync_c ↑", 2),
    "sync_d": ("Sync_d ↓", 2),
    "frechet_gabor": ("Fréchet–Gabor ↓", 3),
    "lpips-vgg": ("LPIPS ↓", 3),
    "vgg": ("VGG ↓", 3),
    "gabor": ("Gabor ↓", 4),
    "r": ("r ↑", 3),
    "lag": ("lag, frames", 1),
    "flicker": ("flicker → 1", 2),
    "shape_px": ("shape, px ↓", 2),
    "identity": ("identity ↑", 3),
}
# Half of all clips are better: a lag of one film that says nothing must not move the figure.
MEDIANS = ("r", "lag")
FURTHER = (
    "frechet_gabor",
    "lpips-vgg",
    "vgg",
    "gabor",
    "r",
    "lag",
    "flicker",
    "shape_px",
    "identity",
)


class Figure(NamedTuple):
    """A value with its 95 % interval; NaN where there is none."""

    value: float
    interval: Interval = (nan, nan)


@dataclass(slots=True)
class Result:
    """One setting of one data set, all shards together."""

    dataset: str
    setting: str
    clips: int
    frames: int
    methods: dict[str, dict[str, Figure]]
    excluded: dict[str, list[str]] = field(default_factory=dict)
    """reason -> clips left out of every row"""
    left_out: dict[str, int] = field(default_factory=dict)
    """reason -> frames left out of every row"""
    described: dict[str, str] = field(default_factory=dict)
    """method -> what it is"""
    refused: dict[str, int] = field(default_factory=dict)
    """method -> pictures that it painted nothing into; they count as its own"""
    protocol: str = "call"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is not known is null."""

        def known(value: float) -> float | None:
            return round(value, 5) if isfinite(value) else None

        return {
            "dataset": self.dataset,
            "setting": self.setting,
            "clips": self.clips,
            "frames": self.frames,
            "excluded": self.excluded,
            "left_out": self.left_out,
            "described": self.described,
            "refused": self.refused,
            "protocol": self.protocol,
            "methods": {
                name: {f: [known(v.value), *map(known, v.interval)] for f, v in figures.items()}
                for name, figures in self.methods.items()
            },
        }


def summarise(folders: Sequence[Path]) -> list[Result]:
    """The results of folders; those of one list and one set of options are shards of one result.

    Raises:
        ConfigError: a folder holds no results, or not a single clip was measured.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        settings = read_settings(folder)
        groups[repr(sorted(settings.items(), key=lambda kv: kv[0]))].append(folder)
    return [_summary(group) for group in groups.values()]


def _summary(folders: Sequence[Path]) -> Result:
    settings = read_settings(folders[0])
    records = read_records(folders)
    measured = [r for _, r in sorted(records.items()) if "excluded" not in r]
    excluded: dict[str, list[str]] = defaultdict(list)
    for key, record in sorted(records.items()):
        if "excluded" in record:
            excluded[record["excluded"]].append(key)
    if not measured:
        why = ", ".join(f"{len(keys)} {reason}" for reason, keys in excluded.items()) or "none done"
        raise ConfigError(f"{folders[0]}: not one clip was measured ({why})")
    left_out: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for record in measured:
        left_out.update(record["left_out"])
        refused.update(record.get("refused", {}))
    names = dict.fromkeys(name for record in measured for name in record["methods"])
    methods = {name: _figures([r["methods"][name] for r in measured]) for name in names}
    frechet_name = "fid" if settings["weights"]["inception"] else "frechet_gabor"
    for name, figure in _frechet(measured, [n for n in names if n != REAL]).items():
        methods[name][frechet_name] = figure
    return Result(
        settings["dataset"],
        settings["setting"],
        len(measured),
        sum(r["frames"] for r in measured),
        methods,
        dict(excluded),
        dict(left_out),
        settings["methods"],
        dict(refused),
        " ".join(filter(None, (settings.get("protocol") or "call", settings.get("crop")))),
    )


def _figures(rows: Sequence[dict[str, float]]) -> dict[str, Figure]:
    names = dict.fromkeys(name for row in rows for name in row)
    found = {}
    for name in names:
        statistic: Callable[[Any], float] = np.median if name in MEDIANS else np.mean
        found[name] = Figure(*bootstrap([row.get(name, nan) for row in rows], statistic))
    return found


def _frechet(records: Sequence[Record], names: Sequence[str]) -> dict[str, Figure]:
    blocks: dict[str, Blocks] = defaultdict(Blocks)
    for record in records:
        for name, features in read_features(record).items():
            blocks[name].add(features)
    real = blocks[REAL].parts
    return {name: Figure(*frechet_of_clips(real, blocks[name].parts)) for name in names}


# --- layout ---


def tables(results: Sequence[Result], *, published: bool = True) -> list[Table]:
    """The paper's table 2, then what it does not have, with intervals."""
    rows: list[tuple[str, ...]] = []
    if published:
        for (dataset, method), (reconstruction, cross) in TABLE_2.items():
            values = [f"{value:.2f}" for value in (*reconstruction, *cross)]
            rows.append((dataset, f"{method} (published)", *values))
    for dataset, method, by_setting in _by_method(results):
        cells = [
            _cell(by_setting.get(setting, {}).get(name), name)
            for setting, names in (("reconstruction", RECONSTRUCTION), ("cross", CROSS))
            for name in names
        ]
        rows.append((dataset, method, *cells))
    head = (
        "Dataset",
        "Method",
        *(HEADINGS[n][0] for n in RECONSTRUCTION),
        *(f"cross {HEADINGS[n][0]}" for n in CROSS),
    )
    found = [Table("The paper's table 2", head, rows, _foot(results, published))]
    for result in results:
        names = [
            n
            for n in (*RECONSTRUCTION, *FURTHER)
            if any(n in figures for figures in result.methods.values())
        ]
        title = (
            f"{result.dataset}, {result.setting}: {result.clips} clips, {result.frames} frames; "
            "95 % intervals by bootstrap over clips"
        )
        head = ("Method", *(HEADINGS[n][0] for n in names))
        rows = [
            (method, *(_cell(figures.get(n), n, interval=True) for n in names))
            for method, figures in result.methods.items()
        ]
        foot = tuple(f"{name}: {what}" for name, what in result.described.items())
        found.append(Table(title, head, rows, foot))
    return found


def ablation_tables(results: Sequence[Result], *, published: bool = True) -> list[Table]:
    """The paper's tables 1 and 3: a row a setting, each with one more loss."""
    found = []
    for number, setting, names, rows_of in (
        (1, "reconstruction", TABLE_1_FIGURES, TABLE_1),
        (3, "cross", TABLE_3_FIGURES, TABLE_3),
    ):
        own = [result for result in results if result.setting == setting]
        rows: list[tuple[str, ...]] = []
        if published:
            rows += [
                ("VoxCeleb2", f"{losses} (published)", *(f"{value:g}" for value in values))
                for losses, values in rows_of.items()
            ]
        rows += [
            (result.dataset, method, *(_cell(figures.get(name), name) for name in names))
            for result in own
            for method, figures in result.methods.items()
            if method != REAL
        ]
        if rows:
            head = ("Dataset", "Losses", *(HEADINGS[name][0] for name in names))
            where = f"tables 1 and 3, on {ABLATION} clips of VoxCeleb2's test set"
            foot = _foot(own, published, where)
            found.append(Table(f"The paper's table {number}: {setting}", head, rows, foot))
    return found


def _by_method(results: Sequence[Result]) -> list[tuple[str, str, dict[str, dict[str, Figure]]]]:
    found: dict[tuple[str, str], dict[str, dict[str, Figure]]] = {}
    for result in results:
        for method, figures in result.methods.items():
            found.setdefault((result.dataset, method), {})[result.setting] = figures
    return [(dataset, method, by) for (dataset, method), by in found.items()]


def _cell(figure: Figure | None, name: str, *, interval: bool = False) -> str:
    if figure is None or not isfinite(figure.value):
        return "–"
    digits = HEADINGS[name][1]
    text = f"{figure.value:.{digits}f}"
    if interval and isfinite(figure.interval[0]):
        text += f" ({figure.interval[0]:.{digits}f} to {figure.interval[1]:.{digits}f})"
    return text


def _foot(
    results: Sequence[Result],
    published: bool,
    where: str = "table 2, on VoxCeleb2's and LRW's test sets",
) -> tuple[str, ...]:
    lines = []
    if published:
        lines.append(
            f"(published): {PAPER}, {where}; rows of other data sets are not to be "
            "compared with them."
        )
    names = {n for r in results for figures in r.methods.values() for n in figures}
    if "fid" not in names:
        lines.append(
            "No FID: Inception's weights were not given; Fréchet–Gabor is another measure."
        )
    if "sync_c" not in names:
        lines.append("No Sync_c, Sync_d: SyncNet's weights were not given.")
    lines.append("LMD is taken on MediaPipe's lip points in 128 px crops.")
    for result in results:
        if published and result.protocol == "call":
            lines.append(
                f"{result.dataset}, {result.setting}: cut out and put back as a call does "
                "it, which is not the paper's protocol (--protocol paper is)"
            )
        for method, count in result.refused.items():
            if count:
                lines.append(
                    f"{result.dataset}, {result.setting}: {method} painted nothing into "
                    f"{count} pictures, which are the original ones"
                )
        for reason, keys in result.excluded.items():
            shown = ", ".join(keys[:5]) + (", …" if len(keys) > 5 else "")
            lines.append(
                f"{result.dataset}, {result.setting}: clips left out of every row, "
                f"{reason}: {len(keys)} ({shown})"
            )
        for reason, count in result.left_out.items():
            lines.append(
                f"{result.dataset}, {result.setting}: frames left out of every row, {reason}: "
                f"{count}"
            )
    return tuple(lines)
