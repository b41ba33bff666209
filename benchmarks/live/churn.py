"""`lipwire bench churn`: calls that come, go and are killed; what the server holds afterwards.

A caller's process takes longer to start than its calls take, so the next one starts beside the
present one and waits to be told. Nobody waits for the killed either: they are noticed while others
call, `ROOM` rounds of calls at once at most. What is left is counted when all are gone.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from lipwire.benchmarks.harness.machine import process_memory_mib
from lipwire.benchmarks.live.transport import figures_of, start_probe, verdict
from lipwire.benchmarks.rig.probe import CONNECTED
from lipwire.benchmarks.rig.server import UNLIMITED, serving
from lipwire.engine.errors import LipwireError
from lipwire.server.call.sessions import REST_S

COUNTED = ("fds", "threads", "tasks", "sessions")  # what must be as before
MORE_MIB = 20.0
ROOM = 2  # rounds whose calls may be there at once: one that calls, one that was killed
# Of callers before a server is called warm: pools that were never used are empty, and fill over
# several calls. They are no leak.
WARM_ROUNDS = 3
CALL_S = 0.5
CALLER_S = 120.0  # a caller that takes longer has failed


def held(pid: int, url: str) -> dict[str, Any]:
    """What a server holds: file descriptors by kind, threads, tasks, calls, memory (Linux)."""
    # Before anything is asked: a connection that was just answered is closed a moment later.
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            kinds[re.sub(r"\W*\[?\d+\]?$", "", entry.readlink().name)] += 1
    status = Path(f"/proc/{pid}/status").read_text()
    threads = next(x for x in status.splitlines() if x.startswith("Threads:")).split()[1]
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as reply:
        values = dict(
            re.findall(r"^(lipwire_(?:sessions|tasks)) (\S+)", reply.read().decode(), re.M)
        )
    return {
        "fds": sum(kinds.values()),
        "kinds": dict(kinds),
        "threads": int(threads),
        "tasks": int(float(values["lipwire_tasks"])),
        "sessions": int(float(values["lipwire_sessions"])),
        "resident_mib": process_memory_mib(pid)["resident_mib"],
    }


class _Server:
    """A server that is churned."""

    def __init__(self, url: str, pid: int, calls: int, patience_s: float) -> None:
        self.url, self._pid, self.calls, self._patience_s = url, pid, calls, patience_s

    def look(self) -> dict[str, Any]:
        """What it holds now."""
        return held(self._pid, self.url)

    def settle(self, sessions: int = 0) -> dict[str, Any]:
        """What it holds when it has so many calls or fewer; its patience over, what it holds."""
        ends = time.monotonic() + self._patience_s
        while (found := self.look())["sessions"] > sessions and time.monotonic() < ends:
            time.sleep(0.2)
        if not sessions:
            time.sleep(2 * REST_S)  # what the last one held is given back a little later
            return self.look()
        return found


@contextlib.contextmanager
def _caller(url: str, calls: int, kill: bool) -> Iterator[subprocess.Popen[bytes]]:
    """A process that calls when it is told, and is gone afterwards."""
    flags: tuple[object, ...] = ("--calls", calls, "--settle", 0, "--when-told", "--say-when")
    caller = start_probe(url, CALLER_S if kill else CALL_S, *flags)
    try:
        yield caller
    finally:
        caller.kill()
        caller.communicate()


def _call(caller: subprocess.Popen[bytes], kill: bool) -> None:
    """Let it call, then hang up or be killed in the middle."""
    assert caller.stdin is not None
    caller.stdin.write(b"call\n")
    _await_calls(caller)
    if not kill:
        figures_of(caller, CALLER_S)


def _await_calls(caller: subprocess.Popen[bytes]) -> None:
    """Return when its calls run."""
    assert caller.stdout is not None
    if caller.stdout.readline().decode().strip() != CONNECTED:
        raise LipwireError("a caller failed; its message is above")


def churn(
    *,
    sessions: Annotated[int, Ge(1)] = 200,
    at_once: Annotated[int, Ge(1)] = 4,
    patience_s: float = 60,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """R2: calls that come and go, a third of them killed, and what the server holds afterwards.

    Interrupted, it gives what it has counted so far.

    Args:
        sessions: in all.
        at_once: in each process of callers.
        patience_s: how long the dead may take to be noticed.
        progress: told how many calls there have been.
    """
    rounds = -(-sessions // at_once)
    looks: list[dict[str, Any]] = []
    before = after = None
    killed = 0
    cut = ""
    try:
        with serving(max_sessions=ROOM * at_once, **UNLIMITED) as (url, process):
            server = _Server(url, process.pid, at_once, patience_s)
            progress("warming the server")
            _warm(server)
            before = server.settle()
            begun = time.monotonic()
            for done, kill in _rounds(server, rounds):
                killed += at_once * kill
                took_s = time.monotonic() - begun
                found = server.look()
                looks.append(
                    {"calls": done * at_once, "killed": killed, "after_s": took_s}
                    | {name: found[name] for name in (*COUNTED, "resident_mib")}
                )
                left_s = took_s / done * (rounds - done)
                progress(
                    f"{done * at_once} of {rounds * at_once} calls, {killed} killed, "
                    f"about {left_s:.0f} s left"
                )
            progress("waiting until all are gone")
            after = server.settle()
    except KeyboardInterrupt:
        cut = f"interrupted after {len(looks) * at_once} of {rounds * at_once} calls"
    figures = {"before": before, "after": after, "killed": killed}
    met = {}
    if before is not None and after is not None:
        met = {f"{name} as before": after[name] <= before[name] for name in COUNTED}
        more_mib = after["resident_mib"] - before["resident_mib"]
        met[f"memory at most {MORE_MIB:g} MiB more"] = more_mib <= MORE_MIB
    return verdict(
        figures, met, sessions=rounds * at_once, tables={"while it goes on": looks}, incomplete=cut
    )


def _warm(server: _Server) -> None:
    """As many calls at once as there will be, then rounds like those that are counted."""
    flags = ("--calls", server.calls, "--settle", 0, "--say-when", "--until-told")
    with contextlib.ExitStack() as ended:
        callers = [start_probe(server.url, CALLER_S, *flags) for _ in range(ROOM)]
        for caller in callers:
            ended.callback(caller.kill)
        for caller in callers:
            _await_calls(caller)
        for caller in callers:
            figures_of(caller, CALLER_S)
    server.settle()
    for _ in _rounds(server, WARM_ROUNDS):
        pass
    server.settle()


def _rounds(server: _Server, count: int) -> Iterator[tuple[int, bool]]:
    """Rounds of calls, each third one killed: how many have been, and whether this one was."""
    with contextlib.ExitStack() as callers:

        def start(index: int) -> subprocess.Popen[bytes]:
            kill = index % 3 == 2
            return callers.enter_context(_caller(server.url, server.calls, kill))

        following = start(0)
        for index in range(count):
            caller = following
            server.settle((ROOM - 1) * server.calls)  # room for this one
            if index + 1 < count:
                following = start(index + 1)
            kill = index % 3 == 2
            _call(caller, kill)
            if kill:
                caller.kill()
                caller.communicate()
            yield index + 1, kill
