"""Fuzzing by coverage: everything but libFuzzer itself, which a stand-in plays."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fuzz, parsers
from benchmarks.guided import INSTRUMENTED, guide
from engine.errors import ConfigError, LipwireError


class Left(Exception):
    """The process would have ended."""


class StandIn:
    """What of atheris is used; tries each file that it is given, over and over."""

    def __init__(self) -> None:
        self.included: list[str] = []

    @contextlib.contextmanager
    def instrument_imports(self, include: list[str]) -> Iterator[None]:
        self.included = include
        yield

    def Setup(self, arguments: list[str], one: Callable[[bytes], None]) -> None:
        self.folders = [Path(a) for a in arguments[1:] if not a.startswith("-")]
        self._one = one

    def Fuzz(self) -> None:
        inputs = [p.read_bytes() for folder in self.folders for p in folder.iterdir()]
        (self.folders[0] / "new").write_bytes(b"reached")
        while True:
            for data in inputs:
                self._one(data)


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """What guide() sets aside is collected again in the tests that follow."""
    yield
    gc.unfreeze()


def leave(figures: dict[str, Any]) -> None:
    raise Left(figures)


@pytest.mark.parametrize("kept", [False, True])
def test_valid_inputs_and_earlier_failures_are_tried_first(tmp_path: Path, kept: bool) -> None:
    (tmp_path / "pcm").mkdir()
    (tmp_path / "pcm" / "earlier").write_bytes(b"failed")
    stand_in = StandIn()
    with pytest.raises(Left) as left:
        guide(stand_in, "pcm", 0.05, tmp_path if kept else None, leave)
    figures = left.value.args[0]
    assert figures["inputs"] > 2 and figures["reached"] == 1 and figures["faults"] == []
    assert stand_in.included == INSTRUMENTED
    reached, first, failed = stand_in.folders
    assert not first.exists(), "nothing is left behind in a process that just ends"
    assert reached.exists() is failed.exists() is kept


def test_faults_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(data: bytes) -> None:
        if data == b"bad":
            raise KeyError
        raise ValueError  # also for the seeds: some targets refuse theirs

    target = parsers.Target(fragile, lambda: [b"good"], (ValueError,))
    monkeypatch.setattr(parsers, "targets", lambda: {"it": lambda: target})
    (tmp_path / "it-reached").mkdir()
    (tmp_path / "it-reached" / "a").write_bytes(b"bad")
    with pytest.raises(Left) as left:
        guide(StandIn(), "it", 0.05, tmp_path, leave)
    assert left.value.args[0]["faults"][0].startswith("KeyError")
    assert {path.read_bytes() for path in (tmp_path / "it").iterdir()} == {b"bad"}


def test_unknown_parsers_and_engines_are_named() -> None:
    with pytest.raises(LipwireError, match="there are sdp"):
        guide(StandIn(), "xml", 1, None, leave)
    with pytest.raises(LipwireError, match="there are chance, atheris"):
        fuzz.run(engine="luck")


def test_without_atheris_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "atheris" else found(name)
    )
    with pytest.raises(ConfigError, match="pip install atheris"):
        fuzz.run(minutes=0.01, engine="atheris")


@pytest.mark.parametrize("engine", fuzz.ENGINES)
def test_each_engine_is_a_program(engine: str) -> None:
    assert importlib.util.find_spec(fuzz.ENGINES[engine]) is not None
