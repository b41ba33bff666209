"""The npm client's types; what it does is in tests/server/test_browser_client.py."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
TSC = REPO / "tests" / "judges" / "node_modules" / ".bin" / "tsc"


def test_what_users_write_has_the_types_that_are_declared() -> None:
    if not TSC.exists():
        pytest.skip("no TypeScript: npm ci --prefix tests/judges")
    flags = ["--noEmit", "--strict", "--lib", "es2022,dom,dom.iterable", "--module", "nodenext"]
    command = [TSC, *flags, REPO / "tests" / "judges" / "types.ts"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_package_holds_what_it_names() -> None:
    folder = REPO / "clients" / "js"
    package = json.loads((folder / "package.json").read_text())
    assert all((folder / name).is_file() for name in package["files"])
    # The page's own copy is a link in a checkout and a file in the wheel.
    page = REPO / "server" / "static" / "lipwire-client.js"
    assert page.read_text() == (folder / "index.js").read_text()
