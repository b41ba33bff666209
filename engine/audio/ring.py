"""Bounded buffers addressed by absolute index, so that nobody counts what was dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# Operations: append at the end; read [start, stop); truncate the end; forget the front.
# Goals: amortised O(n) copies, reads are views, memory by what is kept and not by what may be.
# Plan: one array of at least twice what is kept; write to the right, and when it is full slide
#   what is kept back to the left instead of wrapping, so that every read is one contiguous view.
#   The slide is also where the array grows and shrinks.
MIN_ROWS = 256


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
        self._data = np.zeros((min(2 * capacity, MIN_ROWS), *shape), dtype)
        self._offset = 0  # absolute index of _data[0]
        self._begin = 0  # rows before this one are gone even where the capacity would hold them
        self.stop = 0  # absolute index one past the newest row

    @property
    def start(self) -> int:
        """Absolute index of the oldest row that can still be read."""
        return max(self._begin, self.stop - self.capacity)

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._data.nbytes

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows at the end; [N, *shape]."""
        stop = self.stop + len(rows)
        fresh = rows[-self.capacity :]
        at = stop - len(fresh) - self._offset
        if at + len(fresh) > len(self._data):
            self._slide(stop, len(fresh))
            at = stop - len(fresh) - self._offset
        self._data[at : at + len(fresh)] = fresh
        self.stop = stop

    def _slide(self, stop: int, fresh: int) -> None:
        """Make room for `fresh` rows that end at absolute index `stop`."""
        self._begin = min(max(self._begin, stop - self.capacity), stop - fresh)
        kept = self._data[self._begin - self._offset : self.stop - self._offset]
        rows = stop - self._begin
        size = min(2 * self.capacity, max(MIN_ROWS, 1 << (2 * rows - 1).bit_length()))
        if size != len(self._data):
            self._data = np.empty((size, *self._data.shape[1:]), self._data.dtype)
        self._data[: len(kept)] = kept
        self._offset = self._begin

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

    def forget(self, start: int) -> None:
        """Forget every row before absolute index `start`; past the end, rows are skipped unread."""
        self._begin = max(self._begin, start)
        if start > self.stop:
            self.stop = self._offset = start

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop) as a view, valid until the next append.

        Raises:
            IndexError: some of them are not in the buffer; the message says which are.
        """
        if start < self.start or stop > self.stop or start > stop:
            raise IndexError(f"rows [{start}, {stop}) asked, [{self.start}, {self.stop}) kept")
        return self._data[start - self._offset : stop - self._offset]
