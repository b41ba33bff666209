"""Fixtures shared by the whole suite, and the rule that CI skips nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from lipwire.engine.face.tracker import MeshTracker
    from lipwire.engine.model.bundle import Bundle

# How long an example takes is the machine's affair, and that of whatever else runs on it.
settings.register_profile("lipwire", deadline=None)
settings.load_profile("lipwire")

REPO = Path(__file__).resolve().parent.parent
# On CI everything that a test may want is there, so a skip is a fault of the set-up.
NO_SKIPS = bool(os.environ.get("LIPWIRE_NO_SKIPS"))


def pytest_configure(config: pytest.Config) -> None:
    """Keep optimised graphs of the tests apart from the user's, and threads few."""
    # The tests' networks are too small to share out: on a busy machine their threads only wait for
    # each other. Read when numpy and torch are loaded.
    for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(pool, "1")
    if "LIPWIRE_CACHE" not in os.environ:
        folder = os.environ["LIPWIRE_CACHE"] = tempfile.mkdtemp(prefix="lipwire-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` run only where a CUDA device is asked for by LIPWIRE_GPU=1.

    Those marked `ray` are skipped where Ray is not installed, which the tests' set-up does not do:
    a run that may skip nothing leaves them out.
    """
    left_out = [] if os.environ.get("LIPWIRE_GPU") else ["gpu"]
    if NO_SKIPS and importlib.util.find_spec("ray") is None:
        left_out.append("ray")
    items[:] = [i for i in items if not any(map(i.get_closest_marker, left_out))]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With LIPWIRE_NO_SKIPS a run that skipped something has failed."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if NO_SKIPS and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say why the run failed although no test did."""
    if NO_SKIPS and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("LIPWIRE_NO_SKIPS: skipped tests count as failures", red=True)


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What lipwire keeps for its user is kept elsewhere while testing."""
    before = os.environ.get("LIPWIRE_HOME")
    os.environ["LIPWIRE_HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    os.environ.pop("LIPWIRE_HOME")
    if before is not None:
        os.environ["LIPWIRE_HOME"] = before


@pytest.fixture(scope="session", autouse=True)
def one_core() -> Iterator[None]:
    """ONNX Runtime takes one thread where a test does not say otherwise, as torch does.

    Its threads wait actively: two tests side by side, or a busy machine, and all of them crawl.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lipwire.engine.backends.ort.usable_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def built_tracker() -> Iterator[MeshTracker]:
    """The face nets, loaded."""
    from lipwire.engine.face.tracker import MeshTracker

    made = MeshTracker()
    yield made
    made.close()


@pytest.fixture
def tracker(built_tracker: MeshTracker) -> MeshTracker:
    """The face tracker, which has seen nothing yet."""
    built_tracker.forget()
    return built_tracker


@pytest.fixture(scope="session")
def wav2lip_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Wav2Lip, filled by the goldens' rule and exported from a checkpoint as it is published."""
    torch = pytest.importorskip("torch")
    from goldens import fill_golden

    from lipwire.engine.nets.wav2lip import Wav2Lip
    from lipwire.export.wav2lip import export_wav2lip

    net = Wav2Lip()
    fill_golden(net)
    folder = tmp_path_factory.mktemp("wav2lip")
    # As published: wrapped, and with the prefix of the many GPUs that it was trained on.
    state = {f"module.{name}": values for name, values in net.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 7}, folder / "c.pth")
    return export_wav2lip(folder / "c.pth", folder / "b")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference numbers and clips kept beside the checkout; optional everywhere but on CI."""
    path = Path(os.environ.get("LIPWIRE_SHARED", REPO.parent / "shared"))
    if not (path / "goldens").is_dir():
        pytest.skip(f"reference data not found at {path} (set LIPWIRE_SHARED to its folder)")
    return path
