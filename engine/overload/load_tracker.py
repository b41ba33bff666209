"""What sessions ask of the devices that they share, so that one's climb is not another's fall.

    load.worked(source, seconds, now)      a device has painted a frame
    load.others(source, now)               what all but this session ask for
Short and under a lock of its own, for any thread; callers pass `now`.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque

# Over which the devices' load is averaged. Longer: sessions see late that a device is free again.
WINDOW_S = 0.8


class LoadTracker:
    """What sessions ask of an engine's devices, seconds of work a second; from any thread.

    So that one session's climb is not paid for by another: each sees what the others use, and what
    others that have just climbed are going to use.
    """

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices  # how many work
        self._lock = threading.Lock()
        self._worked: deque[tuple[float, str, float]] = deque()  # at, source, seconds
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._promises: dict[str, tuple[float, float]] = {}  # source -> more a second, until
        self._charges: Counter[str] = Counter()

    def worked(self, source: str, seconds: float, now: float) -> None:
        """A device worked so long for a source."""
        with self._lock:
            self._forget(now)
            self._worked.append((now, source, seconds))
            self._sums[source] += seconds

    def promise(self, source: str, more: float, now: float) -> None:
        """From now on this source asks for so much more a second, which will soon be seen."""
        with self._lock:
            self._promises[source] = more, now + WINDOW_S

    def record_miss(self, source: str, now: float) -> None:
        """A session that asks for little missed a frame: that is the fault of who asks for most."""
        with self._lock:
            self._forget(now)
            rest = {name: total for name, total in self._sums.items() if name != source}
            if rest:
                self._charges[max(rest, key=rest.__getitem__)] += 1

    def misses(self, source: str) -> int:
        """How often since it was last asked."""
        with self._lock:
            return self._charges.pop(source, 0)

    def others(self, source: str, now: float) -> tuple[float, int]:
        """What all but this source ask for, seconds a second, and how many they are."""
        with self._lock:
            self._forget(now)
            count = len(self._sums) - (source in self._sums)
            seen = sum(self._sums.values()) - self._sums.get(source, 0.0)
            promised = sum(more for name, (more, _) in self._promises.items() if name != source)
            return max(seen, 0.0) / WINDOW_S + promised, count

    def _forget(self, now: float) -> None:
        while self._worked and self._worked[0][0] <= now - WINDOW_S:
            _, source, seconds = self._worked.popleft()
            self._sums[source] -= seconds
            if self._sums[source] < 1e-9:
                del self._sums[source]
                self._charges.pop(source, None)  # it may have ended
        for source in [name for name, (_, until_s) in self._promises.items() if until_s <= now]:
            del self._promises[source]
