"""What loads what: packages and their rooms point one way, and the engine starts light; no file is
long.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

import lipwire
from lipwire import engine

REPO = Path(__file__).resolve().parents[1]
FOLDERS = ("engine", "server", "export", "training", "benchmarks")
PACKAGES = {
    "engine": set(),
    "server": {"engine"},
    "export": {"engine"},
    "training": {"engine"},
    "benchmarks": {"engine", "server", "export"},
    "lipwire": set(FOLDERS),
}
# What the rooms of a package may import of its others. A folder is a room, and so is a module that
# lies beside them; an __init__ that only gathers names stands above all.
BASE = {"engine.types", "engine.config", "engine.errors", "engine.trace", "engine.log_limit"}
ROOMS: dict[str, set[str]] = {
    "engine.errors": set(),
    "engine.trace": set(),
    "engine.log_limit": set(),
    "engine.signals": set(),
    "engine.config": {"engine.errors"},
    "engine.types": {"engine.trace"},
    "engine.audio": BASE,
    "engine.face": BASE,
    "engine.media": BASE,
    "engine.overload": BASE,
    "engine.compositing": BASE | {"engine.face", "engine.media"},
    "engine.units": BASE | {"engine.face", "engine.compositing"},
    "engine.model": BASE | {"engine.audio", "engine.face"},
    "engine.nets": BASE | {"engine.audio", "engine.face", "engine.model"},
    "engine.backends": BASE | {"engine.audio", "engine.face", "engine.model", "engine.nets"},
    "engine.session": BASE
    | {"engine.audio", "engine.face", "engine.media", "engine.overload", "engine.compositing"}
    | {"engine.units"},
    "engine.runtime": BASE
    | {"engine.session", "engine.backends", "engine.model", "engine.overload", "engine.face"}
    | {"engine.units"},
    "server.config": set(),
    "server.ops": {"server.config"},
    "server.rtc": {"server.config"},
    "server.media": {"server.config", "server.rtc"},
    "server.dub": {"server.config", "server.media"},
    "server.call": {"server.config", "server.ops", "server.rtc", "server.media"},
    "server.cluster": {"server.config", "server.api"},
    "server.api": {"server.config", "server.ops", "server.rtc", "server.media", "server.call"},
    "training.processes": set(),
    "training.checkpoint": set(),
    "training.runlog": set(),
    "training.lean": {"training.checkpoint"},
    "training.nets": {"training.checkpoint"},
    "training.losses": {"training.nets"},
    "training.config": {"training.losses"},
    "training.data": {"training.nets", "training.processes"},
    "training.objective": {"training.data"},
    "training.families": {"training.checkpoint", "training.config", "training.losses"},
    "training.loop": {"training.checkpoint", "training.config", "training.data"}
    | {"training.objective", "training.runlog"},
    "training.paper": {"training.checkpoint", "training.config", "training.data"}
    | {"training.families", "training.loop", "training.losses", "training.nets"}
    | {"training.objective"},
    "training.lite": {"training.checkpoint", "training.config", "training.data"}
    | {"training.families", "training.loop", "training.losses", "training.nets"}
    | {"training.objective", "training.paper", "training.lean"},
    "training.evaluation": {"training.checkpoint", "training.config", "training.data"}
    | {"training.families", "training.lite", "training.loop", "training.nets"}
    | {"training.paper", "training.processes"},
    "benchmarks.harness": set(),
    "benchmarks.rig": {"benchmarks.harness"},
    "benchmarks.live": {"benchmarks.harness", "benchmarks.rig"},
    "benchmarks.model": {"benchmarks.harness", "benchmarks.rig"},
}
# Off the first breath of `import lipwire`, whatever is done with it later.
HEAVY = (
    "torch",
    "mediapipe",
    "ai_edge_litert",
    "onnxruntime",
    "cv2",
    "av",
    "soxr",
    "webrtcvad",
    "onnx",
    "jax",
)


def modules() -> dict[str, Path]:
    """Every module that is installed, by its name without `lipwire.` in front."""
    paths = [p for folder in FOLDERS for p in (REPO / folder).rglob("*.py")]
    found = {".".join(p.relative_to(REPO).with_suffix("").parts): p for p in paths}
    for path in (REPO / "lipwire").rglob("*.py"):
        found[".".join(path.relative_to(REPO).with_suffix("").parts)] = path
    return {name.removesuffix(".__init__"): path for name, path in sorted(found.items())}


MODULES = modules()


def imported(path: Path) -> set[str]:
    """What a file imports wherever it does so, for its types alone included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(path: Path) -> set[str]:
    """The modules of ours that a file imports, named as in `MODULES`."""
    found = set()
    for name in imported(path):
        top, _, rest = name.partition(".")
        assert top not in FOLDERS, f"{path} imports {name} by its folder"
        if top == "lipwire":
            known = rest if rest.partition(".")[0] in FOLDERS else name
            while known not in MODULES:
                known = known.rpartition(".")[0] or "lipwire"
            found.add(known)
    return found


