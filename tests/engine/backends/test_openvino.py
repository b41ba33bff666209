"""OpenVINO: the same picture as ONNX Runtime's, or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runtimes import SIZE, job, open_once, reseal

from lipwire.engine.backends import load_backend
from lipwire.engine.errors import BackendError
from lipwire.engine.model.bundle import open_bundle


@pytest.mark.parametrize(("half", "most", "mean"), [(True, 8, 0.25), (False, 1, 0.01)])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_openvino_paints_what_onnx_runtime_paints(
    steps: int, half: bool, most: int, mean: float
) -> None:
    """In bfloat16 within a quarter of a level on average: less than a codec's last bit."""
    open_once("openvino")
    backend = load_backend(open_bundle(), "openvino", threads=1, half=half, batch_sizes=(1, 2))
    jobs = [job(index, steps, seed=5) for index in range(3)]  # of which one is alone
    for found, wanted in zip(backend.generate(jobs), open_once("ort").generate(jobs), strict=True):
        difference = np.abs(found.astype(int) - wanted)[SIZE // 2 :]
        assert difference.max() <= most and difference.mean() <= mean
    backend.close()


def test_openvino_refuses_what_it_cannot_take(spoilt: Path) -> None:
    open_once("openvino")
    with pytest.raises(BackendError, match="on the CPU alone, not on 'cuda:0'"):
        load_backend(open_bundle(), "openvino", device="cuda:0")
    with pytest.raises(BackendError, match="was built for device 'cuda', not for 'cpu'"):
        load_backend(reseal(spoilt, device="cuda"), "openvino")
    with pytest.raises(BackendError, match="does not fit crops of 96 px"):
        load_backend(reseal(spoilt, crop_size=96), "openvino", batch_sizes=(1,))
    with pytest.raises(BackendError, match="OpenVINO failed|the graph's references is"):
        load_backend(reseal(spoilt, references=4), "openvino", batch_sizes=(1,))
    (spoilt / "step.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"step\.onnx: OpenVINO refuses it") as caught:
        load_backend(reseal(spoilt), "openvino", batch_sizes=(1,))
    assert "\n" not in str(caught.value)


def test_openvino_that_paints_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    open_once("openvino")
    monkeypatch.setattr("lipwire.engine.backends.openvino.TOLERANCE_LEVELS", -1.0)
    with pytest.raises(BackendError, match="pictures differ from ONNX Runtime's by 0.0 of 255"):
        load_backend(open_bundle(), "openvino", threads=1, half=False, batch_sizes=(1,))
    painted = job(0, 2)
    usual = open_once("ort")
    monkeypatch.setattr("lipwire.engine.backends.openvino.OrtBackend", None)  # is open already
    with pytest.raises(BackendError, match="by 0.0 of 255"):
        load_backend(
            open_bundle(), "openvino", threads=1, half=False, batch_sizes=(1,), reference=usual
        )
    assert usual.generate([painted])[0].std() > 5, "and stays open"
