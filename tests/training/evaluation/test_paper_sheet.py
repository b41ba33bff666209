from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from toys import TINY_PAPER
from typer.testing import CliRunner

import lipwire.training.evaluation.paper_sheet
from lipwire.cli.main import app
from lipwire.training.data.batch import resized
from lipwire.training.data.dataset import load_clips
from lipwire.training.families import Family, Given, PaperFamily
from lipwire.training.lite.samples import CAPTION_PX
from lipwire.training.paper.trajectory import Moment, trajectory

SIZE, COLUMNS = 32, 4


@pytest.mark.parametrize(
    "about", [{}, {"student_steps": 2, "prediction": "v", "spacing": "trailing"}]
)
def test_a_sheet_of_the_papers_network(
    shards: Path, tmp_path: Path, about: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    heard = []

    def listening(family: Family, net: Any, given: Given, steps: int) -> list[Moment]:
        heard.append(given.mels)
        return trajectory(family, net, given, steps)

    monkeypatch.setattr(lipwire.training.evaluation.paper_sheet, "trajectory", listening)
    family = PaperFamily()
    net = family.build(TINY_PAPER)
    torch.nn.init.normal_(net.out[-1].weight, std=0.02)  # begins at 0 and would paint nothing
    path, out = tmp_path / "checkpoint.pt", tmp_path / "sheet.png"
    torch.save(
        {"family": "paper", "net_config": family.config(net), "ema": net.state_dict()} | about, path
    )
    options = f"--who speaker01 --split train --columns {COLUMNS}".split()
    command = ["train", "sheet", str(path), str(shards), *options, "-o", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    sheet = cv2.imread(str(out))[..., ::-1]
    painted, levels = (1, 2) if about else (2, 4)
    count = 2 + painted + 1 + 2 * levels
    assert sheet.shape == (count * SIZE, CAPTION_PX + COLUMNS * SIZE, 3)
    rows = sheet[:, CAPTION_PX:].reshape(count, SIZE, COLUMNS, SIZE, 3).swapaxes(1, 2)
    (clip,) = (c for c in load_clips(shards, "train") if c.speaker == "speaker01")
    order = np.argsort(clip.codes[:, 0], kind="stable")
    crops = [resized(np.asarray(clip.crops[i]), SIZE) for i in range(len(clip))]
    assert np.array_equal(rows[0, 0], crops[order[0]]), "the most closed mouth"
    assert np.array_equal(rows[0, -1], crops[order[-1]]), "the widest"
    assert np.array_equal(rows[1, 0], crops[(order[0] + len(clip) // 2) % len(clip)])
    assert (rows[2:, :, : SIZE // 2] == rows[:1, :, : SIZE // 2]).all(), "the upper half is its own"
    assert np.array_equal(rows[-1], rows[1 + painted]), "the last x0 is the result"
    assert torch.equal(heard[-1], heard[0].flip(0)), "and once to the sound of another column"
    hidden = rows[3 + painted, :, SIZE // 2 :].astype(float)
    assert hidden.std() > 50, "x_t begins as noise"
