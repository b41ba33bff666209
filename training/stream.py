"""Clips read in order from shards that need not fit into memory or come from one disk.

    stream = ClipStream(folder, "train", seed=0, rank=r, ranks=n)
    for clip in stream: ...
    saved = stream.state();  ClipStream(..., position=Position(**saved))

Every epoch visits each shard once, in an order drawn from (seed, epoch), and deals shards out to
ranks and workers; clips pass through a bounded buffer that is drawn from at random. Where it is in
all that is two numbers: a resumed stream reads on with the very clip that would have come next.
Pictures are memory-mapped: of a clip only the frames that are looked at are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ConfigError
from training.data import ClipData, read_clip
from training.shards import read_index


@dataclass(frozen=True, slots=True)
class Position:
    """How far a stream has come."""

    epoch: int = 0
    drawn: int = 0
    """clips given out in this epoch"""


class ClipStream:
    """Endless clips of a split, in another order every epoch.

    Args:
        folder: where `prepare` wrote.
        split: train, val or test.
        seed: of the order.
        rank: which process of a run this is, of `ranks`.
        ranks: processes, each of which gets other shards.
        worker: which data loader of the process, of `workers`.
        workers: data loaders.
        buffer: clips to draw from. Smaller: clips of one shard come together; larger: the disk
            jumps between more shards.
        position: where to go on.

    Raises:
        ConfigError: there are fewer shards than readers, so that one would have none.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        worker: int = 0,
        workers: int = 1,
        buffer: int = 64,
        position: Position | None = None,
    ) -> None:
        self._shards = sorted(folder.glob(f"{split}-*.tar"))
        self._reader, self._readers = rank * workers + worker, ranks * workers
        if not 0 <= self._reader < self._readers or buffer < 1:
            raise ConfigError(f"reader {self._reader} of {self._readers}, buffer {buffer}")
        if len(self._shards) < self._readers:
            raise ConfigError(
                f"{folder}: {len(self._shards)} {split} shards for {self._readers} readers; use "
                "fewer ranks or workers, or smaller shards"
            )
        self._seed, self._buffer = seed, buffer
        self.position = position or Position()

    def state(self) -> dict[str, int]:
        """What `Position(**state)` goes on from."""
        return asdict(self.position)

    def __iter__(self) -> Iterator[ClipData]:
        """Clips without end; the position counts those that were given out."""
        while True:
            epoch, skip = self.position.epoch, self.position.drawn
            for number, entry in enumerate(self._order(epoch)):
                if number < skip:
                    continue  # only headers were read so far: skipping costs no picture
                self.position = Position(epoch, number + 1)
                yield read_clip(*entry)
            self.position = Position(epoch + 1, 0)

    def _order(self, epoch: int) -> Iterator[tuple[Path, str, Any, Any]]:
        """Where this reader's clips of an epoch lie, shuffled; arguments of `read_clip`."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._shards))
        rng = np.random.default_rng((self._seed, epoch, self._reader))
        held: list[tuple[Path, str, Any, Any]] = []
        for shard in order[self._reader :: self._readers]:
            for entry in read_index(self._shards[shard]):
                held.append((self._shards[shard], *entry))
                if len(held) > self._buffer:
                    yield held.pop(int(rng.integers(len(held))))
        while held:
            yield held.pop(int(rng.integers(len(held))))
