"""`lipwire cluster`: many servers as one, on Ray Serve."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

WAIT_S = 0.5
# For a Ray that this command starts itself. Media is real time: its workers' usual niceness of 15
# starves it beside anything else. No reports go to its makers. A small machine that loads
# everything at once needs longer than the 5 s which a proxy is given.
ALONE = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}


def cluster(
    nodes: Annotated[
        str, typer.Option(help="Servers, e.g. 4; or 1-8: as many as the calls want.")
    ] = "1",
    cpus: Annotated[float, typer.Option(min=0, help="CPU cores that Ray counts for each.")] = 2,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each.")] = 0,
    spare: Annotated[
        float, typer.Option(min=0, help="With 1-8: servers' worth of room that stays free.")
    ] = 0.5,
    directors: Annotated[
        int, typer.Option(min=1, help="Processes that place calls and forward what is said.")
    ] = 1,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[int | None, typer.Option(help="TCP port.", show_default="8080")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the servers' settings; see docs/server.md.")
    ] = None,
) -> None:
    """Start servers on a Ray cluster and one address for them all; needs the extra `ray`.

    Joins the cluster of RAY_ADDRESS or of `ray start`; without one, Ray runs on this machine alone.
    The servers' settings are those of `lipwire serve`, from the file and LIPWIRE_* of this
    environment. Ctrl-C and SIGTERM let calls go on for `drain_s`; a second one does not wait.
    """
    from lipwire.engine.errors import ConfigError
    from lipwire.server.cluster.app import read_range
    from lipwire.server.config import load_config

    settings = load_config(config, host=host, port=port)
    settings.check_guarded()
    fewest, _ = read_range(nodes)
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("Ray is not installed here: pip install 'lipwire[ray]'")
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import serve

    from lipwire.server.cluster.app import build
    from lipwire.server.cluster.node import APP

    try:
        ray.init(address="auto")
    except ConnectionError:
        cores = os.cpu_count() or 1
        if fewest * cpus > cores:
            raise ConfigError(
                f"{fewest} nodes of {cpus:g} cores need more than the {cores} of this machine: "
                "lower --nodes or --cpus"
            ) from None
        ray.init(include_dashboard=False)
    if settings.loopback and sum(each["Alive"] for each in ray.nodes()) > 1:
        raise ConfigError(
            f"other machines of the cluster cannot reach {settings.host}: --host 0.0.0.0 and a "
            "token (`lipwire token new`)"
        )
    tls = {"ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key}
    options = {"host": settings.host, "port": settings.port}
    options |= {name: str(path) for name, path in tls.items() if path is not None}
    serve.start(proxy_location="EveryNode", http_options=options)
    given: dict[str, Any] = {name: getattr(settings, name) for name in settings.model_fields_set}
    each = {"nodes": nodes, "cpus": cpus, "gpus": gpus}
    app = build({**given, **each, "spare": spare, "directors": directors})
    serve.run(app, name=APP)
    wishes: list[int] = []
    for wish in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wish, lambda number, frame: wishes.append(number))
    scheme = "https" if settings.tls_cert else "http"
    print(f"lipwire is ready: open {scheme}://{settings.host}:{settings.port}", flush=True)
    while not wishes:
        time.sleep(WAIT_S)
    serve.delete(APP, _blocking=False)
    while len(wishes) < 2 and APP in serve.status().applications:
        time.sleep(WAIT_S)
    ray.shutdown()
