from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lipwire
from lipwire.engine.face import mediapipe_nets

REPO = Path(__file__).resolve().parent.parent
FOLDERS = ("engine", "server", "export", "training", "benchmarks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that `pip install .` would install."""
    # From a copy: setuptools leaves a build folder that would feed stale files to the next wheel.
    source, out = tmp_path_factory.mktemp("source") / "lipwire", tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(
        ".*", "build", "data", "runs", "*.egg-info", "__pycache__", "*.pt", "node_modules"
    )
    # `data` is also a room of training and a command: the top folder alone is left out.
    shutil.copytree(
        REPO,
        source,
        symlinks=True,
        ignore=lambda folder, names: {
            name
            for name in skip(folder, names)
            if name not in ("data", "runs", "build") or Path(folder) == REPO
        },
    )
    options = "-q --no-deps --no-build-isolation --disable-pip-version-check".split()
    command = [sys.executable, "-m", "pip", "wheel", *options, "-w", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_wheel_installs_lipwire_and_nothing_beside_it(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"lipwire", f"lipwire-{lipwire.__version__}.dist-info"}
    assert not any(entry.external_attr >> 28 == 0o12 for entry in wheel.infolist()), "a link"


def test_the_model_and_the_page_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    here = {
        f"lipwire/{p.relative_to(REPO)}"
        for folder in ("engine/bundles/lite", "server/static")
        for p in (REPO / folder).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert any(n.endswith("manifest.json") for n in here) and any(n.endswith(".html") for n in here)
    here |= {f"lipwire/engine/bundles/face/{m.rpartition('/')[2]}" for m in mediapipe_nets.SHA256}
    here.add("lipwire/engine/bundles/face/NOTICE")
    assert here <= names, f"missing from the wheel: {sorted(here - names)}"


def test_every_module_is_in_the_wheel_and_no_test(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for folder in FOLDERS:
        for path in (REPO / folder).rglob("*.py"):
            assert f"lipwire/{path.relative_to(REPO)}" in names, path
    for path in [*(REPO / "lipwire").glob("*.py"), *(REPO / "lipwire/cli").glob("*.py")]:
        assert str(path.relative_to(REPO)) in names, path
    assert "lipwire/py.typed" in names
    assert {name for name in names if name.endswith(".py") and "/test" in name} == set()


def test_a_folder_of_modules_is_a_package() -> None:
    """Otherwise its modules work in a checkout and are missing from the wheel."""
    for folder in FOLDERS:
        for path in (REPO / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_the_folders_are_linked() -> None:
    for folder in FOLDERS:
        link = REPO / "lipwire" / folder
        assert link.is_symlink() and link.resolve() == REPO / folder
        assert importlib.import_module(f"lipwire.{folder}").__name__ == f"lipwire.{folder}"


def test_the_model_is_small(wheel: zipfile.ZipFile) -> None:
    size = sum(
        i.file_size
        for i in wheel.infolist()
        if i.filename.startswith("lipwire/engine/bundles/lite")
    )
    assert size <= 24_000_000


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lipwire", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"lipwire {lipwire.__version__}\n"


def test_the_readme_names_files_that_exist() -> None:
    text = (REPO / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (REPO / target).exists(), f"README links to {target}"
