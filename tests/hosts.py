"""Hosts on one machine: network namespaces on a switch, each with an address and processes of its
own. They can be unplugged, and killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000
SUBNET = "10.77.0"
PREFIX = f"lw{os.getpid()}"  # of the names of namespaces
SWITCH = f"{PREFIX}-switch"  # a bridge in a namespace, so that nothing of this is outside


class Host:
    """One of them.

    Args:
        number: of its address, 1 to 253.
        folder: for its files.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self.name, self.address = f"{PREFIX}-{number}", f"{SUBNET}.{number}"
        self.port = f"port{number}"  # of the switch
        self.folder = folder / str(number)
        self._started: list[subprocess.Popen[str]] = []

    def add(self) -> None:
        """Put it there."""
        self.folder.mkdir()
        ip(f"netns add {self.name}")
        ip(f"-netns {SWITCH} link add {self.port} type veth peer name eth0 netns {self.name}")
        ip(f"-netns {SWITCH} link set {self.port} master bridge up")
        for command in (
            "link set lo up",
            f"address add {self.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {SUBNET}.254",  # Chromium takes no interface without one
        ):
            ip(f"-netns {self.name} {command}")

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """A process there; what it says goes into `log`."""
        with self.log.open("a") as log:
            started = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **environment},
            )
        self._started.append(started)
        return started

    @property
    def log(self) -> Path:
        """Of its processes."""
        return self.folder / "log"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, is on the host."""
        with Path("/proc/thread-self/ns/net").open() as home:
            _enter(Path(f"/run/netns/{self.name}"))
            try:
                yield
            finally:
                _enter(Path(f"/proc/self/fd/{home.fileno()}"))

    def plug(self, there: bool) -> None:
        """Put its cable in, or pull it: nobody is told that connections are gone."""
        ip(f"-netns {SWITCH} link set {self.port} {'up' if there else 'down'}")

    def processes(self) -> set[int]:
        """All of its own."""
        return {int(pid) for pid in ip(f"netns pids {self.name}").split()}

    def kill(self) -> None:
        """Kill all that runs there."""
        until_s = time.monotonic() + 20
        while (left := self.processes()) and time.monotonic() < until_s:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def datagrams(self) -> int:
        """UDP that it has sent and received (RFC 4113)."""
        counted = ip(f"netns exec {self.name} cat /proc/net/snmp").splitlines()
        names, values = (line.split() for line in counted if line.startswith("Udp:"))
        found = dict(zip(names, values, strict=True))
        return int(found["InDatagrams"]) + int(found["OutDatagrams"])

    def remove(self) -> None:
        """Take it down for good, as far as it was put there."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.kill()
            ip(f"netns delete {self.name}")
        for process in self._started:
            process.wait(10)


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many of them, with addresses from 10.77.0.1 up."""
    # A short name: that of a socket in it has 107 letters at most.
    folder = Path(tempfile.mkdtemp(prefix="lw"))
    made = [Host(number, folder) for number in range(1, count + 1)]
    ip(f"netns add {SWITCH}")
    try:
        ip(f"-netns {SWITCH} link add bridge type bridge")
        ip(f"-netns {SWITCH} link set bridge up")
        for host in made:
            host.add()
        yield made
    finally:
        for host in made:
            host.remove()
        ip(f"netns delete {SWITCH}")
        shutil.rmtree(folder)


def why_not() -> str:
    """Why there can be no hosts here; empty where there can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if shutil.which("ip") is None:
        return "`ip` is not installed: apt-get install iproute2"
    try:
        ip(f"netns add {PREFIX}-try")
        ip(f"netns delete {PREFIX}-try")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    return ""


def ip(command: str) -> str:
    """What a command of iproute2 says."""
    return subprocess.run(
        ["ip", *command.split()], check=True, capture_output=True, text=True
    ).stdout


def _enter(namespace: Path) -> None:
    with namespace.open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
