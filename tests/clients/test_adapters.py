"""The adapters for Pipecat and LiveKit Agents, in environments where these are and lipwire is not.

`make clients` makes the environments: the wheels as they are published, ours built from `clients/`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from fakes import picture
from PIL import Image
from served import Served

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / "build" / "clients"


def python_of(kind: str) -> Path:
    """Of an environment."""
    python = ENVIRONMENTS / kind / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {python.relative_to(HERE.parents[1])}: make clients")
    return python


def run(kind: str, server: Served) -> dict[str, Any]:
    """What a peer saw; the server is killed when it says so."""
    command = [python_of(kind), "-I", HERE / f"{kind}_peer.py", server.url]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as peer:
        assert peer.stdout is not None
        last = ""
        for line in peer.stdout:
            last = line
            if line == "kill\n":
                server.kill()
        _, noise = peer.communicate(timeout=60)
    assert peer.returncode == 0, noise[-3000:]
    return dict(json.loads(last))


def test_a_pipecat_bot_speaks_with_the_users_face(serve: Callable[..., Served]) -> None:
    seen = run("pipecat", serve())
    assert seen["pictures"] > 30 and 0.7 < seen["loud_s"] < 1.3
    # Bot started and stopped are seen by several processors each, of three turns.
    assert len(set(seen["bot"].values())) == 1 and len(seen["bot"]) == 2
    assert sum(value > 0 for value in seen["ttfb_s"]) >= 2
    assert seen["silent_after_s"] < 0.3
    assert all("connecting again" in error for error in seen["errors"]) and seen["errors"]
    assert seen["heard_alone_s"] > 0.5 and seen["shown_alone"] > 5


def test_a_pipecat_bot_that_is_refused_is_heard_without_a_face(
    serve: Callable[..., Served],
) -> None:
    seen = run("pipecat", serve(token="a-token-that-is-long-enough"))
    (error,) = seen["errors"]
    assert "needs a token" in error and "\n" not in error
    assert seen["pictures"] > 30 and 0.7 < seen["loud_s"] < 1.3


def test_the_example_bot_makes_a_film(serve: Callable[..., Served], tmp_path: Path) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed: apt-get install espeak-ng")
    Image.fromarray(picture()).save(tmp_path / "face.png")
    example = HERE.parents[1] / "examples" / "pipecat_bot.py"
    command = [
        python_of("pipecat"),
        "-I",
        example,
        tmp_path / "face.png",
        tmp_path / "talk.mp4",
        "--url",
        serve().url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with av.open(str(tmp_path / "talk.mp4")) as film:
        video, audio = film.streams.video[0], film.streams.audio[0]
        assert video.frames > 40 and audio.duration is not None and audio.time_base is not None
        assert 3 < float(audio.duration * audio.time_base) < 30


def test_a_livekit_agent_speaks_with_a_face_of_the_room(serve: Callable[..., Served]) -> None:
    seen = run("livekit", serve())
    assert seen["published"] == ["avatar_audio", "avatar_video"] and seen["pictures"] > 30
    whole, second, cleared, lost, alone = seen["finished"]  # each exactly once
    assert seen["started"] == 5
    assert all(abs(position - 1.0) < 0.1 and not cut for position, cut in (whole, second, alone))
    assert cleared[1] and 0.5 < cleared[0] < 2.5 and seen["silent_after_s"] < 0.3
    assert not lost[1] and 0.3 < lost[0] < 3.5
    assert seen["heard_alone_s"] > 0.5


def test_a_livekit_agent_that_is_refused_says_so(serve: Callable[..., Served]) -> None:
    seen = run("livekit", serve(token="a-token-that-is-long-enough"))
    assert seen["status"] == 401 and "needs a token" in seen["refused"]
