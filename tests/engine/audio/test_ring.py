"""Ring against the plainest model of it: a list that never forgets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipwire.engine.audio.ring import MIN_ROWS, Ring

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["append", "truncate", "forget"]), st.integers(0, 60)), max_size=60
)


@settings(max_examples=200, deadline=None)
@given(capacity=st.integers(1, 40), operations=OPERATIONS, data=st.data())
def test_any_history_reads_as_the_whole_sequence_would(
    capacity: int, operations: list[tuple[str, int]], data: st.DataObject
) -> None:
    ring = Ring(capacity, (), np.int64)
    model: list[int] = []  # every row ever, by absolute index
    start, fresh = 0, 0
    for name, amount in operations:
        if name == "append":
            rows = np.arange(fresh, fresh + amount)
            fresh += amount
            ring.append(rows)
            model += rows.tolist()
        elif name == "truncate":
            stop = max(len(model) - amount, start)
            ring.truncate(stop)
            del model[stop:]
        else:
            start = max(start, start + amount - 20)
            ring.forget(start)
            model += [-1] * (start - len(model))
        start = max(start, len(model) - capacity)
        assert (ring.start, ring.stop, len(ring)) == (start, len(model), len(model) - start)
        low = data.draw(st.integers(start, len(model)))
        high = data.draw(st.integers(low, len(model)))
        assert ring.read(low, high).tolist() == model[low:high]
        assert len(ring._data) <= max(2 * capacity, MIN_ROWS)


def test_rows_have_any_shape_and_reads_are_views() -> None:
    ring = Ring(5, (2, 3), np.float32)
    rows = np.random.default_rng(0).normal(size=(12, 2, 3)).astype(np.float32)
    for row in rows:
        ring.append(row[None])
    seen = ring.read(7, 12)
    assert np.array_equal(seen, rows[7:])
    assert np.shares_memory(seen, ring._data)


@pytest.mark.parametrize(("start", "stop"), [(2, 6), (5, 11), (8, 7), (-1, 3)])
def test_rows_that_are_not_there_are_an_error_that_says_which(start: int, stop: int) -> None:
    ring = Ring(5)
    ring.append(np.arange(10, dtype=np.int16))
    with pytest.raises(IndexError, match=rf"\[{start}, {stop}\) asked, \[5, 10\) kept"):
        ring.read(start, stop)


def test_truncating_before_the_oldest_row_is_an_error() -> None:
    ring = Ring(5)
    ring.append(np.arange(10, dtype=np.int16))
    with pytest.raises(IndexError, match="cannot truncate to 4: rows before 5 are gone"):
        ring.truncate(4)
    ring.truncate(11)  # past the end: nothing to take back
    assert ring.stop == 10


def test_a_truncated_ring_does_not_find_its_older_rows_again() -> None:
    ring = Ring(4)
    ring.append(np.arange(10, dtype=np.int16))
    ring.truncate(7)
    assert (ring.start, ring.stop) == (6, 7)


def test_memory_follows_what_is_kept() -> None:
    ring = Ring(1_000_000)
    ring.append(np.zeros(600_000, np.int16))
    full = ring.nbytes
    for second in range(200):  # a reader that keeps up
        ring.append(np.zeros(16_000, np.int16))
        ring.forget(600_000 + second * 16_000)
    assert full >= 600_000 * 2
    assert ring.nbytes <= 200_000
    ring.forget(10**12)  # a leap costs nothing
    assert (ring.start, ring.stop) == (10**12, 10**12)


def test_no_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity is 0"):
        Ring(0)
