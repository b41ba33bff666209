"""Runtimes that run a bundle's graphs, behind one protocol; loaded only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

from engine.bundle import Bundle, Manifest
from engine.errors import BackendError
from engine.types import U8, LipJob


class Backend(Protocol):
    """Paints mouths. One per device; not shared between threads."""

    manifest: Manifest
    batch_sizes: tuple[int, ...]
    """sizes that run without waste, ascending; any batch up to the last is accepted"""
    description: str
    """one line for people: runtime, device, threads"""

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        """Repaint the lower half of each job's crop, uint8[S, S, 3] each.

        All jobs of a batch take the same number of steps. The upper half is the crop's own.

        Raises:
            BackendError: the runtime failed.
        """
        ...

    def close(self) -> None:
        """Free the device."""
        ...


# name -> module:attribute of a factory (Bundle, **options) -> Backend
_FACTORIES = {
    "ort": "engine.backends.ort:OrtBackend",
    "eager": "engine.backends.eager:EagerBackend",
}


def load_backend(bundle: Bundle, name: str = "ort", **options: Any) -> Backend:
    """Open a bundle on a runtime.

    Args:
        bundle: the model.
        name: of the runtime.
        **options: the runtime's own, e.g. `threads=2` for `ort`.

    Raises:
        BackendError: unknown, not installed, or it refuses the graphs.
    """
    if name not in _FACTORIES:
        raise BackendError(f"no backend {name!r}; known: {sorted(_FACTORIES)}")
    module, attribute = _FACTORIES[name].split(":")
    try:
        factory: Callable[..., Backend] = getattr(import_module(module), attribute)
    except ImportError as error:
        raise BackendError(f"backend {name!r} is not installed ({error})") from error
    return factory(bundle, **options)
