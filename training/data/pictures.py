"""Crops as JPEGs, one after another in one array of bytes, so that any frame is read alone.

A crop of 128 px is 49 KB raw and about 7 KB as a JPEG of quality 95, chroma at full size. At that
quality it differs from the raw one by less than the film's own compression took away; the figures
are in docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lipwire.engine.errors import ConfigError
from lipwire.engine.types import U8
from lipwire.training.data.shards import StoredArray

RAW, BYTES, ENDS = "crops.npy", "jpegs.npy", "ends.npy"
KINDS = ("jpeg", "raw")
QUALITY = 95
_HOW = [
    cv2.IMWRITE_JPEG_QUALITY,
    QUALITY,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]


def picture_members(crops: U8, kind: str) -> dict[str, npt.NDArray[Any]]:
    """The members that hold uint8[T, S, S, 3] crops.

    Args:
        crops: RGB.
        kind: one of `KINDS`.
    """
    if kind == "raw":
        return {RAW: crops}
    jpegs = [cv2.imencode(".jpg", crop[..., ::-1], _HOW)[1].ravel() for crop in crops]
    return {BYTES: np.concatenate(jpegs), ENDS: np.cumsum([len(j) for j in jpegs])}


def frames_in(members: Mapping[str, Any]) -> int:
    """How many crops they hold."""
    return len(members[RAW] if RAW in members else members[ENDS])


def cut_members(members: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
    """The members of frames `first` .. `last` - 1 alone; nothing is compressed again."""
    if RAW in members:
        return {RAW: members[RAW][first:last]}
    ends = np.asarray(members[ENDS])
    begin = int(ends[first - 1]) if first else 0
    return {BYTES: members[BYTES][begin : int(ends[last - 1])], ENDS: ends[first:last] - begin}


class StoredPictures:
    """Crops inside a shard, decoded when they are indexed; seen as uint8[T, S, S, 3].

    Args:
        jpegs: their bytes.
        ends: where each ends in them, i64[T].
        origin: what an error names.
    """

    __slots__ = ("_jpegs", "_bounds", "_origin", "_size")

    def __init__(self, jpegs: StoredArray, ends: StoredArray, origin: str) -> None:
        self._jpegs, self._origin = jpegs, origin
        self._bounds = np.concatenate([[0], ends[:]])
        self._size = 0

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, S, S, 3)."""
        self._size = self._size or len(self[0])
        return len(self), self._size, self._size, 3

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple):  # frames, then rows and columns
            inside = (slice(None), *index[1:]) if isinstance(index[0], slice) else index[1:]
            return self[index[0]][inside]
        if isinstance(index, slice):
            frames = range(*index.indices(len(self)))
            if not frames:
                return np.zeros((0, *self.shape[1:]), np.uint8)
            return np.stack([self[i] for i in frames])
        frame = range(len(self))[index]
        data = self._jpegs[self._bounds[frame] : self._bounds[frame + 1]]
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if image is None:
            raise ConfigError(f"{self._origin}: picture {frame} is no JPEG; prepare it again")
        return np.asarray(image[..., ::-1], np.uint8)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """All of them."""
        return self[:] if dtype is None else self[:].astype(dtype)
