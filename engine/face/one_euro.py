"""OneEuro: rest without shaking, movement without lag."""

from __future__ import annotations

from typing import Any

import numpy as np

from lipwire.engine.types import F64

# Two pictures nearer in time are of one moment: a speed over less is jitter blown up. Cameras are
# far above, clocks that stumble are not.
LEAST_S = 1e-3


class OneEuro:
    """The 1 Euro filter (Casiez et al., CHI 2012): rest stops shaking, movement lags little.

    Args:
        min_cutoff_hz: smoothing at rest. Lower: less jitter, but a slow drift lags.
        beta: how fast the cutoff rises with speed. Lower: a fast turn lags; higher: jitter returns.
        derivative_cutoff_hz: smoothing of the speed itself.
    """

    def __init__(
        self, min_cutoff_hz: float = 1.5, beta: float = 0.2, derivative_cutoff_hz: float = 1.0
    ) -> None:
        self._min_cutoff_hz = min_cutoff_hz
        self._beta = beta
        self._derivative_cutoff_hz = derivative_cutoff_hz
        self._time_s: float | None = None
        self._value: F64 = np.zeros(0)
        self._speed: F64 = np.zeros(0)

    def reset(self) -> None:
        """Forget the past: the next value passes unchanged."""
        self._time_s = None

    def __call__(self, value: F64, time_s: float, unit: F64 | float = 1.0) -> F64:
        """Smooth f64[N] taken at `time_s`; a step back in time counts as a new start.

        Args:
            value: f64[N].
            time_s: when it was taken.
            unit: what a step of 1 in each value counts for, where its speed is judged: so that a
                face twice as near, which moves and shakes twice as far, is smoothed the same.
        """
        if self._time_s is None or time_s <= self._time_s:
            self._time_s, self._value, self._speed = time_s, value.copy(), np.zeros_like(value)
            return value.copy()
        elapsed_s = max(time_s - self._time_s, LEAST_S)
        speed = (value - self._value) / elapsed_s
        self._speed += _smoothing(self._derivative_cutoff_hz, elapsed_s) * (speed - self._speed)
        cutoff_hz = self._min_cutoff_hz + self._beta * np.abs(self._speed * unit)
        self._value = self._value + _smoothing(cutoff_hz, elapsed_s) * (value - self._value)
        self._time_s = time_s
        return self._value.copy()


def _smoothing(cutoff_hz: Any, elapsed_s: float) -> Any:
    """Weight of the newest sample in a first-order low-pass (paper, eq. 6)."""
    turned = 2 * np.pi * cutoff_hz * elapsed_s
    return turned / (1.0 + turned)
