"""A folder for what can be made again: optimised graphs.

Nothing in it is trusted for being there: every entry carries the checksum of its bytes and is made
again when they differ, and a folder that others may write to is not used at all.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(*parts: str) -> Path | None:
    """A private folder below lipwire's cache, made if missing; None where there can be none.

    `LIPWIRE_CACHE` names the cache; empty switches it off. Without it the system's place for such
    things is used, `~/.cache/lipwire` on Linux.
    """
    wanted = os.environ.get("LIPWIRE_CACHE")
    if wanted == "":
        return None
    try:
        folder = Path(wanted) if wanted else user_cache_path("lipwire", appauthor=False)
        for name in ("", *parts):
            folder = folder / name
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not is_private(folder):
                return None
        return folder
    except (OSError, RuntimeError):  # a home that does not exist, a read-only disk
        return None


def is_private(path: Path) -> bool:
    """Whether only this user can have written here."""
    if os.name == "nt":  # profiles are private there, and modes say nothing
        return True
    found = path.lstat()
    loose = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return found.st_uid == os.getuid() and not loose and not stat.S_ISLNK(found.st_mode)
