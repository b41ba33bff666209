from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that `pip install .` would install."""
    # From a copy: setuptools leaves a build folder that would feed stale files to the next wheel.
    source, out = tmp_path_factory.mktemp("source") / "lipwire", tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(
        ".*", "build", "data", "runs", "*.egg-info", "__pycache__", "*.pt", "node_modules"
    )
    shutil.copytree(REPO, source, ignore=skip)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
               "--disable-pip-version-check", "-w", str(out), str(source)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_model_and_the_page_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    here = {
        str(p.relative_to(REPO))
        for folder in ("engine/bundles/lite", "server/static")
        for p in (REPO / folder).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert any(n.endswith("manifest.json") for n in here) and any(n.endswith(".html") for n in here)
    assert here <= names, f"missing from the wheel: {sorted(here - names)}"


def test_every_module_is_in_the_wheel_and_no_test(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for folder in ("engine", "server", "export", "training", "benchmarks"):
        for path in (REPO / folder).rglob("*.py"):
            assert str(path.relative_to(REPO)) in names, path
    assert not any(n.startswith(("tests", "examples", "docs", "data", "runs")) for n in names)


def test_the_model_is_small(wheel: zipfile.ZipFile) -> None:
    size = sum(
        i.file_size for i in wheel.infolist() if i.filename.startswith("engine/bundles/lite")
    )
    assert size <= 12_000_000


def test_the_readme_names_files_that_exist() -> None:
    text = (REPO / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (REPO / target).exists(), f"README links to {target}"
