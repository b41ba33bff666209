"""A bundle, a runtime and the devices by name -> an engine that is warm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from threadpoolctl import threadpool_limits

from lipwire.engine.backends import Backend, load_backend
from lipwire.engine.face.tracker import Runtime
from lipwire.engine.model.bundle import open_bundle
from lipwire.engine.runtime.engine import Engine


def open_engine(
    bundle: str | Path | None = None,
    *,
    backend: str = "ort",
    threads: int | None = None,
    devices: Sequence[str] | None = None,
    batch_sizes: tuple[int, ...] | None = None,
    tracker: Runtime = "litert",
) -> Engine:
    """Open a model on this machine, warm: the first frame of a session costs no more than others.

    From then on numpy's BLAS has one thread in this process. OpenBLAS' other threads spin for
    milliseconds after every product, and a call has many small ones: with two cores they took 55 %
    of a server's CPU and gained nothing.

    Args:
        bundle: a bundle's folder; None takes the model that ships with lipwire.
        backend: the runtime; `auto` takes the fastest that this machine has for each device.
        threads: CPU threads of the runtime; None decides by the machine.
        devices: where to run it, e.g. `["cuda:0", "cuda:1", "cpu"]`; a device named twice gets two
            workers. None takes the runtime's own choice of one.
        batch_sizes: frames that are painted together, ascending; fewer sizes open faster. None
            leaves them to the runtime.
        tracker: what runs MediaPipe's face nets: LiteRT, or MediaPipe itself (the extra
            `mediapipe`).

    Raises:
        BundleError: the bundle is incomplete, altered or unknown.
        BackendError: the runtime or a device is missing, refuses the model or lacks memory for it.
        ConfigError: the tracker is not installed.
    """
    threadpool_limits(1, user_api="blas")
    opened = open_bundle(bundle)
    backends: list[Backend] = []
    try:
        for device in devices or (None,):
            options = {"device": device, "threads": threads, "batch_sizes": batch_sizes}
            backends.append(load_backend(opened, backend, **options))
    except BaseException:
        for made in backends:
            made.close()
        raise
    from lipwire.engine.backends.articulation import open_articulation  # loads the runtime

    engine = Engine(
        backends,
        devices=devices or [backend],
        articulation=open_articulation(opened),
        tracker=tracker,
    )
    try:
        engine.warm_up()
    except BaseException:
        engine.close()
        raise
    return engine
