"""Choice: what makes no sense is refused with its cause."""

from __future__ import annotations

import pytest

from lipwire.engine.errors import ConfigError
from lipwire.engine.face.policy import Choice


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "say policy, next, index or position"),
        ({"policy": "prettiest"}, "policy is 'prettiest', must be one of"),
        ({"policy": "position"}, "needs a position"),
        ({"policy": "lips", "next": True}, "not both"),
        ({"next": True, "index": 1}, "not by several"),
        ({"index": -1}, "index is -1"),
        ({"position": (0.5, 1.2)}, "must lie within 0 and 1"),
        ({"position": (float("nan"), 0.2)}, "must lie within 0 and 1"),
    ],
)
def test_choices_that_make_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Choice(**wrong)  # type: ignore[arg-type]
