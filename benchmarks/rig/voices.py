"""The voices that benchmarks speak with."""

from __future__ import annotations

from pathlib import Path


def sample_voice() -> Path:
    """The first voice that ships with lipwire."""
    folder = Path(__file__).parents[2] / "server" / "static" / "voices"
    return sorted(p for p in folder.iterdir() if p.suffix in (".ogg", ".opus", ".mp3", ".wav"))[0]
