from __future__ import annotations

from pathlib import Path

import pytest

from lipwire.engine.model.cache import cache_folder


def test_a_cache_that_others_can_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("LIPWIRE_CACHE", str(cache))
    found = cache_folder("graphs")
    assert found is not None and found.stat().st_mode & 0o777 == 0o700
    found.chmod(0o777)
    assert cache_folder("graphs") is None
    found.chmod(0o700)
    cache.chmod(0o777)
    assert cache_folder("graphs") is None
    monkeypatch.setenv("LIPWIRE_CACHE", "")
    assert cache_folder("graphs") is None
