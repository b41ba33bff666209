"""What loads what: the engine starts light, and the packages point one way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lipwire
from lipwire import engine

REPO = Path(__file__).resolve().parents[1]
OURS = {"engine", "server", "export", "training", "benchmarks", "cli", ""}
MAY_IMPORT = {
    "engine": {"engine"},
    "server": {"engine", "server"},
    "export": {"engine", "export"},
    "training": {"engine", "training"},
    "benchmarks": {"engine", "server", "export", "training", "benchmarks"},
    "cli": OURS,
}
# Off the first breath of `import lipwire`, whatever is done with it later.
HEAVY = ("torch", "mediapipe", "onnxruntime", "cv2", "av", "soxr", "webrtcvad", "onnx", "jax")


def imports(path: Path) -> set[str]:
    """What a file imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    return sorted((REPO / ("lipwire/cli" if package == "cli" else package)).rglob("*.py"))


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_packages_point_one_way(package: str) -> None:
    assert files(package), f"{package} has no files: is the test looking in the right place?"
    wrong = []
    for path in files(package):
        for name in imports(path):
            top, _, rest = name.partition(".")
            if top != "lipwire":
                assert top not in OURS, f"{path} imports {name} by its folder"
                continue
            first = rest.split(".")[0]
            if (first if first in OURS else "") not in MAY_IMPORT[package]:
                wrong.append(f"{path.relative_to(REPO)} imports {name}")
    assert not wrong


def test_the_engine_is_not_asynchronous_and_opens_no_sockets() -> None:
    forbidden = {"asyncio", "socket", "aiortc", "fastapi", "uvicorn"}
    for path in files("engine"):
        assert not {name.split(".")[0] for name in imports(path)} & forbidden, path


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
