"""`lipwire bench fleet`: a cluster of 1 to 1,000 nodes and its audience in virtual time.

The Director's own directory (`server/cluster/directory.py`) places calls, and the cluster's own
policy says how many nodes there are; the clock, calls, failures and nodes are made up, from
measured times where there are any. `docs/capacity.md` reads the result.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from lipwire.benchmarks.harness.record import figure
from lipwire.engine.errors import ConfigError
from lipwire.server.cluster.app import LOOK_BACK_S, UPSCALE_S, Wanted
from lipwire.server.cluster.director import CONNECT_S
from lipwire.server.cluster.directory import TELL_S, Directory, State

NODES, VIEWERS = (1, 3, 10, 30, 100, 300, 1000), (10**2, 10**3, 10**4, 10**5, 10**6)
REQUESTS = 3  # of a call: TURN servers, the offer, the voice's socket
# `lipwire_client`: between attempts, the first and the longest; a connection without pictures is
# given up after so long.
AGAIN_S, AGAIN_MAX_S, STALL_S = 0.2, 2.0, 3.25
FAIL_S, SURGE_S, END_S, VOICES_S = 30.0, 120.0, 420.0, 0.1  # of virtual time
DRAINS_S, WAVE = (600.0, 3600.0, 14_400.0), 0.1


@dataclass(frozen=True)
class Fleet:
    """One cluster; times in seconds."""

    nodes: int = 10
    places: int = 1
    """calls that a node takes: `bench capacity`, lite on two cores (docs/records/capacity.json)"""
    node_s: float = 12.0  # until Ray has another node ready where a host is free: docs/capacity.md
    host_s: float = 60.0  # until a cloud has another host; assumed
    request_s: float = 0.010  # CPU time of the Director for a request it forwards: docs/capacity.md
    hear_s: float = 0.0015
    """CPU time of each Director for what a node says every second: docs/capacity.md"""
    message_s: float = 0.0005
    """CPU time of the Director for a message of a voice's socket: docs/capacity.md"""
    voice_hz: float = 10.0
    """such messages of a call, on the average: half of the time in pieces of 50 ms; assumed"""
    directors: int = 1
    connect_s: float = 0.5
    """from the answer to the first picture; docs/benchmarks.md has 0.44 on loopback"""
    use: float = 0.7  # share of the places that are taken; assumed
    spare: float = 0.1  # share of the nodes whose room the policy keeps free; assumed
    surge: float = 0.4  # calls that come within a minute, as a share of the places; assumed
    call_s: float = 1200.0  # mean length of a call, exponential; assumed
    lost: float = 0.01  # share of the nodes that vanish at once, without closing their connections


@dataclass(frozen=True)
class Audience:
    """What watching costs."""

    mbit: float = 1.5  # of a viewer, as it begins (`start_kbps`)
    node_cores_left: float = 0.75  # of two, beside one call: docs/records/capacity.json
    viewer_cores: float = 0.004  # `bench viewers`, without the socket: docs/broadcast.md
    node_mbit: float = 1000.0
    sfu_mbit: float = 10_000.0
    """of a node's and of an SFU's network, of which 70 % may be used; assumed"""
    joining_s: float = 60.0  # in which the audience of an event comes; assumed

    def row(self, viewers: int, request_s: float) -> dict[str, Any]:
        """So many viewers of one call: what would serve them."""
        own = min(0.7 * self.node_mbit / self.mbit, self.node_cores_left / self.viewer_cores)
        return {
            "viewers": viewers,
            "network_gbit": viewers * self.mbit / 1000,
            "node_alone": "yes" if viewers <= own else "no",
            "sfus": math.ceil(viewers * self.mbit / (0.7 * self.sfu_mbit)),
            "busy_directors_while_they_come": viewers / self.joining_s * request_s,
        }


