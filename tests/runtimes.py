"""The shipped model on any runtime, and jobs for it, for tests of the backends."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import picture

from lipwire.engine.audio.mel import log_mel, window
from lipwire.engine.backends import Backend, load_backend
from lipwire.engine.errors import BackendError
from lipwire.engine.model.bundle import DEFAULT_BUNDLE, MANIFEST, Bundle, open_bundle, sha256
from lipwire.engine.types import LipJob

if not (DEFAULT_BUNDLE / MANIFEST).is_file():
    pytest.skip("no model has been built into this copy", allow_module_level=True)

SPEC = open_bundle().manifest.job_spec
SIZE = SPEC.crop_size


@functools.cache
def open_once(name: str) -> Backend:
    """The shipped model on a runtime, left open; skips the test where that is not installed."""
    try:
        return load_backend(open_bundle(), name)
    except BackendError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise


def job(index: int = 0, steps: int = 2, seed: int = 0, size: int = SIZE) -> LipJob:
    """A crop, other references and sound that is never silent."""
    rng = np.random.default_rng(index)
    sound = (rng.normal(0, 0.1, 8000) * (1 + np.sin(np.arange(8000) / 300))).astype(np.float32)
    mel = window(log_mel(sound), 8, SPEC.mel_columns)
    references = [picture(size, size, index + 50 + rank) for rank in range(SPEC.references)]
    return LipJob(
        "test", index, picture(size, size, index), np.stack(references), mel, seed, steps, 0.0
    )


def reseal(path: Path, **changes: object) -> Bundle:
    """A bundle whose files were changed, with the checksums that they have now."""
    manifest = open_bundle().manifest
    sums = {name: sha256(path / name) for name in manifest.files if (path / name).exists()}
    sealed = replace(manifest, **{"files": sums, **changes})  # type: ignore[arg-type]
    (path / MANIFEST).write_text(sealed.to_json(), encoding="utf-8")
    return open_bundle(path)
