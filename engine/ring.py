"""Bounded buffers addressed by absolute index, so that nobody counts what was dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# Operations: append at the end; read [start, stop); truncate the end; old data fall off the front.
# Goals: O(n) copies, no allocation once warm, reads are views.
# Plan: one array of twice the capacity; write to the right, and when it is full slide the newest
#   half back to the left instead of wrapping, so that every read is one contiguous view.


class Ring:
    """The newest `capacity` rows of an endless sequence.

    Args:
        capacity: rows kept; older ones are forgotten.
        shape: shape of one row, `()` for samples.
        dtype: of the rows.
    """

    def __init__(
        self, capacity: int, shape: tuple[int, ...] = (), dtype: npt.DTypeLike = np.int16
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, must be at least 1")
        self.capacity = capacity
        self._data = np.zeros((2 * capacity, *shape), dtype)
        self._offset = 0  # absolute index of _data[0]
        self._begin = 0  # absolute index of the oldest row kept
        self.stop = 0  # absolute index one past the newest row

    @property
    def start(self) -> int:
        """Absolute index of the oldest row that can still be read."""
        return max(self._begin, self.stop - self.capacity)

    def __len__(self) -> int:
        return self.stop - self.start

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows at the end; [N, *shape]."""
        count = len(rows)
        if count >= self.capacity:
            self._data[: self.capacity] = rows[count - self.capacity :]
            self.stop += count
            self._begin = self._offset = self.stop - self.capacity
            return
        used = self.stop - self._offset
        if used + count > len(self._data):
            keep = min(len(self), self.capacity - count)
            self._data[:keep] = self._data[used - keep : used].copy()
            self._begin = self._offset = self.stop - keep
            used = keep
        self._data[used : used + count] = rows
        self.stop += count

    def truncate(self, stop: int) -> None:
        """Forget every row from absolute index `stop` on.

        Raises:
            IndexError: `stop` lies before the oldest row kept.
        """
        if stop >= self.stop:
            return
        if stop < self.start:
            raise IndexError(f"cannot truncate to {stop}: rows before {self.start} are gone")
        # The oldest row readable must not move back to rows that were overwritten meanwhile.
        self._begin = self.start
        self.stop = stop

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop) as a view, valid until the next append.

        Raises:
            IndexError: some of them are not in the buffer; the message says which are.
        """
        if start < self.start or stop > self.stop or start > stop:
            raise IndexError(f"rows [{start}, {stop}) asked, [{self.start}, {self.stop}) kept")
        return self._data[start - self._offset : stop - self._offset]