class Simulation:
    """`END_S` of a cluster: it runs, nodes vanish, calls surge."""

    def __init__(self, fleet: Fleet, seed: int = 0) -> None:
        self.fleet, self._rng, self._now = fleet, random.Random(seed), 0.0
        self._directory = Directory(lambda: self._now)
        self._calls: dict[str, set[str]] = {}  # node -> its calls
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._free_s = [0.0] * fleet.directors  # when each has done what it was asked
        self._loads: deque[float] = deque(maxlen=round(LOOK_BACK_S))
        self._lacking_s, self._coming = 0.0, 0  # seconds of too few nodes; nodes on their way
        self.busy_s, self.most_nodes = 0.0, 0
        self.waits_s: dict[str, list[float]] = {"usual": [], "lost": [], "surge": []}
        self._waiting: dict[str, tuple[str, float]] = {}  # call -> why, since when

    def run(self) -> dict[str, Any]:
        """A row of figures."""
        fleet, places = self.fleet, self.fleet.nodes * self.fleet.places
        for _ in range(fleet.nodes):
            self._start_node()
        for _ in range(round(fleet.use * places)):
            self._hold(f"call-{next(self._numbers)}")
        time_s = 0.0
        while (time_s := time_s + self._rng.expovariate(fleet.use * places / fleet.call_s)) < END_S:
            why = "usual" if time_s < SURGE_S else "surge"
            self._at(time_s, lambda why=why: self._ask(why))  # type: ignore[misc]
        for _ in range(round(fleet.surge * places)):
            self._at(SURGE_S + self._rng.uniform(0, 60), lambda: self._ask("surge"))
        self._at(FAIL_S, self._vanish)
        for second in range(int(END_S)):
            self._at(second + 0.5, self._scale)
        for tick in range(int(END_S / VOICES_S)):
            self._at(tick * VOICES_S, self._voices)
        while self._events:
            self._now, _, what = heapq.heappop(self._events)
            if self._now < END_S:
                what()
        for why, since_s in self._waiting.values():  # they have waited for so long at least
            self.waits_s[why].append(END_S - since_s)
        return self._row()

    def _at(self, time_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._numbers), what))

    def _start_node(self) -> None:
        name = f"node-{next(self._numbers)}"
        self._calls[name] = set()
        self._tell(name)
        self.most_nodes = max(self.most_nodes, len(self._calls))

    def _tell(self, name: str) -> None:
        """What a node says each second to every Director."""
        if (held := self._calls.get(name)) is None:
            return
        room = self.fleet.places - len(held)
        weight = round(100 * room / self.fleet.places)
        self._directory.hear(State(name, "", tuple(held), room, weight))
        for index in range(self.fleet.directors):
            self._work(index, self.fleet.hear_s)
        self._at(self._now + TELL_S * self._rng.uniform(0.9, 1.1), lambda: self._tell(name))

    def _work(self, index: int, work_s: float) -> float:
        """When a Director has done it: one thread, first come, first served."""
        self._free_s[index] = max(self._free_s[index], self._now) + work_s
        self.busy_s += work_s
        return self._free_s[index]

    def _ask(
        self, why: str, name: str = "", begun_s: float | None = None, wait_s: float = AGAIN_S
    ) -> None:
        """Publish, and try again as the client does until a node takes it."""
        name = name or f"call-{next(self._numbers)}"
        asked_s = self._now if begun_s is None else begun_s
        self._waiting[name] = why, asked_s
        index = self._rng.randrange(self.fleet.directors)
        done_s = self._work(index, REQUESTS * self.fleet.request_s)
        state = self._directory.owner(name)
        if state is not None and state.node not in self._calls:  # its machine is no more
            done_s += CONNECT_S
            self._at(done_s, lambda: self._directory.forget(state.node))

        def answer() -> None:
            if self._hold(name):
                self.waits_s[why].append(self._now - asked_s)
                del self._waiting[name]
            else:
                again_s = min(2 * wait_s, AGAIN_MAX_S)
                self._at(self._now + wait_s, lambda: self._ask(why, name, asked_s, again_s))

        self._at(done_s, answer)

    def _hold(self, name: str) -> bool:
        """Whether a node takes the call; it ends by itself."""
        while (state := self._directory.place(name)) is not None and state.node not in self._calls:
            self._directory.forget(state.node)
        if state is None:
            return False
        held = self._calls[state.node]
        held.add(name)
        self._at(
            self._now + self._rng.expovariate(1 / self.fleet.call_s), lambda: held.discard(name)
        )
        return True

    def _running(self) -> int:
        return sum(map(len, self._calls.values()))

    def _voices(self) -> None:
        """What was spoken since the last time, in equal parts at each Director."""
        messages = self._running() * self.fleet.voice_hz * VOICES_S / self.fleet.directors
        for index in range(self.fleet.directors):
            self._work(index, messages * self.fleet.message_s)

    def _vanish(self) -> None:
        count = max(1, round(self.fleet.lost * self.fleet.nodes))
        # Of those with calls: of few nodes one without would tell nothing.
        for node in sorted(self._calls, key=lambda node: -len(self._calls[node]))[:count]:
            for name in self._calls.pop(node):
                noticed_s = self._now + STALL_S + self._rng.uniform(0, 0.25)
                failed_s = self._now - self.fleet.connect_s
                self._at(noticed_s, lambda n=name, f=failed_s: self._ask("lost", n, f))  # type: ignore[misc]

    def _scale(self) -> None:
        """Ray Serve's part: mean load over a while, the policy, a delay, a host, a node."""
        self._loads.append(self._running() / self.fleet.places)
        metrics = {"load": {0: sum(self._loads) / len(self._loads)}}
        policy = Wanted(self.fleet.spare * self.fleet.nodes)
        wanted, _ = policy(SimpleNamespace(aggregated_metrics=metrics))
        lacking = wanted - len(self._calls) - self._coming
        self._lacking_s = self._lacking_s + 1 if lacking > 0 else 0
        if self._lacking_s > UPSCALE_S:
            self._coming += lacking
            for _ in range(lacking):
                self._at(self._now + self.fleet.host_s + self.fleet.node_s, self._arrive)

    def _arrive(self) -> None:
        self._coming -= 1
        self._start_node()

    def _row(self) -> dict[str, Any]:
        def tail(why: str, share: float = 95) -> float | None:
            return float(np.percentile(self.waits_s[why], share)) if self.waits_s[why] else None

        return {
            "nodes": self.fleet.nodes,
            "directors": self.fleet.directors,
            "director_busy_share": self.busy_s / END_S / self.fleet.directors,
            "placed_p95_s": tail("usual"),
            "lost_calls": len(self.waits_s["lost"]),
            "lost_back_p50_s": tail("lost", 50),
            "lost_back_p95_s": tail("lost"),
            "surge_placed_p50_s": tail("surge", 50),
            "surge_placed_p95_s": tail("surge"),
            "most_nodes": self.most_nodes,
        }


