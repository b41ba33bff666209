"""What this machine can do, and what it lacks: every check really tries."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lipwire.engine.backends.cpu import usable_cores
from lipwire.engine.errors import LipwireError
from lipwire.engine.model.bundle import open_bundle
from lipwire.server.config import ServerConfig

PYTHONS = ((3, 11), (3, 14))  # from .. below
MEMORY_GIB = 2.0  # one session and its browser; with less the machine swaps and frames are late
PAGE = Path(__file__).parents[1] / "server" / "static" / "index.html"


class Level(StrEnum):
    """What a finding means for `lipwire serve`."""

    OK = "ok"
    WARN = "warn"  # works, with less
    MISSING = "missing"  # does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    name: str
    level: Level
    detail: str
    advice: str = ""
    """what to do about it"""


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found."""

    findings: list[Finding]

    @property
    def can_serve(self) -> bool:
        """Whether `lipwire serve` would work."""
        return all(f.level is not Level.MISSING for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {"can_serve": self.can_serve, "findings": [asdict(f) for f in self.findings]}


def _ok(name: str, detail: str, advice: str = "") -> Finding:
    return Finding(name, Level.OK, detail, advice)


def _warn(name: str, detail: str, advice: str) -> Finding:
    return Finding(name, Level.WARN, detail, advice)


def _missing(name: str, detail: str, advice: str) -> Finding:
    return Finding(name, Level.MISSING, detail, advice)


def examine(settings: ServerConfig) -> Report:
    """Try everything that a server with these settings needs."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("python", _python),
        ("machine", _machine),
        ("onnxruntime", _onnxruntime),
        ("optional runtimes", _optional_runtimes),
        ("gpu", _gpu),
        ("model", lambda: _model(settings.bundle)),
        ("face tracker", lambda: _tracker(settings.tracker)),
        ("webrtc", _webrtc),
        ("files", _files),
        ("espeak-ng", _espeak),
        ("udp", _udp),
        ("port", lambda: _port(settings)),
        ("token", lambda: _token(settings)),
        ("page", _page),
        ("camera", lambda: _camera(settings)),
    ]
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings.extend(check())
        except Exception as error:  # a broken machine breaks checks too; the others still help
            line = " ".join(str(error).split())
            findings.append(_missing(name, f"{type(error).__name__}: {line}", "see the message"))
    return Report(findings)


def print_report(report: Report) -> None:
    """For people, on stdout."""
    for finding in report.findings:
        print(f"{finding.level.value:8} {finding.name:13} {finding.detail}")
        if finding.advice:
            print(f"{'':22} -> {finding.advice}")
    print()
    if report.can_serve:
        print("`lipwire serve` will work here.")
    else:
        missing = ", ".join(f.name for f in report.findings if f.level is Level.MISSING)
        print(f"`lipwire serve` will not work here; see: {missing}.")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# --- the machine ---


def _python() -> Iterator[Finding]:
    found = platform.python_version()
    if PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        yield _ok("python", f"{found} at {sys.executable}")
    else:
        yield _missing("python", found, "use Python 3.11, 3.12 or 3.13")


def _machine() -> Iterator[Finding]:
    yield _ok("platform", platform.platform())
    cores = usable_cores()
    if cores >= 2:
        yield _ok("cpu", f"{cores} cores; a live 640x480 session takes about one of them")
    else:
        yield _warn("cpu", "1 core", "a live session wants two; frames will be late")
    try:
        pages = os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    gib = pages * os.sysconf("SC_PAGE_SIZE") / 2**30
    enough = gib >= MEMORY_GIB
    yield Finding(
        "memory",
        Level.OK if enough else Level.WARN,
        f"{gib:.1f} GiB",
        "" if enough else f"{MEMORY_GIB:.0f} GiB are advised",
    )


# --- runtimes and model ---


def _onnxruntime() -> Iterator[Finding]:
    try:
        import onnxruntime as ort
    except ImportError as error:
        yield _missing("onnxruntime", str(error), "pip install onnxruntime")
        return
    providers = ", ".join(
        p.removesuffix("ExecutionProvider") for p in ort.get_available_providers()
    )
    found = f"{ort.__version__}, providers: {providers}"
    builds = [name for name in ONNX_RUNTIMES if _installed(name)]
    if len(builds) > 1:
        yield _warn(
            "onnxruntime",
            f"{found}; {' and '.join(builds)} are both installed, in one folder: the later one is "
            "used, or parts of each",
            f"pip uninstall -y {' '.join(builds)}, then install the one that you want",
        )
    else:
        yield _ok("onnxruntime", found)


ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


def _optional_runtimes() -> Iterator[Finding]:
    torch = _installed("torch")
    yield _ok(
        "torch",
        torch or "not installed: only a GPU, `train`, `export` and `evaluate` need it",
        "" if torch else "for those: pip install 'lipwire[gpu]' or 'lipwire[train]'",
    )
    tensorrt = _installed("tensorrt")
    yield _ok("tensorrt", tensorrt or "not installed: only `--backend trt` needs it")


def _gpu() -> Iterator[Finding]:
    program = shutil.which("nvidia-smi")
    listed = ""
    if program is not None:
        try:
            listed = subprocess.run(
                [program, "-L"], capture_output=True, text=True, timeout=10, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            pass
    devices = [
        line.split("(")[0].strip() for line in listed.splitlines() if line.startswith("GPU ")
    ]
    if not devices:
        yield _ok("gpu", "no CUDA device: the model runs on the CPU")
        return
    found = "; ".join(devices)
    problem = _torch_on_gpu()
    if problem:
        yield _warn(
            "gpu",
            f"{found}, unused: {problem}",
            "pip install 'lipwire[gpu]', and a driver as new as its CUDA; see docs/gpu.md",
        )
    else:
        yield _ok("gpu", f"{found}: computes; `serve --backend auto --device cuda:0` uses it")


def _torch_on_gpu() -> str:
    """Why torch cannot compute on a GPU; empty if it can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if not torch.version.cuda:
        return f"torch {torch.__version__} is a CPU build"
    try:
        ones = torch.ones(8, 8, device="cuda")
        return "" if float((ones @ ones).sum()) == 512 else "it computes wrongly"
    except (RuntimeError, AssertionError) as error:
        line = " ".join(str(error).split())[:200]
        return f"torch {torch.__version__} for CUDA {torch.version.cuda}: {line}"


def _model(bundle: Path | None) -> Iterator[Finding]:
    try:
        opened = open_bundle(bundle)
    except LipwireError as error:
        yield _missing("model", str(error), "reinstall lipwire, or name a whole bundle by --bundle")
        return
    manifest = opened.manifest
    size_mb = sum(opened.file(name).stat().st_size for name in manifest.files) / 1e6
    yield _ok(
        "model",
        f"{manifest.name} {manifest.version}, {size_mb:.1f} MB, checksums right, "
        f"steps {list(manifest.steps_offered)}, {manifest.default_steps} by default",
    )


def _tracker(runtime: Literal["litert", "mediapipe"]) -> Iterator[Finding]:
    from lipwire.engine.face.tracker import MeshTracker

    package = {"litert": "ai-edge-litert", "mediapipe": "mediapipe"}[runtime]
    try:
        tracker = MeshTracker(runtime=runtime)
        try:
            tracker.track(np.zeros((480, 640, 3), np.uint8))
        finally:
            tracker.close()
    except Exception as error:
        line = " ".join(str(error).split())
        advice = f"pip install --force-reinstall {package}"
        if ".so" in line:  # of the OpenCV that mediapipe brings
            advice = "apt-get install libgl1 libglib2.0-0, or the headless OpenCV (see the README)"
        yield _missing("face tracker", line, advice)
        return
    yield _ok("face tracker", f"MediaPipe's nets load and run by {package} {_installed(package)}")


# --- media ---


def _webrtc() -> Iterator[Finding]:
    try:
        from aiortc import RTCRtpSender
    except ImportError as error:
        yield _missing("webrtc", str(error), "pip install 'aiortc>=1.16,<1.17'")
        return
    names: dict[str, None] = {}
    for kind in ("video", "audio"):
        for codec in RTCRtpSender.getCapabilities(kind).codecs:
            names[codec.mimeType.split("/")[1]] = None
    names.pop("rtx", None)
    yield _ok("webrtc", f"aiortc {_installed('aiortc')}: {', '.join(names)}")


def _files() -> Iterator[Finding]:
    import av

    lacking = []
    for name in ("libx264", "aac"):
        try:
            av.Codec(name, "w")
        except (av.FFmpegError, ValueError):
            lacking.append(name)
    found = f"PyAV {av.__version__}"
    if lacking:
        yield _warn(
            "files",
            f"{found} without {', '.join(lacking)}: `dub` cannot write",
            "pip install --force-reinstall --only-binary av av",
        )
    else:
        yield _ok("files", f"{found}: `dub` writes H.264 and AAC")


def _espeak() -> Iterator[Finding]:
    program = shutil.which("espeak-ng")
    if program:
        yield _ok("espeak-ng", program)
    else:
        yield _warn(
            "espeak-ng", "not found: the page cannot speak typed text", "apt-get install espeak-ng"
        )


# --- network ---


def _udp() -> Iterator[Finding]:
    """A datagram to ourselves: media travels in such ones."""
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.settimeout(2)
            receiver.bind(("127.0.0.1", 0))
            sender.sendto(b"lipwire", receiver.getsockname())
            arrived = receiver.recv(16) == b"lipwire"
    except OSError as error:
        yield _missing("udp", f"over loopback: {error}", "allow UDP to this process")
        return
    if arrived:
        yield _ok("udp", "a datagram over loopback arrives")
    else:
        yield _missing("udp", "a datagram was changed on its way", "check the firewall")


def _port(settings: ServerConfig) -> Iterator[Finding]:
    from lipwire.server.api.listener import listen

    try:
        with listen(settings) as listener:
            port = listener.getsockname()[1]
    except LipwireError as error:
        yield _missing("port", str(error), "end what listens there, or use --port")
        return
    yield _ok("port", f"{settings.host}:{port} is free")


def _token(settings: ServerConfig) -> Iterator[Finding]:
    if settings.guarded:
        yield _ok("token", "is set: strangers are kept out")
    elif settings.loopback:
        yield _ok("token", "none, and only this machine can reach the server")
    else:
        yield _missing(
            "token",
            f"none, and others can reach {settings.host}",
            "`lipwire token new` makes one; give it as LIPWIRE_TOKEN",
        )


def _page() -> Iterator[Finding]:
    if PAGE.is_file():
        yield _ok("page", "is there")
    else:
        yield _missing("page", f"{PAGE}: no such file", "reinstall lipwire")


def _camera(settings: ServerConfig) -> Iterator[Finding]:
    if settings.tls_cert is not None:
        yield _ok("camera", "browsers give it to pages over https")
        return
    url = f"http://localhost:{settings.port}"
    rule = "browsers give the camera to pages of localhost and of https only, and ask once"
    if settings.loopback:
        yield _ok("camera", f"{rule}: open {url} on this machine")
    else:
        yield _warn(
            "camera",
            f"{rule}: {url} will do here, plain http elsewhere not",
            "give --tls-cert and --tls-key, or put a proxy with a certificate in front",
        )
