"""Real addresses and a real cable: what loopback cannot show. Nothing leaves the namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import netns
import pytest

UNSHARE = ("unshare", "--map-root-user", "--net")


def refused() -> str | None:
    """Why there can be no namespaces here."""
    missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install util-linux iproute2"
    trial = [*UNSHARE, "ip", "link", "add", "here", "type", "veth", "peer", "name", "there"]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    return f"network namespaces are not allowed: {done.stderr.strip()}" if done.returncode else None


def test_a_call_finds_its_way_among_addresses_and_ends_with_the_cable() -> None:
    if why := refused():
        pytest.skip(why)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*UNSHARE, sys.executable, str(Path(netns.__file__))],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    # Both sides offered an address that leads nowhere, and pictures came back all the same.
    assert {netns.SERVER, netns.LONELY[0]} <= set(found["answered"])
    assert {netns.CLIENT, netns.LONELY[1]} <= set(found["offered"])
    assert found["sessions"] == 1
    assert found["gone_s"] > 1, "silence is given its time"
    assert found["exit_code"] == 0
