"""The cluster as a Ray Serve application, for `lipwire cluster`, `serve run` and RayService files.

import_path: lipwire.server.cluster.app:build
args: {nodes: "2-8", gpus: 1}
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import SecretStr

from lipwire.engine.errors import ConfigError
from lipwire.server.api.auth import new_token
from lipwire.server.cluster.director import Director
from lipwire.server.cluster.node import Node
from lipwire.server.config import PREFIX, ServerConfig, load_config

# Each voice that is sent by WebSocket is a request that lasts as long as its call.
REQUESTS = 10_000
# How far back load is averaged, and for how long it must want another number. Shorter: a call that
# comes and goes starts a node; longer: callers are refused meanwhile. Nodes are kept ten minutes.
LOOK_BACK_S, UPSCALE_S, DOWNSCALE_S = 15.0, 5.0, 600.0
HEALTH_S, HEALTH_TIMEOUT_S = 1.0, 10.0
# Directors run on Ray's head, where the controller is without which nothing starts. On another host
# that vanishes, one would leave its proxies' requests without an answer until Ray Serve puts
# another in its place: 40 s.
ON_HEAD = {"node:__internal_head__": 0.001}
CLOSING_S = 15.0  # what a server takes to stop beyond its drain


class Wanted:
    """Autoscaling policy: as many nodes as are full, and so many more."""

    def __init__(self, spare: float) -> None:
        self._spare = spare

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Of Ray's `AutoscalingContext`."""
        loads = (context.aggregated_metrics or {}).get("load", {}).values()
        if not loads:  # none has been asked yet
            return context.target_num_replicas, {}
        return max(1, math.ceil(sum(loads) + self._spare - 1e-6)), {}


def build(args: dict[str, Any]) -> Any:
    """The application.

    Args:
        args: `nodes` (`"2"`, or `"1-8"` for autoscaling), `cpus` and `gpus` of each, `spare`,
            `directors`; everything else is a setting of the servers, as in `ServerConfig`.

    Raises:
        ConfigError: one of them cannot be.
    """
    from ray import serve

    mine = {"nodes": "1", "cpus": 2.0, "gpus": 0.0, "spare": 0.5, "directors": 1}
    mine |= {name: args[name] for name in mine if name in args}
    settings = load_config(**{k: v for k, v in args.items() if k not in mine})
    settings.check_guarded()
    fewest, most = read_range(str(mine["nodes"]))
    options: dict[str, Any] = {"num_replicas": fewest}
    if most > fewest:
        policy = {"policy_function": Wanted, "policy_kwargs": {"spare": mine["spare"]}}
        options = {
            "autoscaling_config": {
                "min_replicas": fewest,
                "max_replicas": most,
                "policy": policy,
                "look_back_period_s": LOOK_BACK_S,
                "upscale_delay_s": UPSCALE_S,
                "downscale_delay_s": DOWNSCALE_S,
            }
        }
    common = {
        "health_check_period_s": HEALTH_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        # A node's calls, and a Director's voices.
        "graceful_shutdown_timeout_s": settings.drain_s + CLOSING_S,
        "logging_config": {"enable_access_log": False},
    }
    node = serve.deployment(
        Node,
        name="Node",
        ray_actor_options={"num_cpus": mine["cpus"], "num_gpus": mine["gpus"]},
        **common,
        **options,
    )
    director = serve.deployment(
        serve.ingress()(Director),
        name="Director",
        num_replicas=mine["directors"],
        ray_actor_options={"num_cpus": 0, "resources": ON_HEAD},
        max_ongoing_requests=REQUESTS,
        **common,
    )
    nodes = node.bind(environment(settings), settings.drain_s)
    return director.bind(nodes, settings.trusted_proxies)


def read_range(nodes: str) -> tuple[int, int]:
    """`"2"` or `"1-8"`: the fewest and the most.

    Raises:
        ConfigError: neither.
    """
    fewest, _, most = nodes.partition("-")
    try:
        found = int(fewest), int(most or fewest)
    except ValueError:
        found = 0, 0
    if not 1 <= found[0] <= found[1]:
        raise ConfigError(f"nodes is {nodes!r}, must be like 2 or 1-8")
    return found


def environment(settings: ServerConfig) -> dict[str, str]:
    """What was set, as a server's environment; Ray keeps it where the cluster's own state is."""
    given: dict[str, str] = {}
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        given[PREFIX + name.upper()] = text
    # Its port is whichever is free, TLS ends before it, and requests come from the Director, which
    # says for whom.
    given |= {"LIPWIRE_HOST": settings.host, "LIPWIRE_PORT": "0", "LIPWIRE_TRUSTED_PROXIES": "*"}
    given = {k: v for k, v in given.items() if k not in ("LIPWIRE_TLS_CERT", "LIPWIRE_TLS_KEY")}
    if settings.guarded and settings.token is None:
        given["LIPWIRE_TOKEN"] = new_token()  # by which a node sees its own server's sessions
    return given
