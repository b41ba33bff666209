"""Servers in processes of their own, for as long as a benchmark needs them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lipwire.engine.errors import LipwireError

START_S = 180.0  # a server that loads for longer will not come; a busy machine takes a minute
UNLIMITED: dict[str, Any] = {
    "rate_per_s": 10_000,
    "rate_burst": 10_000,
}  # all requests come from one address
NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_server(server: subprocess.Popen[bytes], port: int) -> None:
    """Return when a server that was just started answers."""
    begun = time.monotonic()
    while time.monotonic() < begun + START_S:
        if server.poll() is not None:
            raise LipwireError(f"the server ended with code {server.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/info", timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    server.kill()
    raise LipwireError(f"the server did not answer within {START_S:g} s")


def end_server(server: subprocess.Popen[bytes]) -> None:
    """Stop a server as an operator does, and by force if it does not stop."""
    server.terminate()
    try:
        server.wait(timeout=30)
    except subprocess.TimeoutExpired:
        server.kill()


def start_server(
    port: int,
    bundle: Path | None,
    program: Sequence[str] = ("-m", "lipwire", "serve"),
    **settings: Any,
) -> tuple[subprocess.Popen[bytes], float]:
    """Start `lipwire serve`; returns the process and the seconds until it answered."""
    settings["port"] = port
    if bundle is not None:
        settings["bundle"] = bundle
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *program],
        stdout=subprocess.DEVNULL,
        env=os.environ | {f"LIPWIRE_{k.upper()}": str(v) for k, v in settings.items()},
        start_new_session=True,  # Ctrl-C is for the benchmark, which ends its server itself
    )
    await_server(process, port)
    return process, time.monotonic() - begun


@contextlib.contextmanager
def serving(
    bundle: Path | None = None, **settings: Any
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of its own process; its address and the process. See `start_server`."""
    port = free_port()
    process, _ = start_server(port, bundle, **settings)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        end_server(process)


@contextlib.contextmanager
def serving_on_socket(module: str, *flags: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A module that serves on a socket that it inherits; its address and the process.

    The socket is bound here and handed on: nobody else can take the port meanwhile. Its
    descriptor comes before the flags; its standard input is a pipe.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        command = [sys.executable, "-m", module, str(fd), *flags]
        process = subprocess.Popen(command, pass_fds=(fd,), stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        await_server(process, port)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.stdin.close()
        end_server(process)


def netem_works() -> bool:
    """Whether this machine lets us have a network namespace with `tc netem` in it."""
    if any(shutil.which(name) is None for name in ("unshare", "ip", "tc")):
        return False
    script = "ip link set lo up && tc qdisc add dev lo root netem delay 1ms"
    done = subprocess.run([*NAMESPACE, "sh", "-c", script], capture_output=True, check=False)
    return done.returncode == 0


def run_json(command: Sequence[str], timeout_s: float) -> dict[str, Any]:
    """What a caller's process prints, one JSON object."""
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=timeout_s, check=False)
    if done.returncode:
        raise LipwireError("the callers failed; their message is above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
