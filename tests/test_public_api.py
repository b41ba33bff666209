"""What users hold: names, signatures, commands, routes, metrics, statistics, settings, manifests.

Each must equal its snapshot in tests/data/snapshots. A change on purpose is written there by
`make snapshots`, and its diff shows what users will notice. Names of modules are left out: where
something lives is ours.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from calling import calling
from calls import Running, StripedBackend, keep_aiortc, until
from fakes import FakeTracker
from typer.testing import CliRunner

import lipwire.engine as public
from lipwire.engine import Engine, Manifest
from lipwire.server.api.app import create_app
from lipwire.server.config import ServerConfig

REPO = Path(__file__).resolve().parent.parent
SNAPSHOTS = REPO / "tests" / "data" / "snapshots"
WRITING = os.environ.get("LIPWIRE_SNAPSHOTS") == "write"


def check(name: str, text: str) -> None:
    """Compare with a snapshot, or write it."""
    file = SNAPSHOTS / name
    if WRITING:
        file.write_text(text)
    assert text.splitlines() == file.read_text().splitlines(), "on purpose? then: make snapshots"


# --- the package ---


def plain(text: object) -> str:
    """Without the names of modules, the place of the repository and addresses in memory."""
    said = re.sub(r" at 0x[0-9a-f]+", "", str(text)).replace(str(REPO), ".")
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+([A-Za-z_])", r"\1", said)


def signature(function: Any) -> str:
    """Of something that can be called."""
    return plain(inspect.signature(function)).replace("'", "")


def members(kind: type) -> Iterator[str]:
    """The public attributes of a class, a line each."""
    if issubclass(kind, enum.Enum):
        yield from (f"{one.name} = {one.value!r}" for one in kind)
    if dataclasses.is_dataclass(kind):
        yield from (f"{one.name}: {plain(one.type)}" for one in dataclasses.fields(kind))
    for name, value in sorted(vars(kind).items()):
        if isinstance(value, property):
            yield f"{name} -> {plain(inspect.signature(value.fget).return_annotation)}"
        elif inspect.isfunction(value) and (name in ("__enter__", "__exit__") or name[0] != "_"):
            yield f"{name}{signature(value)}"
        elif isinstance(value, (classmethod, staticmethod)) and name[0] != "_":
            yield f"{name}{signature(value.__func__)}"


def described(name: str) -> Iterator[str]:
    """One public name."""
    value = getattr(public, name)
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        made = "" if issubclass(value, (Exception, enum.Enum)) else signature(value)
        yield f"class {name}({bases}) {made}".rstrip()
        yield from (f"    {line}" for line in members(value))
    elif callable(value):
        yield f"def {name}{signature(value)}"
    else:
        yield f"{name} = {value!r}"


def test_names_and_signatures() -> None:
    check("api.txt", "\n".join(line for name in public.__all__ for line in described(name)) + "\n")


def test_fields_of_a_manifest() -> None:
    lines = [f"{one.name}: {plain(one.type)}" for one in dataclasses.fields(Manifest)]
    check("manifest.txt", "\n".join(lines) + "\n")


# --- the command line ---


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """A command and all below it."""
    yield path
    if hasattr(command, "list_commands"):
        context = command.context_class(command)
        for name in sorted(command.list_commands(context)):
            yield from commands(command.get_command(context, name), (*path, name))


def test_help_of_every_command() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    app = importlib.import_module(project["scripts"]["lipwire"].partition(":")[0]).app
    lines = []
    for path in commands(typer.main.get_command(app)):
        # So wide that nothing is wrapped; boxes and columns are the terminal's affair.
        shown = CliRunner().invoke(
            app, [*path, "--help"], prog_name="lipwire", env={"COLUMNS": "1000", "NO_COLOR": "1"}
        )
        assert shown.exit_code == 0, (path, shown.output)
        lines += [f"# {' '.join(('lipwire', *path))}", *map(unframed, shown.stdout.splitlines())]
    check("help.txt", "\n".join(line for line in lines if line) + "\n")


def unframed(line: str) -> str:
    """A line of a help text without its frame."""
    return " ".join(re.sub(r"[\u2500-\u257f]", " ", plain(line)).split())


# --- the server ---


def test_routes_and_their_bodies() -> None:
    document = create_app(ServerConfig()).openapi()
    document["info"]["version"] = "-"
    check("openapi.json", json.dumps(document, indent=1, sort_keys=True) + "\n")


async def test_names_of_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_aiortc(monkeypatch)
    with Engine(StripedBackend(), FakeTracker) as engine, Running(engine) as running:
        metrics = running.app.state.metrics
        metrics.observe("decode", 0.01)
        metrics.refused("token")
        metrics.answered("GET", "/healthz", 200, 0.01)
        async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
            text = (await client.get("/metrics")).text
    rows = [row.rpartition(" ")[0] for row in text.splitlines() if row[0] != "#"]
    # What the machine and the model are is another matter.
    rows = [re.sub(r"^(python_info|lipwire_build_info).*", r"\1", row) for row in rows]
    kinds = [row for row in text.splitlines() if row.startswith("# TYPE")]
    check("metrics.txt", "\n".join(sorted({*kinds, *rows})) + "\n")


def test_settings_of_a_server() -> None:
    lines = [
        f"{name}: {inspect.formatannotation(field.annotation)} = {field.default!r}"
        for name, field in ServerConfig.model_fields.items()
    ]
    check("settings.txt", plain("\n".join(lines)) + "\n")


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Every place in a JSON document that has a name."""
    if path:
        yield path
    if isinstance(value, dict) and path != ".passed_through":  # by reasons that occurred
        for name, inner in value.items():
            yield from keys(inner, f"{path}.{name}")
    if isinstance(value, list) and value:
        yield from keys(value[0], f"{path}[]")


async def test_keys_of_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_aiortc(monkeypatch)
    with Engine(StripedBackend(), FakeTracker) as engine, Running(engine) as running:
        async with (
            calling(running.url, name="studio"),
            httpx.AsyncClient(base_url=running.url, timeout=20) as client,
        ):
            session = running.app.state.sessions.get("studio")
            await until(lambda: bool(session.figures()["face"]["box"]), "the face is found")
            await until(lambda: bool(session.figures()["renditions"]), "sent")
            stats = (await client.get("/api/sessions/studio/stats")).json()
    check("stats.txt", "\n".join(sorted(keys(stats))) + "\n")
