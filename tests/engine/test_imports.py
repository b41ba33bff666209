"""What loads what: the engine starts light, and the packages point one way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import engine

REPO = Path(__file__).resolve().parents[2]
OURS = {"engine", "server", "export", "training", "benchmarks"}
MAY_IMPORT = {
    "engine": {"engine"},
    "server": {"engine", "server"},
    "export": {"engine", "export"},
    "training": {"engine", "training"},
    "benchmarks": OURS,
}
# The command line hands over to these, inside the command that needs them.
HANDED_OVER = {("server/cli_export.py", "export"), ("server/cli_evaluate.py", "training"),
               ("server/cli_data.py", "training"), ("server/cli_train.py", "training"),
               ("server/cli_bench.py", "benchmarks"),
               ("server/doctor.py", "benchmarks")}  # fmt: skip
# Off the first breath of `import engine`, whatever is done with it later.
HEAVY = ("torch", "mediapipe", "onnxruntime", "cv2", "av", "soxr", "webrtcvad", "onnx", "jax")


def imports(path: Path) -> set[tuple[str, bool]]:
    """Packages that a file imports, and whether it does so when it is loaded itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inside |= {id(child) for child in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays in its own package.
            names = [node.module or ""] if node.level == 0 else [path.relative_to(REPO).parts[0]]
        else:
            continue
        found |= {(name.split(".")[0], id(node) not in inside) for name in names}
    return found


def files(package: str) -> list[Path]:
    return sorted((REPO / package).rglob("*.py"))


@pytest.mark.parametrize("package", sorted(OURS))
def test_packages_point_one_way(package: str) -> None:
    assert files(package), f"{package} has no files: is the test looking in the right place?"
    wrong = []
    for path in files(package):
        name = path.relative_to(REPO).as_posix()
        for imported, at_once in imports(path):
            if imported not in OURS or imported in MAY_IMPORT[package]:
                continue
            if not at_once and (name, imported) in HANDED_OVER:
                continue
            wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_the_engine_is_not_asynchronous_and_opens_no_sockets() -> None:
    forbidden = {"asyncio", "socket", "aiortc", "fastapi", "uvicorn"}
    for path in files("engine"):
        assert not {name for name, _ in imports(path)} & forbidden, path


def test_importing_the_engine_is_light() -> None:
    code = f"""
import sys
import engine
import engine.face, engine.tracker, engine.painter, engine.media, engine.backends
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=REPO,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_exported_name_is_there_and_none_is_forgotten() -> None:
    assert len(set(engine.__all__)) == len(engine.__all__)
    assert all(hasattr(engine, name) for name in engine.__all__)
    public = {
        name
        for name, value in vars(engine).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("engine.")
    }
    assert public <= set(engine.__all__)


def test_the_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """Where its reports are on, loading it makes a database for them in the home folder."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for code in ("import engine.backends.ort", "import server.doctor, onnxruntime"):
        command = [sys.executable, "-c", code]
        subprocess.run(command, check=True, env=environment, cwd=REPO)
        assert not list(tmp_path.rglob("onnxruntime*"))
