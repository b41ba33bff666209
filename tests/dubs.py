"""Dubbed files, and how they differ, for tests of `dub`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from lipwire.engine.media.files import read_frames
from lipwire.engine.types import U8
from lipwire.server.dub.dub import dub as disclosing_dub

HEIGHT, WIDTH = 120, 160


# What disclosure adds to pictures and files is looked at in test_provenance.py.
dub = partial(disclosing_dub, mark=None, credentials=False)


def images(path: Path) -> list[U8]:
    return [frame.image for frame in read_frames(path)]


def difference(found: list[U8], wanted: list[U8]) -> np.ndarray:
    """Mean over frames and colours, f64[H, W]."""
    return np.abs(np.stack(found).astype(int) - np.stack(wanted)).mean((0, 3))
