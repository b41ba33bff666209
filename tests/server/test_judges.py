"""Clients that others wrote: FFmpeg publishes by WHIP; libwebrtc posts, trickles and leaves.

Chromium's part is in `test_browser_client.py`.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from calls import Running
from fakes import voiced
from files import write_sound

from lipwire.engine import Engine

pytestmark = pytest.mark.slow

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture
def guarded(engine: Engine) -> Iterator[Running]:
    """A server that wants a token, as strangers meet it."""
    with Running(engine, token=TOKEN, max_sessions=1) as running:
        yield running


def wait_for(condition: Any, what: str, process: subprocess.Popen[str]) -> Any:
    """Wait for something that another process does to the server."""
    for _ in range(300):
        if found := condition():
            return found
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"{what}; the client says: {process.communicate()}")


def sessions(server: Running) -> int:
    return int(httpx.get(server.url + "/api/info").json()["sessions"])


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file that is taken for speech."""
    path = tmp_path_factory.mktemp("judges") / "voice.wav"
    write_sound(path, voiced(60.0, 16_000), 16_000)
    return path


def start_ffmpeg(url: str, sound: Path, video: bool = True) -> subprocess.Popen[str]:
    """FFmpeg, which publishes a test picture and a voice by WHIP, or the voice alone."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    picture = [
        *"-f lavfi -i testsrc=size=320x240:rate=25 -c:v libx264 -preset ultrafast".split(),
        *"-profile:v baseline -bf 0 -g 25 -pix_fmt yuv420p".split(),
    ]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *"-hide_banner -loglevel info -re -i".split(),
        str(sound),
        *(picture if video else ()),
        *"-c:a libopus -ar 48000 -ac 2 -f whip -authorization".split(),
        TOKEN,
        url,
    ]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_ffmpeg_publishes_h264_and_opus_and_takes_its_leave(guarded: Running, voice: Path) -> None:
    with start_ffmpeg(f"{guarded.url}/whip?consent=true", voice) as process:
        wait_for(lambda: sessions(guarded) == 1, "no session", process)
        peer = guarded.app.state.sessions.peers[0]
        wait_for(lambda: peer.figures()["frames_in"] > 50, "no pictures", process)
        codecs = [c.mimeType for t in peer.publisher.pc.getTransceivers() for c in t._codecs[:1]]
        assert sorted(codecs) == ["audio/opus", "video/H264"]
        figures = peer.figures()
        assert figures["frames_out"] > 20 and figures["viewers"] == 0
        process.send_signal(signal.SIGINT)  # it ends by DELETE
        out, _ = process.communicate(timeout=20)
    for _ in range(50):
        if sessions(guarded) == 0:
            break
        time.sleep(0.1)
    assert sessions(guarded) == 0, out
    assert peer.ended


def test_clients_that_are_killed_are_noticed_and_others_go_on(
    guarded: Running, voice: Path
) -> None:
    """R4: SIGKILL; nobody says goodbye."""
    with start_ffmpeg(f"{guarded.url}/whip?consent=true", voice) as publisher:
        wait_for(lambda: sessions(guarded) == 1, "no session", publisher)
        peer = guarded.app.state.sessions.peers[0]
        wait_for(lambda: peer.figures()["frames_in"] > 5, "no pictures", publisher)
        with start_ffmpeg(f"{guarded.url}/whip/{peer.name}/voice", voice, video=False) as speaker:
            wait_for(lambda: peer.figures()["speaking"], "no voice", speaker)
            ((_, link),) = peer.links.values()
            speaker.kill()
            speaker.wait()
            began_s = time.monotonic()
            wait_for(lambda: link.over, "the voice is gone", publisher)
            print(f"R4: a killed voice was noticed within {time.monotonic() - began_s:.1f} s")
        taken = peer.figures()["frames_in"]
        wait_for(lambda: peer.figures()["frames_in"] > taken, "the session goes on", publisher)
        publisher.kill()
        publisher.wait()
        began_s = time.monotonic()
        while sessions(guarded) and time.monotonic() - began_s < 30:
            time.sleep(0.05)
        assert sessions(guarded) == 0
        print(f"R4: a killed publisher was noticed within {time.monotonic() - began_s:.1f} s")


JUDGES = Path(__file__).resolve().parents[1] / "judges"


def test_libwebrtc_posts_trickles_watches_and_leaves(guarded: Running) -> None:
    node = shutil.which("node")
    if node is None or not (JUDGES / "node_modules").is_dir():
        pytest.skip("needs node and `npm ci` in tests/judges")
    command = [node, "whip.mjs", guarded.url, TOKEN]
    done = subprocess.run(command, cwd=JUDGES, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["pictures"] > 10 and said["sounds"] > 20
    statuses: dict[tuple[str, str], list[int]] = {}
    for request in said["requests"]:
        kind = request["method"], request["path"].split("/")[1]
        statuses.setdefault(kind, []).append(request["status"])
    print(statuses)
    for resource in ("whip", "whep"):
        assert statuses["POST", resource] == [201]
        assert set(statuses["PATCH", resource]) == {204}
        # It closes its connection before it says so: the server may have noticed by then.
        assert statuses["DELETE", resource] in ([200], [404])
    assert all(r["match"] for r in said["requests"] if r["method"] == "PATCH")
    assert sessions(guarded) == 0
