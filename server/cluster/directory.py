"""Directory: which nodes there are, how many calls each wants, and which runs what.

Nothing in it is kept: nodes say what they are every second, so that a Director that was started
again knows all within that time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

TELL_S = 1.0  # how often a node says what it is
# A node that says nothing for so long is gone. Shorter: a busy one is thought lost and its calls
# are not found; longer: one that vanished without closing its connections gets calls meanwhile.
SILENT_S = 5 * TELL_S
# A call that was placed may be missing for so long in what its node says of itself.
PLACED_S = 3 * TELL_S


@dataclass(frozen=True, slots=True)
class State:
    """What a node says of itself."""

    node: str
    url: str  # where the Director reaches it
    sessions: tuple[str, ...] = ()
    room: int = 0  # calls that it still takes
    weight: int = 0
    """how many it wants beside others, percent (`/readyz`); 0: none, it is full or about to stop"""
    draining: bool = False  # it is about to stop: not even a publisher that was lost may come back


class Directory:
    """The nodes of a cluster."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[str, tuple[float, State]] = {}
        self._owners: dict[str, str] = {}  # session -> node
        self._placed: dict[str, tuple[float, str]] = {}  # session -> when and on which node

    def hear(self, state: State) -> None:
        """What a node says replaces what it said before."""
        if (before := self._heard.get(state.node)) is not None:
            self._disown(state.node, set(before[1].sessions) - set(state.sessions))
        self._heard[state.node] = self._clock(), state
        for session in state.sessions:
            _, owner = self._heard.get(self._owners.get(session, ""), (0.0, None))
            # A publisher that was lost may be elsewhere now, while viewers wait for it here.
            if owner is None or (owner.draining and not state.draining):
                self._owners[session] = state.node

    def forget(self, node: str) -> None:
        """It does not answer; should it live, it will say so."""
        if (before := self._heard.pop(node, None)) is not None:
            self._disown(node, set(before[1].sessions))
        self._placed = {name: at for name, at in self._placed.items() if at[1] != node}

    def _disown(self, node: str, sessions: set[str]) -> None:
        for session in sessions:
            if self._owners.get(session) == node:
                del self._owners[session]

    def nodes(self) -> list[State]:
        """Those that are heard of."""
        now = self._clock()
        for node, (at_s, _) in list(self._heard.items()):
            if now > at_s + SILENT_S:
                self.forget(node)
        self._placed = {n: at for n, at in self._placed.items() if now < at[0] + PLACED_S}
        return [state for _, state in self._heard.values()]

    def find(self, node: str | None) -> State | None:
        """A node by its name."""
        self.nodes()
        return self._heard[node][1] if node in self._heard else None

    def owner(self, session: str) -> State | None:
        """The node that runs a session."""
        self.nodes()
        placed = self._placed.get(session)
        return self.find(self._owners.get(session) if placed is None else placed[1])

    def place(self, session: str) -> State | None:
        """A node for another call: the one that wants it most; None where there is no room."""
        want, chosen = self._neediest()
        if chosen is None or want <= 0:
            return None
        self._placed[session] = self._clock(), chosen.node
        return chosen

    def release(self, session: str) -> None:
        """The node did not take it."""
        self._placed.pop(session, None)

    def anyone(self) -> State | None:
        """A node for what any of them can answer."""
        return self._neediest()[1]

    def _neediest(self) -> tuple[float, State | None]:
        """The node with the greatest weight, less what was placed there and is not in it yet."""
        nodes = self.nodes()
        coming = Counter(
            node for name, (_, node) in self._placed.items() if self._owners.get(name) != node
        )

        def want(state: State) -> float:
            places = len(state.sessions) + state.room
            return state.weight - 100 * coming[state.node] / max(1, places)

        best = max(nodes, key=want, default=None)
        return (0.0, None) if best is None else (want(best), best)
