"""A generated mouth made alike to the skin around it: colour, grain, sharpness.

All of it is measured on the frame at hand and has no state. Pictures are f32[S, S, 3] crops in
levels of 0 to 255, the visible half above, the hidden half below.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.types import F32

CELLS = 16  # of the grid that a colour field is laid on, each way
# How far the rim's colour reaches into the mouth, cells. Less: the middle gets only the mean;
# more: light that falls from one side is averaged away.
REACH_CELLS = 2.0
# Rim that is off by so much more than the rest is a chin that moved, not a cast. Lower: a beard's
# edge shows as a step; higher: a shadow on the neck darkens the chin.
ODD_LEVELS = 24.0
MOST_LEVELS = 48.0  # no cast is stronger
# Finer detail weaker than this is a clean picture's own: rounding, traces of compression. Lower:
# the mouth of a clean picture shimmers; higher: a webcam's grain ends at the mouth.
CLEAN_LEVELS = 0.9
GRAIN_BLOCK = 8  # pixels
# Detail beyond so many times the grain is a feature: it would be a ghost of the old mouth.
FEATURE = 3.0
# Less: the mouth of a sharp picture is soft; more: the blocks that a small model paints show.
MOST_SHARPENING = 0.4


def blurred(picture: F32, sigma_px: float) -> F32:
    """Gaussian."""
    import cv2

    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma_px), np.float32)


def weighted(picture: F32, weight: F32) -> F32:
    """f32[h, w, 3] times f32[h, w]; a tenth of the time of numpy's broadcasting."""
    import cv2

    return np.asarray(cv2.multiply(picture, cv2.merge([weight] * 3)), np.float32)


def strongest(picture: F32) -> F32:
    """The largest channel of each pixel, f32[h, w, 3] -> f32[h, w]; ten times as fast as max(2)."""
    import cv2

    red, green, blue = cv2.split(picture)
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.float32)


def colour_field(difference: F32, mask: F32) -> F32:
    """What to add to the generated half so that its rim has the colours of the original.

    The rim, where the mask fades, should be the same skin in both; what differs there is a cast,
    which changes slowly around the mouth: light from one side, a beard. It is carried inwards by
    normalised convolution (Knutsson and Westin, 1993) on a coarse grid.

    Args:
        difference: f32[S, S, 3], original minus generated.
        mask: f32[S, S], 0 to 1.

    Returns:
        f32[S, S, 3]; all 0 where the mask has no rim.
    """
    import cv2

    size = mask.shape[0]
    rim = mask * (1 - mask)
    if float(rim.sum()) < 1.0:
        return np.zeros_like(difference)
    parts = cv2.resize(
        cv2.merge([weighted(difference, rim), rim]), (CELLS, CELLS), interpolation=cv2.INTER_AREA
    )
    weight = parts[..., 3:]
    cells = parts[..., :3] / np.maximum(weight, 1e-6)
    common = (cells * weight).sum((0, 1)) / weight.sum()
    for _ in range(2):
        odd = np.abs(cells - common).max(2, keepdims=True) / ODD_LEVELS
        trusted = weight / (1 + odd**2)
        common = (cells * trusted).sum((0, 1)) / trusted.sum()
    spread = cv2.GaussianBlur(cv2.merge([cells * trusted, trusted]), (0, 0), REACH_CELLS)
    little = 0.02 * spread[..., 3].max()  # what is far from all rim takes the common cast
    field = (spread[..., :3] + little * common) / (spread[..., 3:] + little)
    field = np.clip(field, -MOST_LEVELS, MOST_LEVELS).astype(np.float32)
    return np.asarray(cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def grain_level(fine: F32, mask: F32 | None = None) -> float:
    """Standard deviation of grain in fine detail, f32[h, w], levels; 0 for a clean picture.

    Of blocks the calmest quarter counts: edges, hair and stubble are not grain.

    Args:
        fine: what blurring takes out of one channel.
        mask: f32[h, w]; only blocks that lie in it count.
    """
    side = GRAIN_BLOCK
    rows, columns = fine.shape[0] // side, fine.shape[1] // side

    def blocks(picture: F32) -> F32:
        whole = picture[: rows * side, : columns * side].reshape(rows, side, columns, side)
        return whole.transpose(0, 2, 1, 3).reshape(rows * columns, side * side)

    parts = blocks(fine)
    if mask is not None:
        parts = parts[blocks(mask).min(1, initial=1) > 0.5]
    if len(parts) < 4:
        return 0.0
    spread = np.sort(parts.std(1))
    level = float(spread[len(spread) // 4])
    return level if level > CLEAN_LEVELS else 0.0


def grain_of(fine: F32, level: float) -> F32:
    """The part of fine detail that is grain: as it is while weak, nothing where it is a feature."""
    if level <= 0:
        return np.zeros_like(fine)
    odd = fine * np.float32(1 / (FEATURE * level))
    odd *= odd
    odd *= odd  # numpy's ** 4 takes twenty times as long
    odd += 1
    return np.asarray(fine / odd, np.float32)


def sharpening(source: tuple[F32, F32], painted: tuple[F32, F32]) -> float:
    """How much of its own finest detail the mouth needs more to be as sharp as the visible half.

    Sharpness is the share of the finest octave in the next: it tells a soft picture from a sharp
    one whatever the contrast.

    Args:
        source: finest and next octave where nothing is painted, f32[N] each.
        painted: the same of the lips.
    """

    def share(bands: tuple[F32, F32]) -> float:
        fine, coarse = (float(np.sqrt((band**2).mean())) for band in bands)
        return fine / coarse if coarse > 1.0 else 0.0

    have = share(painted)
    return min(max(share(source) / have - 1, 0.0), MOST_SHARPENING) if have > 0 else 0.0


def sharpened(picture: F32, fine: F32, amount: F32) -> F32:
    """Unsharp masking, f32[S, S] strong, that leaves no halos: it stays near its surroundings."""
    import cv2

    rows, columns = np.flatnonzero(amount.any(1)), np.flatnonzero(amount.any(0))
    if not len(rows):
        return picture
    # A pixel beyond what changes is a neighbour of it.
    part = (
        slice(max(rows[0] - 1, 0), rows[-1] + 2),
        slice(max(columns[0] - 1, 0), columns[-1] + 2),
    )
    old, around = picture[part], np.ones((3, 3), np.uint8)
    low, high = cv2.erode(old, around), cv2.dilate(old, around)
    room = 0.15 * (high - low)
    out = picture.copy()
    changed = old + weighted(fine[part], amount[part])
    out[part] = np.minimum(np.maximum(changed, low - room), high + room)
    return out


def smoothstep(x: F32, low: float, high: float) -> F32:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)
