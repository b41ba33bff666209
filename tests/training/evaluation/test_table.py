"""The paper's table with its rows beside ours, in three formats; strips of frames."""

from __future__ import annotations

import csv
from math import nan
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipwire.engine.errors import ConfigError, MediaError
from lipwire.training.evaluation.strips import LABEL_PX, TILE_PX, draw_strips
from lipwire.training.evaluation.table import Figure, Result, ablation_tables, tables
from lipwire.training.evaluation.table_files import to_csv, to_latex, to_markdown, write_tables

OURS = {
    "fid": Figure(3.5),
    "ssim": Figure(0.612, (0.6, 0.63)),
    "psnr_db": Figure(21.0, (20, 22)),
    "lmd_px": Figure(1.5),
    "sync_c": Figure(nan),
    "r": Figure(0.59, (0.5, 0.6)),
}
RECONSTRUCTION = Result(
    "our_set",
    "reconstruction",
    40,
    1500,
    {"lite": OURS, "copy": {"ssim": Figure(0.6)}},
    {"no face": [f"clip{i}" for i in range(7)]},
    {"no face": 12},
    {"lite": "lite 0.2.0"},
)
CROSS = Result("our_set", "cross", 9, 300, {"lite": {"fid": Figure(4.25)}})


def test_both_settings_share_a_row_and_published_rows_stand_above() -> None:
    first, *others = tables([RECONSTRUCTION, CROSS])
    assert first.head[2:9] == (
        "FID ↓",
        "SSIM ↑",
        "PSNR ↑",
        "LMD ↓",
        "Sync_c ↑",
        "Sync_d ↓",
        "cross FID ↓",
    )
    # Diff2Lip, table 2.
    published = "2.46 0.53 18.09 3.04 8.78 5.93 4.53 4.82 7.62 6.73".split()
    assert ("VoxCeleb2", "Diff2Lip (published)", *published) in first.rows
    ours = "3.50 0.612 21.00 1.50 – – 4.25 – – –".split()
    assert ("our_set", "lite", *ours) in first.rows
    assert [len(row) for row in first.rows] == [12] * 8
    assert "SSIM ↑" in others[0].head and others[0].rows[0][2] == "0.612 (0.600 to 0.630)"
    assert len(tables([CROSS], published=False)[0].rows) == 1


def test_tables_1_and_3_have_a_row_for_each_set_of_losses() -> None:
    first, third = ablation_tables([RECONSTRUCTION, CROSS])
    assert first.head[1:] == ("Losses", "FID ↓", "SSIM ↑", "PSNR ↑", "LMD ↓", "Sync_c ↑")
    assert first.rows[3] == (
        "VoxCeleb2",
        "+ Seq. GAN (published)",
        "8.213",
        "0.527",
        "18.52",
        "3.101",
        "7.89",
    )
    assert first.rows[4] == ("our_set", "lite", "3.50", "0.612", "21.00", "1.50", "–")
    assert third.rows[1] == ("VoxCeleb2", "+ SyncNet (published)", "8.784", "4.816", "5.946")
    assert third.rows[4] == ("our_set", "lite", "4.25", "–", "–")
    assert "tables 1 and 3, on 500 clips" in first.foot[0]
    (only,) = ablation_tables([CROSS], published=False)
    assert only.title.startswith("The paper's table 3") and len(only.rows) == 1


def test_the_foot_says_what_was_left_out_and_what_is_not_there() -> None:
    foot = "\n".join(tables([RECONSTRUCTION])[0].foot)
    assert "clips left out of every row, no face: 7 (clip0, clip1, clip2, clip3, clip4, …)" in foot
    assert "frames left out of every row, no face: 12" in foot
    assert "rows of other data sets are not to be compared" in foot
    assert "No FID" not in foot and "No Sync_c" not in foot


def test_three_formats(tmp_path: Path) -> None:
    found = tables([RECONSTRUCTION, CROSS])
    markdown = to_markdown(found)
    assert markdown.count("| our_set | lite | 3.50 |") == 1
    rows = list(csv.reader(line for line in to_csv(found).splitlines() if line[:1] != "#"))
    assert ["our_set", "copy", "–", "0.600"] in [row[:4] for row in rows]
    latex = to_latex(found)
    assert r"our\_set & lite & 3.50 & 0.612" in latex and "%" not in latex.replace(r"\%", "")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3
    for suffix, text in ((".md", markdown), (".tex", latex)):
        write_tables(found, tmp_path / f"t{suffix}")
        assert (tmp_path / f"t{suffix}").read_text(encoding="utf-8") == text
    with pytest.raises(ConfigError, match="must end in one of"):
        write_tables(found, tmp_path / "t.xlsx")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_tables(found, tmp_path / "none" / "t.md")


def test_strips_show_a_row_a_film(root: Path, tmp_path: Path) -> None:
    films = [("real", root / "clip.mp4"), ("other", root / "clipxx.mp4")]
    for mouths in (False, True):
        draw_strips(films, tmp_path / "s.png", columns=5, mouths=mouths)
        sheet = cv2.imread(str(tmp_path / "s.png"))
        assert sheet is not None and sheet.shape == (2 * TILE_PX, LABEL_PX + 5 * TILE_PX, 3)
        rows = np.split(sheet[:, LABEL_PX:], 2)
        assert (rows[0] != rows[1]).any() and sheet[:, LABEL_PX:].std() > 20
    # A film without a face is shown whole, but has no mouth.
    draw_strips([("none", root / "faceless.mp4")], tmp_path / "s.png", columns=2)
    with pytest.raises(MediaError, match="shows no face"):
        draw_strips([("none", root / "faceless.mp4")], tmp_path / "s.png", mouths=True)
    with pytest.raises(ConfigError, match="cannot be written"):
        draw_strips(films, tmp_path / "none" / "s.png")
