from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from lipwire.engine.errors import ConfigError
from lipwire.training.runlog import draw_curves

pytest.importorskip("matplotlib")


def test_curves_have_a_panel_for_each_loss(tmp_path: Path) -> None:
    lines = [{"step": i, "total": 1.0, "lr": 1e-3, "l2": 1 / i, "gan": -1.0} for i in range(1, 61)]
    figures = [{"step": i, "opening_r": i / 100} for i in (30, 60)]
    log = "".join(json.dumps(line) + "\n" for line in [*lines, *figures])
    (tmp_path / "stats.jsonl").write_text(
        log + '{"step": 61, "l'
    )  # as it looks while it is written
    draw_curves(tmp_path, tmp_path / "three.png", smooth=5)
    three = cv2.imread(str(tmp_path / "three.png"))
    (tmp_path / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(tmp_path, tmp_path / "two.png", smooth=100)
    two = cv2.imread(str(tmp_path / "two.png"))
    assert three.shape[1] == pytest.approx(1.5 * two.shape[1], rel=0.01) and two.min() < 100


def test_a_folder_without_a_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no stats.jsonl"):
        draw_curves(tmp_path, tmp_path / "x.png")
    (tmp_path / "stats.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no step in it yet"):
        draw_curves(tmp_path, tmp_path / "x.png")
