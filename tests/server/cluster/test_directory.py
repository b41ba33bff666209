"""Where calls go, and who is thought to be there."""

from __future__ import annotations

from lipwire.server.cluster.directory import PLACED_S, SILENT_S, Directory, State


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def two(clock: Clock) -> Directory:
    """Nodes `a` and `b` of two places each; `b` has a call."""
    directory = Directory(clock)
    directory.hear(State("a", "http://a", (), room=2, weight=100))
    directory.hear(State("b", "http://b", ("studio",), room=1, weight=50))
    return directory


def placed(directory: Directory, count: int) -> list[str]:
    """Where so many calls without a name go."""
    found = [directory.place(f"call {number}") for number in range(count)]
    return [state.node if state else "-" for state in found]


def test_calls_go_where_there_is_most_room_also_before_their_nodes_have_said_so() -> None:
    where = placed(two(Clock()), 4)
    assert where[0] == "a" and sorted(where[:3]) == ["a", "a", "b"] and where[3] == "-"


def test_a_call_that_was_refused_takes_no_room() -> None:
    directory = two(Clock())
    for _ in range(9):
        assert placed(directory, 1) == ["a"]
        directory.release("call 0")


def test_a_node_that_is_overloaded_or_stops_gets_none() -> None:
    directory = two(Clock())
    directory.hear(State("a", "http://a", ("x",), room=1, weight=0))
    assert placed(directory, 2) == ["b", "-"]


def test_what_was_placed_counts_once_when_its_node_says_it_and_is_forgotten_when_it_does_not() -> (
    None
):
    clock = Clock()
    directory = two(clock)
    chosen = directory.place("live")
    assert chosen is not None and chosen.node == "a"
    directory.hear(State("a", "http://a", (), room=2, weight=100))  # said before it began
    owner = directory.owner("live")
    assert owner is not None and owner.node == "a"
    directory.hear(State("a", "http://a", ("live",), room=1, weight=50))
    assert placed(directory, 1) in (["a"], ["b"])  # as much room here as there
    clock.now += PLACED_S
    directory.hear(State("a", "http://a", (), room=2, weight=100))
    directory.hear(State("b", "http://b", ("studio",), room=1, weight=50))
    assert directory.owner("live") is None


def test_who_is_silent_or_does_not_answer_is_gone_with_its_sessions() -> None:
    clock = Clock()
    directory = two(clock)
    clock.now = SILENT_S + 1
    directory.hear(State("a", "http://a", (), room=2, weight=100))
    assert [state.node for state in directory.nodes()] == ["a"]
    assert directory.owner("studio") is None
    directory = two(clock)
    directory.forget("b")
    assert directory.owner("studio") is None and directory.find("b") is None


def test_a_session_that_two_claim_is_the_newer_placement() -> None:
    """A node that was thought lost comes back with a session that was begun elsewhere meanwhile."""
    clock = Clock()
    directory = two(clock)
    directory.forget("b")
    chosen = directory.place("studio")
    assert chosen is not None and chosen.node == "a"
    directory.hear(State("a", "http://a", ("studio",), room=1, weight=50))
    directory.hear(State("b", "http://b", ("studio",), room=1, weight=50))
    clock.now += PLACED_S
    for state in ("a", "b"):
        directory.hear(State(state, f"http://{state}", ("studio",), room=1, weight=50))
    owner = directory.owner("studio")
    assert owner is not None and owner.node == "a"


def test_a_session_whose_node_stops_is_where_it_was_begun_again() -> None:
    clock = Clock()
    directory = two(clock)
    stops = State("b", "http://b", ("studio",), draining=True)
    directory.hear(stops)
    owner = directory.owner("studio")
    assert owner is not None and owner.draining  # its viewers find it
    chosen = directory.place("studio")
    assert chosen is not None and chosen.node == "a"
    for _ in range(2):
        clock.now += PLACED_S
        directory.hear(stops)
        directory.hear(State("a", "http://a", ("studio",), room=1, weight=50))
        owner = directory.owner("studio")
        assert owner is not None and owner.node == "a"
