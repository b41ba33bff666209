"""Wav2Lip's generator against numbers computed with the published implementation."""

from __future__ import annotations

from pathlib import Path

import torch
from goldens import fill_golden, load_golden, relative_error

from lipwire.engine.nets.wav2lip import Wav2Lip


def test_golden_keys_shapes_and_picture(shared_dir: Path) -> None:
    shapes, arrays = load_golden(shared_dir, "wav2lip_generator")
    net = Wav2Lip()
    assert {key: list(values.shape) for key, values in net.state_dict().items()} == shapes
    fill_golden(net)
    with torch.no_grad():
        out = net(torch.from_numpy(arrays["mel"]), torch.from_numpy(arrays["face"]).float())
    assert relative_error(out, arrays["output"]) < 1e-4
