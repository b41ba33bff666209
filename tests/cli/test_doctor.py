"""lipwire.cli.doctor: what it finds here, and what it says of machines that lack something."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lipwire.engine.face.tracker
from lipwire.cli import doctor
from lipwire.cli.doctor import Finding, Level, Report, examine, print_report
from lipwire.engine.model.bundle import DEFAULT_BUNDLE
from lipwire.server.config import ServerConfig


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check that takes seconds."""
    monkeypatch.setattr(doctor, "_tracker", lambda runtime: iter(()))


def found(report: Report, name: str) -> Finding:
    return next(f for f in report.findings if f.name == name)


def test_this_machine_is_looked_at_for_real() -> None:
    report = examine(ServerConfig(port=0))
    names = [f.name for f in report.findings]
    assert len(names) == len(set(names))
    for name in (
        "python",
        "onnxruntime",
        "model",
        "face tracker",
        "webrtc",
        "files",
        "udp",
        "port",
    ):
        assert found(report, name).level is Level.OK, found(report, name)
    assert "CPU" in found(report, "onnxruntime").detail
    assert "checksums right" in found(report, "model").detail
    assert {"VP8", "H264", "opus"} <= set(
        found(report, "webrtc").detail.replace(":", ",").replace(" ", "").split(",")
    )


@pytest.mark.usefixtures("quick")
def test_a_taken_port_is_missing() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        report = examine(ServerConfig(port=port))
    assert found(report, "port").level is Level.MISSING
    assert str(port) in found(report, "port").detail
    assert not report.can_serve


@pytest.mark.usefixtures("quick")
def test_an_altered_model_is_missing(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(DEFAULT_BUNDLE, bundle)
    graph = bundle / "encode.onnx"
    data = bytearray(graph.read_bytes())
    data[100] ^= 1
    graph.write_bytes(data)
    report = examine(ServerConfig(port=0, bundle=bundle))
    assert found(report, "model").level is Level.MISSING
    assert "encode.onnx: checksum differs" in found(report, "model").detail
    assert not report.can_serve


@pytest.mark.usefixtures("quick")
def test_what_only_some_need_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    report = examine(ServerConfig(port=0, host="0.0.0.0"))
    assert found(report, "espeak-ng").level is Level.WARN
    assert "apt-get install espeak-ng" in found(report, "espeak-ng").advice
    assert found(report, "camera").level is Level.WARN
    assert "https" in found(report, "camera").detail
    assert found(report, "gpu").detail.startswith("no CUDA device")


def test_two_builds_of_onnx_runtime_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda package: "1.31.1")
    (finding,) = doctor._onnxruntime()
    assert finding.level is Level.WARN and "onnxruntime and onnxruntime-gpu" in finding.detail
    assert finding.advice.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


@pytest.mark.parametrize(
    ("problem", "level"), [("", Level.OK), ("torch 2.13.0+cpu is a CPU build", Level.WARN)]
)
def test_a_gpu_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, problem: str, level: Level
) -> None:
    listing = tmp_path / "nvidia-smi"
    listing.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA L4 (UUID: GPU-1)'\n")
    listing.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(listing))
    monkeypatch.setattr(doctor, "_torch_on_gpu", lambda: problem)
    (finding,) = doctor._gpu()
    assert finding.level is level and finding.detail.startswith("GPU 0: NVIDIA L4")
    assert problem in finding.detail and ("lipwire[gpu]" in finding.advice) == bool(problem)


def test_a_torch_that_cannot_compute_on_a_gpu_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is a CPU build" in doctor._torch_on_gpu()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    if not torch.cuda.is_available():
        assert "for CUDA 13.0: " in doctor._torch_on_gpu()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert doctor._torch_on_gpu() == "torch is not installed"


def test_a_tracker_without_libgl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(runtime: str) -> None:
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(lipwire.engine.face.tracker, "MeshTracker", broken)
    (finding,) = doctor._tracker("mediapipe")
    assert finding.level is Level.MISSING
    assert "libgl1" in finding.advice


@pytest.mark.usefixtures("quick")
def test_missing_packages_do_not_end_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "aiortc", "av"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it now fails
    report = examine(ServerConfig(port=0))
    for name in ("onnxruntime", "webrtc", "files"):
        assert found(report, name).level is Level.MISSING
        assert found(report, name).advice
    assert found(report, "udp").level is Level.OK


@pytest.mark.usefixtures("quick")
def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> Iterator[Finding]:
        raise OSError("sockets\nare gone")
        yield

    monkeypatch.setattr(doctor, "_udp", breaks)
    report = examine(ServerConfig(port=0))
    assert found(report, "udp") == Finding(
        "udp", Level.MISSING, "OSError: sockets are gone", "see the message"
    )


def test_the_report_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    good = Finding("udp", Level.OK, "arrives")
    bad = Finding("page", Level.MISSING, "is gone", "reinstall lipwire")
    print_report(Report([good]))
    assert "will work here" in capsys.readouterr().out
    print_report(Report([good, bad]))
    shown = capsys.readouterr().out
    assert "missing  page" in shown and "-> reinstall lipwire" in shown
    assert "will not work here; see: page." in shown
    assert Report([good, bad]).to_dict()["findings"][1]["level"] == "missing"
