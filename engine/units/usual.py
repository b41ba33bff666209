"""UsualMouth: how a person's mouth is held mostly; most codes count from there."""

from __future__ import annotations

from collections import deque

import numpy as np

from lipwire.engine.types import F32, CodeStats

# The usual mouth is the median of so many frames, a minute.
FRAMES = 1500
EVERY = 25  # frames between two looks at it: it changes slowly and takes half a millisecond
LIMIT = 4.0  # spreads; what lies further away was measured wrong, and training saw none such
# What a voice says is a mean of what could be: its lips meet too seldom. Both openings are asked to
# be smaller by so much, pixels of the 128 px crop. Less: of the closures in held-out people's
# speech 79 % are asked for at 0 and 87 % at 0.5; more: 90 % at 1, but 47 % of those that ten films
# show are none, instead of 38 %, and lips rest shut.
SHUT_MORE_PX = 0.5
OPENINGS = slice(0, 2)  # codes that are absolute


class UsualMouth:
    """The median of a person's codes; not locked.

    Args:
        stats: mean and spread of the codes that voices are told in.
    """

    def __init__(self, stats: CodeStats) -> None:
        self.mean = np.array(stats.mean, np.float32)
        self.spread = np.array(stats.spread, np.float32)
        self._expression = np.float32(stats.expression)
        self._seen: deque[F32] = deque(maxlen=FRAMES)
        self._median: F32 | None = None
        self._unseen = 0  # frames that the median does not know of

    def update(self, codes: F32) -> None:
        """Note how a mouth was held, f32[codes] as measured."""
        if np.isfinite(codes).all():
            self._seen.append(codes)
            self._unseen += 1
            if self._unseen >= EVERY or len(self._seen) < EVERY:
                self._median = None

    def clear(self) -> None:
        """Forget the person."""
        self._seen.clear()
        self._median, self._unseen = None, 0

    @property
    def seen(self) -> F32:
        """f32[K, codes], what was noted, oldest first."""
        return np.array(self._seen, np.float32).reshape(-1, len(self.mean))

    @property
    def median(self) -> F32:
        """f32[codes]; 0 for the openings, which are absolute."""
        if self._median is None:
            seen = np.stack(self._seen) if self._seen else np.zeros((1, len(self.mean)))
            self._median = np.median(seen, axis=0).astype(np.float32)
            self._median[OPENINGS] = 0
            self._unseen = 0
        return self._median

    def measured(self, told: F32) -> F32:
        """Codes in spreads, f32[.., codes], as this person's mouth would be measured."""
        return np.asarray(told * self.spread + self.mean + self.median, np.float32)

    def asked(self, told: F32) -> F32:
        """What this person's mouth is asked to do where a voice says `told`, f32[.., codes].

        Args:
            told: f32[.., codes], in spreads.
        """
        codes = self.measured(told * self._expression)
        codes[..., OPENINGS] -= np.float32(SHUT_MORE_PX)
        return codes

    def told(self, measured: F32) -> F32:
        """Codes as measured on this person, f32[.., codes], in spreads."""
        spreads = (measured - self.median - self.mean) / self.spread
        return np.asarray(np.clip(spreads, -LIMIT, LIMIT), np.float32)
