from __future__ import annotations

import numpy as np

from lipwire.training.data.dataset import other_frame


def test_the_reference_is_another_frame() -> None:
    rng = np.random.default_rng(0)
    codes = np.zeros((40, 7), np.float32)
    for index in (0, 20, 39):
        drawn = {other_frame(codes, index, rng) for _ in range(200)}
        assert min(abs(d - index) for d in drawn) >= 4


def test_the_reference_prefers_another_mouth() -> None:
    rng = np.random.default_rng(0)
    codes = np.zeros((40, 7), np.float32)
    codes[20:, 0] = 5
    drawn = [other_frame(codes, 2, rng) for _ in range(100)]
    assert np.mean([codes[d, 0] == 5 for d in drawn]) > 0.85
