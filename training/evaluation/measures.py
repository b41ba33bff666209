"""Figures of one clip, each a pure function; NaN says that a figure could not be taken.

Pictures are uint8[h, w, 3]; landmarks f32[T, 468, 2] in pixels of the stabilised 128 px crop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from lipwire.engine.compositing.blend import composite
from lipwire.engine.face.alignment import CROP_SIZE, LIPS_OUTER, STABLE_INDICES
from lipwire.engine.types import F32, F64, U8, Alignment

IDENTITY = Alignment(np.array([[1, 0, 0], [0, 1, 0]], np.float32), CROP_SIZE)
HALF = CROP_SIZE // 2
LIPS = (*LIPS_OUTER, 13, 14, 82, 87, 312, 317, 78, 308)
# Eyes, brows and nose: where a face that is painted below its nose must be who it was.
UPPER_FACE = (*STABLE_INDICES, 70, 105, 107, 336, 334, 300, 159, 145, 386, 374, 1, 4)
MAX_LAG = 5  # frames
MIN_KNOWN = 10  # frames: a correlation of fewer says nothing


# --- sync ---


def correlation(found: F32, wanted: F32, lag: int = 0) -> float:
    """Pearson's r of found[t] with wanted[t - lag]; 0 where nothing moves, NaN where too few."""
    if lag:
        found, wanted = (found[lag:], wanted[:-lag]) if lag > 0 else (found[:lag], wanted[-lag:])
    known = np.isfinite(found) & np.isfinite(wanted)
    if known.sum() < MIN_KNOWN:
        return float("nan")
    a, b = found[known].astype(np.float64), wanted[known].astype(np.float64)
    if a.std() < 1e-6 or b.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def best_lag(found: F32, wanted: F32) -> int:
    """Frames by which `found` is late, -5 to 5, where the correlation is highest."""
    lags = range(-MAX_LAG, MAX_LAG + 1)
    return max(lags, key=lambda lag: np.nan_to_num(correlation(found, wanted, lag), nan=-1.0))


def lmd(found: F32, wanted: F32) -> float:
    """Landmark distance of the lips in crop pixels, mean over frames; f32[T, 468, 2] each.

    The two sets are brought to one centre first (Chen et al., 2018, sec. 4.2): the mouth's shape
    counts, not where a head that stands still has it.
    """
    return _shape_distance(found, wanted, LIPS)


def shape_px(found: F32, wanted: F32) -> float:
    """How far eyes, brows and nose are from where they were, in crop pixels: another's are.

    The least that can be said of identity without a network that knows faces.
    """
    return _shape_distance(found, wanted, UPPER_FACE)


def _shape_distance(found: F32, wanted: F32, indices: Sequence[int]) -> float:
    a, b = (
        points[:, list(indices)] - points[:, list(indices)].mean(1, keepdims=True)
        for points in (found, wanted)
    )
    distance = np.linalg.norm(a - b, axis=2).mean(1)
    return float(np.nanmean(distance)) if np.isfinite(distance).any() else float("nan")


# --- pictures ---


def psnr_db(found: U8, wanted: U8, mask: F32 | None = None) -> float:
    """Peak signal-to-noise ratio in decibels, where the mask is; 138 for equal pictures."""
    error = ((found.astype(np.float64) - wanted) ** 2).mean(axis=2)
    weight = np.ones_like(error) if mask is None else mask
    mean = float((error * weight).sum() / max(float(weight.sum()), 1e-9))
    return 10 * float(np.log10(255**2 / max(mean, 1e-9)))


def ssim(found: U8, wanted: U8, *, gaussian: bool = True) -> float:
    """Structural similarity, 1 for equal pictures.

    Args:
        found: uint8[h, w, 3].
        wanted: likewise.
        gaussian: windows of 11 px as Wang et al. (2004) weighted them; else flat ones of 7 px.
    """
    from skimage.metrics import structural_similarity

    wang: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    value = structural_similarity(  # type: ignore[no-untyped-call]
        found, wanted, channel_axis=2, **(wang if gaussian else {})
    )
    return float(value)


def border_gradient(generated: U8, original: U8, landmarks: F32) -> float:
    """Mean step from row to row where the painted half begins, as composited, over the original's.

    1 = no seam to be seen.
    """
    shown = composite(original, original, generated, IDENTITY, landmarks)
    columns = slice(CROP_SIZE // 4, -CROP_SIZE // 4)

    def step(picture: U8) -> float:
        rows = picture[HALF - 1 : HALF + 7, columns].astype(np.float32)  # all of the fade
        return float(np.abs(np.diff(rows, axis=0)).mean())

    return step(shown) / max(step(original), 1e-3)


def flicker(found: Sequence[U8], wanted: Sequence[U8]) -> float:
    """Mean second difference over time, over that of the real film: 1 = as restless as it.

    Smooth movement has none, a picture that jumps back and forth has the most. Both films must be
    cut out alike, uint8[h, w, 3] each, frame after frame.
    """
    real = _restlessness(wanted)
    return _restlessness(found) / real if real > 1e-6 else float("nan")


def _restlessness(film: Sequence[U8]) -> float:
    if len(film) < 3:
        return float("nan")
    triples = zip(film[:-2], film[1:-1], film[2:], strict=True)
    bends = (a.astype(np.int16) - 2 * b.astype(np.int16) + c for a, b, c in triples)
    return float(np.mean([np.abs(bend).mean() for bend in bends]))


# --- many clips ---

DRAWS = 1000
SPEAKER_DRAWS = 2000
Interval = tuple[float, float]
Rows = npt.NDArray[np.intp]


def bootstrap(
    values: Sequence[float],
    statistic: Callable[[F64], float] = lambda x: float(np.mean(x)),
    draws: int = DRAWS,
) -> tuple[float, Interval]:
    """A statistic of clips and its 95 % interval by drawing clips again (Efron, 1979).

    What is NaN is left out; of fewer than two values there is no interval.
    """
    known = np.asarray([v for v in values if np.isfinite(v)], np.float64)
    if not len(known):
        return float("nan"), (float("nan"), float("nan"))
    value = float(statistic(known))
    if len(known) < 2:
        return value, (float("nan"), float("nan"))
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.choice(known, len(known))) for _ in range(draws)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return value, (float(low), float(high))


def known(value: float) -> float | None:
    """To three digits, as JSON has it: null where it is not finite."""
    return round(float(value), 3) if isfinite(value) else None


def over_speakers(
    statistic: Callable[[Rows], float], speakers: Sequence[str]
) -> list[float | None]:
    """A statistic of clips, by their rows, and its 95 % interval by drawing speakers again."""
    names = np.array(speakers)
    places = [np.flatnonzero(names == name) for name in sorted(set(speakers))]
    if not places:
        return [None] * 3
    value = statistic(np.arange(len(names)))
    if len(places) == 1:
        return [known(value), None, None]
    rng = np.random.default_rng(0)
    draws = np.array(
        [
            statistic(
                np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))])
            )
            for _ in range(SPEAKER_DRAWS)
        ]
    )
    draws = draws[np.isfinite(draws)]
    low, high = np.percentile(draws, (2.5, 97.5)) if len(draws) else (np.nan, np.nan)
    return [known(value), known(low), known(high)]
