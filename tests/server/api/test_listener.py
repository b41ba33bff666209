"""Start and stop of the whole server."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from lipwire.engine import ConfigError
from lipwire.server.api.listener import listen, page_url
from lipwire.server.config import load_config

REPO = Path(__file__).resolve().parents[3]


def test_a_taken_port_is_named() -> None:
    with listen(load_config(port=0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*choose another"):
            listen(load_config(port=port))
    with listen(load_config(port=port)):
        pass  # and it is free again


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on {host}:8080"):
        listen(load_config(host=host))


def test_where_to_look() -> None:
    assert page_url(load_config(), 8080) == "http://127.0.0.1:8080"
    assert page_url(load_config(host="0.0.0.0"), 80) == "http://127.0.0.1:80"
    assert page_url(load_config(host="::1"), 81) == "http://[::1]:81"


@pytest.mark.parametrize("wish", [signal.SIGTERM, signal.SIGINT])
def test_the_shipped_server_starts_says_so_and_stops(wish: signal.Signals) -> None:
    code = (
        "from lipwire.server.api.app import serve; from lipwire.server.config import "
        "load_config; serve(load_config())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPO,
        env={"LIPWIRE_PORT": "0", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            lines = []
            while not (lines and lines[-1].startswith("lipwire is ready")):
                line = process.stdout.readline()
                assert line, f"it ended: {process.communicate()}"
                lines.append(line.strip())
            url = lines[-1].removeprefix("lipwire is ready: open ")
            info = httpx.get(url + "/api/info", timeout=5).json()
            assert info["model"]["name"] == "lite" and "ONNX" in info["runtime"]
        finally:
            process.send_signal(wish)
            began_s = time.monotonic()
            _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert time.monotonic() - began_s < 10
    with socket.socket() as probe:  # nobody listens any more
        assert probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) != 0
