"""Each parser on damaged inputs, and the harness with a stand-in for libFuzzer."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuzzing.__main__ import INSTRUMENTED, fuzz, main
from fuzzing.parsers import Stalled, Target, attempt, targets

LARGEST = 65_536


def mutate(data: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """One to eight small damages: flips, cuts, repeats, lengths at their limits, splices."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(made) + 1)
        match rng.randrange(7):
            case 0 if made:
                made[place % len(made)] ^= 1 << rng.randrange(8)
            case 1 if made:
                made[place % len(made)] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                del made[place : place + rng.randint(1, 32)]
            case 3:
                made[place:place] = rng.randbytes(rng.randint(1, 16))
            case 4:
                made[place:place] = made[place : place + rng.randint(1, 64)] * rng.randint(1, 20)
            case 5:
                other = rng.choice(corpus)
                made[place:] = other[rng.randrange(len(other) + 1) :]
            case 6:
                value = rng.choice((0, 1, 0xFFFF, 0x7FFF, 0x8000)).to_bytes(2)
                made[place : place + 2] = value
    return bytes(made[:LARGEST])


@pytest.mark.parametrize("name", [n for n in targets() if n != "upload"])
def test_no_parser_fails_in_a_way_of_its_own(name: str) -> None:
    target, rng = targets()[name](), random.Random(7)
    inputs = list(target.seeds())
    for data in [*inputs, *(mutate(rng.choice(inputs), rng, inputs) for _ in range(150))]:
        # How long one takes is for the fuzzer: machines that run tests are busy.
        with contextlib.suppress(*target.refuses):
            target.run(data)


def test_faults_and_stalls_are_raised_and_refusals_are_not() -> None:
    def fragile(data: bytes) -> None:
        begun = time.thread_time()
        while data == b"slow" and time.thread_time() < begun + 0.06:
            pass
        if data == b"bad":
            raise KeyError("oh")
        raise ValueError

    target = Target(fragile, list, (ValueError,))
    attempt(target, b"fine")
    with pytest.raises(KeyError):
        attempt(target, b"bad")
    with pytest.raises(Stalled, match="took 0.0"):
        attempt(target, b"slow")


class StandIn:
    """What of atheris is used; tries each file of its folders once."""

    @contextlib.contextmanager
    def instrument_imports(self, include: list[str]) -> Iterator[None]:
        self.included = include
        yield

    def Setup(self, arguments: list[str], one: Callable[[bytes], None]) -> None:
        self.options = [a for a in arguments[1:] if a.startswith("-")]
        self.folders = [Path(a) for a in arguments[1:] if not a.startswith("-")]
        self._one = one

    def Fuzz(self) -> None:
        self.tried = [p.read_bytes() for folder in self.folders for p in folder.iterdir()]
        for data in self.tried:
            self._one(data)


@pytest.fixture
def thawed() -> Iterator[None]:
    """What the harness sets aside is collected again in the tests that follow."""
    yield
    gc.unfreeze()


def test_valid_inputs_and_kept_ones_are_tried(tmp_path: Path, thawed: None) -> None:
    kept, seeds = tmp_path / "kept", tmp_path / "seeds"
    kept.mkdir()
    seeds.mkdir()
    (kept / "earlier").write_bytes(b"failed")
    stand_in = StandIn()
    fuzz(stand_in, "pcm", ["-max_total_time=1", str(kept)], seeds)
    assert stand_in.included == INSTRUMENTED and stand_in.folders == [kept, seeds]
    assert stand_in.tried == [b"failed", bytes(1000)]
    assert "-max_total_time=1" in stand_in.options


def test_what_cannot_be_fuzzed_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there are sdp"):
        fuzz(StandIn(), "xml", [], tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install atheris"):
        main(["pcm"])