def room(module: str) -> str:
    """engine.face.mesh and engine.face -> engine.face; engine -> engine."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_point_one_way(package: str) -> None:
    inside = [name for name in MODULES if name.split(".")[0] == package]
    assert inside, f"{package} has no modules: is the test looking in the right place?"
    allowed = PACKAGES[package] | {package}
    wrong = [
        f"{name} imports {other}"
        for name in inside
        for other in ours(MODULES[name])
        if other.split(".")[0] not in allowed
    ]
    assert not wrong


def test_every_room_is_in_the_table_and_the_table_has_no_circle() -> None:
    rooms = {room(name) for name in MODULES if "." in name}
    rooms -= {name for name in rooms if name.split(".")[0] in ("export", "lipwire")}
    # Files of data, and what is installed with them.
    assert rooms - {"engine.bundles"} == set(ROOMS)
    list(TopologicalSorter(ROOMS).static_order())


def test_rooms_import_what_the_table_allows() -> None:
    wrong = []
    for name, path in MODULES.items():
        here = room(name)
        if here not in ROOMS:
            continue
        for other in ours(path):
            there = room(other)
            if there in ROOMS and there.split(".")[0] == here.split(".")[0]:
                if there != here and there not in ROOMS[here]:
                    wrong.append(f"{name} imports {other}")
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not for their types alone either: a reader has nowhere to begin in a circle."""
    arrows = {name: ours(path) - {name, "lipwire"} for name, path in MODULES.items()}
    # An __init__ that gathers names is above what it gathers, but the modules below say
    # `from lipwire.engine import ...` only where they are outside of that package.
    for name in arrows:
        arrows[name] -= {other for other in arrows[name] if name.startswith(f"{other}.")}
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_engine_is_not_asynchronous_and_opens_no_sockets() -> None:
    forbidden = {"asyncio", "socket", "aiortc", "fastapi", "uvicorn"}
    for name, path in MODULES.items():
        if name.split(".")[0] == "engine":
            assert not {other.split(".")[0] for other in imported(path)} & forbidden, name


@pytest.mark.parametrize(
    "folder", [*FOLDERS, "lipwire/cli", "fuzzing", "clients", "examples", "docs", "tests"]
)
def test_no_file_is_longer_than_400_lines(folder: str) -> None:
    paths = [p for p in (REPO / folder).rglob("*.py") if "node_modules" not in p.parts]
    assert paths
    lines = {str(path): len(path.read_text("utf-8").splitlines()) for path in paths}
    assert {path: count for path, count in lines.items() if count > 400} == {}


def test_importing_the_engine_is_light() -> None:
    code = f"""
import sys
import lipwire
import lipwire.engine.face.tracker
import lipwire.engine.session.face_pipeline
import lipwire.engine.media.files
import lipwire.engine.backends
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=REPO,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_exported_name_is_there_and_none_is_forgotten() -> None:
    assert len(set(engine.__all__)) == len(engine.__all__)
    assert all(hasattr(engine, name) for name in engine.__all__)
    public = {
        name
        for name, value in vars(engine).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "").startswith("lipwire.engine.")
    }
    assert public <= set(engine.__all__)
    assert set(lipwire.__all__) == {"__version__", *engine.__all__}
    assert all(getattr(lipwire, name) is getattr(engine, name) for name in engine.__all__)


def test_the_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """Where its reports are on, loading it makes a database for them in the home folder."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for code in ("import lipwire.engine.backends.ort", "import lipwire.cli.doctor, onnxruntime"):
        command = [sys.executable, "-c", code]
        subprocess.run(command, check=True, env=environment, cwd=REPO)
        assert not list(tmp_path.rglob("onnxruntime*"))


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_reports_to_nobody(tmp_path: Path) -> None:
    """It keeps a number for who it reports of in the home folder, once it may."""
    code = (
        "import sys, lipwire.engine.backends.openvino\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env=environment,
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]" and not list(tmp_path.iterdir())
