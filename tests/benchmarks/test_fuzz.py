"""R7 in short: each parser for a moment; and the fuzzer finds what it looks for."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from benchmarks.fuzz import Watch, fuzz_one, mutate
from benchmarks.parsers import Target, targets
from engine.errors import LipwireError


@pytest.mark.parametrize("name", [n for n in targets() if n != "upload"])
def test_no_parser_fails_in_a_way_of_its_own(name: str) -> None:
    found = fuzz_one(name, 0.7, None, seed=7)
    assert found["inputs"] > 5
    # How long one takes is for `lipwire bench fuzz`: machines that run tests are busy.
    assert [fault for fault in found["faults"] if not fault.startswith("took")] == []


def test_faults_and_stalls_are_found_and_kept(tmp_path: Path) -> None:
    def fragile(data: bytes) -> None:
        if data == b"slow":
            begun = time.thread_time()
            while time.thread_time() < begun + 0.06:
                pass
        if data == b"bad":
            raise KeyError("oh")
        raise ValueError

    watch = Watch(Target(fragile, list, (ValueError,)), tmp_path)
    for data in (b"fine", b"slow", b"bad"):
        watch(data)
    figures = watch.figures()
    assert figures["inputs"] == 3 and figures["refused"] == 2
    assert [fault.split()[0] for fault in figures["faults"]] == ["took", "KeyError:"]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"slow", b"bad"}


def test_mutations_differ_and_stay_small() -> None:
    rng = random.Random(1)
    made = {mutate(b"hello world", rng, [b"other"]) for _ in range(200)}
    assert len(made) > 150 and max(map(len, made)) <= 65_536
    assert mutate(b"", rng, [b""]) is not None


def test_unknown_parsers_are_named() -> None:
    with pytest.raises(LipwireError, match="there are sdp"):
        fuzz_one("xml", 1, None)
