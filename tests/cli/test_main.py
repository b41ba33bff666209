"""lipwire.cli.main: what the shell sees."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from fakes import voiced
from files import portrait_frames, write_sound, write_video
from typer.testing import CliRunner

import lipwire.cli.doctor
import lipwire.server
import lipwire.server.config
import lipwire.server.dub.dub
import lipwire.training.data.prepare
from lipwire.cli.doctor import Finding, Level, Report
from lipwire.cli.main import app
from lipwire.engine import BackendError, MediaError, open_bundle
from lipwire.engine.model.bundle import DEFAULT_BUNDLE
from lipwire.server.dub.dub import DubSummary

REPO = Path(__file__).resolve().parents[2]
SUMMARY = DubSummary(
    output="o.mp4",
    model="lite 1",
    steps=2,
    width=64,
    height=48,
    fps=25.0,
    frames=10,
    pasted=5,
    generated=2,
    passed_through={"no_face": 3},
    video_s=0.4,
    speech_s=0.4,
    elapsed_s=0.2,
    real_time_factor=0.5,
    warnings=["speech: is silent"],
)


def call(*arguments: object) -> Any:
    """Run in this process: exit_code, stdout, stderr."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def shell(*arguments: object, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run as people do."""
    return subprocess.run(
        [sys.executable, "-m", "lipwire", *map(str, arguments)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **kwargs,
    )


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert project["version"] == lipwire.server.__version__
    assert call("--version").stdout == f"lipwire {lipwire.server.__version__}\n"


def test_the_command_line_loads_nothing_heavy() -> None:
    code = (
        "import sys, lipwire.cli.main\n"
        "heavy = {'torch', 'mediapipe', 'onnxruntime', 'av', 'cv2', 'aiortc', 'fastapi'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# --- dub ---


def test_json_is_one_object_on_stdout_and_nothing_else(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", portrait_frames(10, 200, 160))
    voice = write_sound(tmp_path / "voice.wav", voiced(0.4))
    result = shell("dub", clip, voice, "-o", tmp_path / "out.mp4", "--json", "--steps", 1)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert (summary["frames"], summary["steps"]) == (10, 1)
    assert summary["pasted"] + summary["generated"] + sum(summary["passed_through"].values()) == 10
    assert (tmp_path / "out.mp4").exists()
    assert "Traceback" not in result.stderr


def test_a_user_error_is_one_line_and_code_2(tmp_path: Path) -> None:
    result = shell("dub", tmp_path / "none.mp4", tmp_path / "none.wav", "-o", tmp_path / "out.mp4")
    assert result.returncode == 2
    assert result.stderr == f"lipwire: error: {tmp_path}/none.mp4: no such file\n"
    assert result.stdout == ""


def test_a_message_of_several_lines_becomes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise MediaError("first\n  second")

    monkeypatch.setattr(lipwire.server.dub.dub, "dub", fails)
    result = call("dub", "a", "b", "-o", "c")
    assert (result.exit_code, result.stderr) == (2, "lipwire: error: first second\n")


def test_every_flag_of_dub_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def notes(*args: Any, **kwargs: Any) -> DubSummary:
        kwargs.pop("progress")(1, 2)
        given.update(kwargs, args=args)
        return SUMMARY

    monkeypatch.setattr(lipwire.server.dub.dub, "dub", notes)
    handler = signal.getsignal(signal.SIGTERM)
    result = call(
        *"dub v s --out o.mp4 --steps 4 --bundle b --silence generate".split(),
        *"--original-level 0.25 --ducking --loudness -20 --threads 3".split(),
        *"--mark-text KI --mark-place top-left".split(),
    )
    assert result.exit_code == 0, result.output
    mark = given.pop("mark")
    assert (mark.text, mark.place) == ("KI", "top-left")
    assert given == {
        "args": (Path("v"), Path("s"), Path("o.mp4")),
        "steps": 4,
        "bundle": Path("b"),
        "silence": "generate",
        "original_level": 0.25,
        "ducking": True,
        "loudness_lufs": -20.0,
        "threads": 3,
        "credentials": True,
        "bank": None,
    }
    assert (
        "10: 5 from the person's own mouths, 2 generated, passed through: 3 no_face"
        in result.stdout
    )
    assert "note     speech: is silent" in result.stdout
    assert signal.getsignal(signal.SIGTERM) is handler
    assert call("dub", "v", "s", "-o", "o.mp4", "--no-mark", "--no-credentials").exit_code == 0
    assert given["mark"] is None and given["credentials"] is False


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_leaves_nothing_behind(tmp_path: Path, wish: signal.Signals) -> None:
    clip = write_video(tmp_path / "clip.mp4", portrait_frames(25, 200, 160) * 2)
    voice = write_sound(tmp_path / "voice.wav", voiced(2.0))
    process = subprocess.Popen(
        [sys.executable, "-m", "lipwire", "dub", clip, voice, "-o", tmp_path / "out.mp4"],
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".out.*.mp4")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(wish)  # while the face nets are being loaded
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "lipwire: interrupted" in complaint and "Traceback" not in complaint
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "voice.wav"}


# --- serve and doctor ---


def test_flags_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import lipwire.server.api.app

    seen: list[lipwire.server.config.ServerConfig] = []
    monkeypatch.setattr(lipwire.server.api.app, "serve", seen.append)
    monkeypatch.setenv("LIPWIRE_PORT", "9001")
    monkeypatch.setenv("LIPWIRE_HOST", "127.0.0.2")
    assert call("serve", "--port", 9002, "--max-sessions", 3).exit_code == 0
    assert (seen[0].port, seen[0].host, seen[0].max_sessions) == (9002, "127.0.0.2", 3)
    assert (seen[0].backend, seen[0].devices) == ("ort", ())


def test_the_model_runs_where_the_flags_say(monkeypatch: pytest.MonkeyPatch) -> None:
    import lipwire.server.api.app

    asked: list[Any] = []

    def opened(*bundle: Any, **options: Any) -> None:
        asked.append((bundle, options))
        raise BackendError("no such device here")

    monkeypatch.setattr(lipwire.server.api.app, "open_engine", opened)
    monkeypatch.setattr(lipwire.server.api.app.logs, "set_up", lambda settings: None)
    flags = ("--backend", "auto", "--device", "cuda:0", "--device", "cuda:1", "--threads", 2)
    result = call("serve", "--port", 0, *flags)
    assert result.exit_code == 2 and "no such device here" in result.stderr
    monkeypatch.setenv("LIPWIRE_DEVICES", "cpu, cuda:0")
    call("serve", "--port", 0)
    litert = {"tracker": "litert"}
    assert asked == [
        ((None,), {"backend": "auto", "threads": 2, "devices": ("cuda:0", "cuda:1")} | litert),
        ((None,), {"backend": "ort", "threads": None, "devices": ("cpu", "cuda:0")} | litert),
    ]


def test_a_port_out_of_range_is_one_line() -> None:
    result = call("serve", "--port", 70_000)
    assert result.exit_code == 2
    assert result.stderr.startswith("lipwire: error: port is 70000")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("level", "code"), [(Level.WARN, 0), (Level.MISSING, 1)])
def test_the_doctors_exit_code(level: Level, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report([Finding("udp", level, "blocked")])
    monkeypatch.setattr(lipwire.cli.doctor, "examine", lambda settings: report)
    assert call("doctor").exit_code == code
    result = call("doctor", "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout) == {
        "can_serve": code == 0,
        "findings": [{"name": "udp", "level": level.value, "detail": "blocked", "advice": ""}],
    }


# --- models ---


@pytest.mark.parametrize("command", [["train", ".", "run"], ["export", "lite", "c.pt", "-o", "b"]])
def test_without_torch_the_extra_is_named(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torch" else find(name, *rest),
    )
    result = call(*command)
    assert result.exit_code == 2
    assert "this needs torch" in result.stderr and "lipwire[train]" in result.stderr


def test_prepare_passes_its_flags_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def notes(source: Path, out: Path, config: Any, **kwargs: Any) -> dict[str, Any]:
        given.update(kwargs, source=source, out=out, config=config)
        return {"kept": 3, "rejected": {"no face": {"a_b": "in 3 of 9 frames"}}, "sync": {}}

    monkeypatch.setattr(lipwire.training.data.prepare, "prepare", notes)
    options = "--workers 1 --exclude a* --exclude b* --framing box --unsure drop".split()
    result = call("prepare", tmp_path, "o", *options)
    found = json.loads(result.stdout)
    assert found == {"kept": 3, "rejected": {"no face": 1}, "sync": {"shifted": 0}}
    assert "a_b (in 3 of 9 frames)" in result.stderr
    config = given.pop("config")
    assert given == {"source": tmp_path, "out": Path("o"), "workers": 1}
    assert config.exclude == ("a*", "b*") and config.rules.framing == "box"
    assert config.unsure == "drop" and config.sync == "shift"
    assert call("prepare", tmp_path / "none", "o").exit_code == 2


def test_export_refuses_what_is_no_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "c.pt").write_bytes(b"no")
    result = call("export", "lite", tmp_path / "c.pt", "-o", tmp_path / "bundle")
    assert result.exit_code == 2
    assert "not a checkpoint" in result.stderr
    assert os.listdir(tmp_path) == ["c.pt"]


def test_evaluate_prints_and_writes_its_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evaluate = pytest.importorskip("lipwire.training.evaluation.bundle")
    bundle = tmp_path / "bundle"
    shutil.copytree(DEFAULT_BUNDLE, bundle)
    monkeypatch.setattr(evaluate, "evaluate", lambda *args, **kwargs: {"clips": kwargs["clips"]})
    before = open_bundle(bundle).manifest
    assert json.loads(call("evaluate", bundle, tmp_path, "--clips", 5).stdout) == {"clips": 5}
    assert open_bundle(bundle).manifest == before
    call("evaluate", bundle, tmp_path, "--clips", 5, "--write")
    assert open_bundle(bundle).manifest.quality == {"clips": 5}
    assert call("evaluate", tmp_path / "none", tmp_path).exit_code == 2


# --- tokens ---


def test_tokens_are_made_and_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from lipwire.server.api.auth import Authenticator, Right

    made = call("token", "new").stdout.strip()
    assert len(made) >= 43 and made != call("token", "new").stdout.strip()
    arguments = ("token", "jwt", "--scope", "watch", "--scope", "speak", "--session", "abc")
    result = call(*arguments)
    assert result.exit_code == 2 and "LIPWIRE_JWT_SECRET" in result.stderr
    monkeypatch.setenv("LIPWIRE_JWT_SECRET", made)
    token = call(*arguments, "--ttl", 60).stdout.strip()
    grant = Authenticator(lipwire.server.config.load_config()).admit(
        f"Bearer {token}", Right.WATCH, "abc"
    )
    assert grant.rights == {Right.WATCH, Right.SPEAK} and grant.session == "abc"
    for wrong, named in ((("--ttl", 601), "at most 600"), (("--scope", "all"), "'all' is none of")):
        result = call(*arguments, *wrong)
        assert result.exit_code == 2 and named in result.stderr


def test_strangers_need_a_token() -> None:
    result = call("serve", "--host", "0.0.0.0", "--port", 0)
    assert result.exit_code == 2
    assert "lipwire token new" in result.stderr and "LIPWIRE_TOKEN" in result.stderr