def drain(fleet: Fleet, drain_s: float, seed: int = 0) -> dict[str, Any]:
    """An upgrade of every node, a tenth at a time, each waiting for its calls or `drain_s`."""
    rng = np.random.default_rng(seed)
    size = max(1, math.ceil(WAVE * fleet.nodes))
    took_s, cut, calls = 0.0, 0, 0
    for first in range(0, fleet.nodes, size):
        nodes = min(size, fleet.nodes - first)
        left_s = rng.exponential(fleet.call_s, max(1, round(fleet.use * fleet.places * nodes)))
        took_s += min(drain_s, float(left_s.max())) + fleet.node_s
        cut, calls = cut + int(np.sum(left_s > drain_s)), calls + len(left_s)
    row = {"nodes": fleet.nodes, "drain_s": drain_s, "at_once": size}
    return row | {"took_h": took_s / 3600, "calls_cut_share": cut / calls}


def run(
    *,
    nodes: Sequence[int] = NODES,
    viewers: Sequence[int] = VIEWERS,
    places: Annotated[int, Ge(1)] = Fleet.places,
    node_s: Annotated[float, Ge(0)] = Fleet.node_s,
    host_s: Annotated[float, Ge(0)] = Fleet.host_s,
    voice_hz: Annotated[float, Ge(0)] = Fleet.voice_hz,
    directors: Sequence[int] = (1, 4),
    spare: Annotated[float, Ge(0)] = Fleet.spare,
    use: Annotated[float, Ge(0.01), Le(1)] = Fleet.use,
    plot: Path | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Every number of nodes: 1 % vanish, calls surge, all are upgraded; and every audience.

    Args:
        nodes: how many, each.
        viewers: of one call, each.
        places: calls that a node takes, from `bench capacity`; no GPU has been measured.
        node_s: until another node is ready where a host is free.
        host_s: until another host is there.
        voice_hz: messages of a call's voice by WebSocket, a second.
        directors: how many, each.
        spare: share of the nodes whose room is kept free.
        use: share of the places that are taken.
        plot: an SVG or PNG to draw; needs matplotlib.
        progress: told each number of nodes.
    """
    one = Fleet(
        places=places, node_s=node_s, host_s=host_s, voice_hz=voice_hz, use=use, spare=spare
    )
    rows: list[dict[str, Any]] = []
    for each in directors:
        for count in nodes:
            progress(f"{count} nodes, {each} directors")
            rows.append(Simulation(replace(one, nodes=count, directors=each)).run())
    drains = [drain(replace(one, nodes=count), drain_s) for count in nodes for drain_s in DRAINS_S]
    if plot is not None:
        draw(rows, plot)
    well = [row["nodes"] for row in rows if (row["placed_p95_s"] or 0) <= 1]
    return {
        "figures": {"nodes whose calls are placed within 1 s (p95)": figure(max(well, default=0))},
        "tables": {
            "1 % of the nodes vanish, calls surge": rows,
            "an upgrade": drains,
            "audience of one call": [Audience().row(each, one.request_s) for each in viewers],
        },
        "input": {"fleet": asdict(one), "audience": asdict(Audience())},
    }


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """How the figures grow with the nodes."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("a plot needs matplotlib: pip install 'lipwire[train]'") from None
    drawn = Figure(figsize=(9, 3), layout="constrained")
    shown = ("director_busy_share", "placed_p95_s", "lost_back_p95_s")
    for panel, name in zip(drawn.subplots(1, 3), shown, strict=True):
        for directors in sorted({row["directors"] for row in rows}):
            own = [row for row in rows if row["directors"] == directors and row[name] is not None]
            line = [(row["nodes"], row[name]) for row in own]
            panel.plot(*zip(*line, strict=True), "o-", label=f"{directors} Directors")
        panel.set(xscale="log", yscale="log", xlabel="nodes", title=name)
        panel.legend(frameon=False, fontsize="small")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lipwire"}):
        drawn.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
