"""EngineConfig says at once what is wrong with a setting."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import (
    BackendError,
    BacklogFull,
    BundleError,
    ConfigError,
    LipwireError,
    MediaError,
    SessionClosed,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delay_s": -0.1}, "delay_s is -0.1, must lie within 0.0 and 2.0"),
        ({"delay_s": 2.1}, "delay_s is 2.1"),
        ({"delay_s": float("nan")}, "delay_s is nan"),
        ({"delay_s": "1"}, "delay_s is '1', must be a number"),
        ({"patience_s": None}, "patience_s is None, must be a number"),
        ({"patience_s": 3}, "patience_s"),
        ({"speech_margin_s": -1}, "speech_margin_s"),
        ({"speech_backlog_max_s": 0.5}, "speech_backlog_max_s"),
        ({"speech_backlog_max_s": float("inf")}, "speech_backlog_max_s is inf"),
        ({"original_level": 1.5}, "original_level is 1.5, must lie within 0.0 and 1.0"),
        ({"steps": 0}, "steps is 0"),
        ({"fade_s": -1}, "fade_s is -1"),
        ({"min_face_px": 4}, "min_face_px is 4"),
        ({"min_side_px": 8}, "min_side_px is 8"),
        ({"min_side_px": 640, "max_side_px": 480}, "max_side_px is 480, must lie within 640"),
        ({"seed": -1}, "seed is -1"),
        ({"silence": "open"}, "silence is 'open', must be 'original' or 'generate'"),
    ],
)
def test_a_bad_value_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        EngineConfig(**changes)
    assert "\n" not in str(caught.value)


def test_good_values_are_taken() -> None:
    config = EngineConfig(delay_s=0, original_level=1, steps=4, silence="generate", seed=2**40)
    assert config.steps == 4
    EngineConfig(delay_s=np.float64(0.1), min_face_px=np.int64(20))  # type: ignore[arg-type]


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        EngineConfig().delay_s = 1.0  # type: ignore[misc]


def test_the_errors_are_one_tree() -> None:
    kinds = (BackendError, BacklogFull, BundleError, ConfigError, MediaError, SessionClosed)
    assert all(issubclass(kind, LipwireError) for kind in kinds)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(MediaError, ValueError)
