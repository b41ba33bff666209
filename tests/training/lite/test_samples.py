from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lipwire.engine.errors import ConfigError
from lipwire.engine.nets.lite import LiteConfig, LiteNet
from lipwire.training.data.dataset import load_clips
from lipwire.training.lite.samples import CAPTION_PX, speaker_sheet

SMALL = LiteConfig(widths=(8, 16, 24, 32), embed=32, voice_width=32)


def test_a_sheet_shows_the_chosen_person_alone(shards: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    clips = load_clips(shards, "train")
    speaker_sheet(LiteNet(SMALL), clips, "speaker01", tmp_path / "sheet.png", columns=4)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    # input, two references, 1, 2 and 8 steps, x_t and x0 of both steps of two
    assert sheet.shape == (10 * 128, CAPTION_PX + 4 * 128, 3)
    rows = sheet[:, CAPTION_PX:].reshape(10, 128, 4, 128, 3).swapaxes(1, 2)
    (clip,) = (c for c in clips if c.speaker == "speaker01")
    order = np.argsort(clip.codes[:, 0], kind="stable")
    assert np.array_equal(rows[0, 0], clip.crops[order[0]]), "the most closed mouth"
    assert np.array_equal(rows[0, 3], clip.crops[order[-1]]), "the widest"
    own = {crop.tobytes() for crop in clip.crops}
    assert all(picture.tobytes() in own for row in rows[:3] for picture in row)
    assert (rows[:, :, :64] == rows[:1, :, :64])[3:].all(), "the upper half is the input's"
    x_t, x0 = (np.abs(np.diff(rows[row, :, 64:].astype(float), axis=1)).mean() for row in (6, 7))
    assert x_t > 3 * x0, "noise, and what it is taken for"
    assert np.array_equal(rows[9], rows[4]), "the last x0 is the result"


def test_a_name_that_nobody_has_is_an_error(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contains 'nobody'; speakers are speaker00"):
        speaker_sheet(LiteNet(SMALL), load_clips(shards, "train"), "nobody", tmp_path / "x.png")
