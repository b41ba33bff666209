"""The Chromium of this machine, driven without a window."""

from __future__ import annotations

import shutil
from typing import Any


def find_chromium() -> str | None:
    """Its program, by either of the names that distributions give it."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def headless(program: str, *arguments: str) -> dict[str, Any]:
    """What playwright's `chromium.launch` takes.

    Args:
        program: as found.
        *arguments: of its command line, beside those that every use wants.
    """
    # Its new headless mode has all codecs; playwright's own `headless` is the old one.
    always = ("--headless=new", "--no-sandbox", "--disable-background-networking")
    return {"executable_path": program, "headless": False, "args": [*always, *arguments]}
