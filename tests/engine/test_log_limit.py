"""Faults: one in every frame must not fill the disk."""

from __future__ import annotations

import logging

import pytest

from lipwire.engine.log_limit import FAULTS_A_LINE, LogLimiter


def test_the_first_is_told_in_full_and_then_one_of_many(caplog: pytest.LogCaptureFixture) -> None:
    faults = LogLimiter(logging.getLogger("test"), "%s: %d frames failed so far", "100 %")
    with caplog.at_level(logging.ERROR):
        for index in range(2 * FAULTS_A_LINE):
            try:
                raise OSError("out of paper")
            except OSError as error:
                faults.record(error, "frame %d failed", index)
    assert [record.getMessage() for record in caplog.records] == [
        "frame 0 failed",
        f"100 %: {FAULTS_A_LINE} frames failed so far",
        f"100 %: {2 * FAULTS_A_LINE} frames failed so far",
    ]
    assert "OSError: out of paper" in caplog.text
    assert caplog.text.count("Traceback") == 1
