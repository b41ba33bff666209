"""TensorRT plans on disk: built once for a GPU, driver, TensorRT and bundle, then found again.

$LIPWIRE_CACHE/plans/NVIDIA_L4-sm_89-driver580.65-trt11.1.0-2.14.0/   one folder for what runs them
    timing.cache                                  helps every later build there
    lite-0.1.0-3f2a9c51d0e4-float16/step-b8.plan  one for each graph and batch size
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lipwire.engine.errors import BackendError
from lipwire.engine.model.bundle import Manifest
from lipwire.engine.model.cache import cache_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Platform:
    """What a plan was built for; it runs on nothing else."""

    architecture: str
    """of the GPU, e.g. NVIDIA L4-sm_89: plans are tuned to a model, not to a generation"""
    driver: str
    tensorrt: str  # of TensorRT and of torch-tensorrt, whose lowering decides what is computed

    @property
    def name(self) -> str:
        """As a folder is called."""
        return _safe(f"{self.architecture}-driver{self.driver}-trt{self.tensorrt}")


def fingerprint(manifest: Manifest) -> str:
    """What identifies the weights and graphs of a bundle: its files' checksums, together."""
    sums = "\n".join(f"{name} {checksum}" for name, checksum in sorted(manifest.files.items()))
    return hashlib.sha256(sums.encode()).hexdigest()[:12]


Loaded = TypeVar("Loaded")


class NotBuilt(BackendError):
    """A plan is wanted that is not there, and that nobody is to build now."""


class PlanCache:
    """The plans of one bundle on one platform.

    Raises:
        BackendError: there is no private folder to keep them in.
    """

    def __init__(self, platform: Platform, manifest: Manifest, precision: str) -> None:
        model = _safe(f"{manifest.name}-{manifest.version}-{fingerprint(manifest)}-{precision}")
        base = cache_folder("plans", platform.name)
        folder = cache_folder("plans", platform.name, model)
        if base is None or folder is None:
            # A plan is code to TensorRT: one that others may have written is not loaded.
            raise BackendError(
                "TensorRT's plans need a private cache folder; set LIPWIRE_CACHE to one"
            )
        self.folder, self.timing_cache = folder, base / "timing.cache"

    def path(self, graph: str, batch: int) -> Path:
        """Where a plan lies or will lie."""
        return self.folder / f"{_safe(graph)}-b{batch}.plan"

    def get(
        self,
        graph: str,
        batch: int,
        build: Callable[[], bytes] | None,
        load: Callable[[bytes], Loaded],
    ) -> Loaded:
        """A plan, loaded: the stored one if it loads, else one that is built and stored.

        Args:
            graph: which.
            batch: at which size.
            build: makes the plan; takes minutes. None: it must be there.
            load: makes it run; raises if it cannot.

        Raises:
            NotBuilt: it is not there, or does not load, and `build` is None.
        """
        path = self.path(graph, batch)
        try:
            return load(path.read_bytes())
        except FileNotFoundError:
            why = "is not there"
        except Exception as error:  # cut off by a full disk, or built by something unnamed here
            why = f"does not load ({error})"
            log.warning("%s %s", path, why)
        if build is None:
            raise NotBuilt(f"{path.name} {why}")
        log.warning("building TensorRT's plan %s; this takes minutes, once", path)
        plan = build()
        loaded = load(plan)
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as part:
            part.write(plan)
        os.replace(part.name, path)  # whole or not at all
        return loaded


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
