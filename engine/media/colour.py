"""RGB and YUV of decoded and encoded pictures: what passes through keeps its colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lipwire.engine.types import F64, U8

HD_LINES = 720  # untagged pictures this high are BT.709, smaller ones BT.601: what players assume

# Matrix coefficients, ITU-T H.273 table 4. 5 and 6 are the same numbers; swscale calls them 5.
BT709, BT470BG, BT601, BT2020 = 1, 5, 6, 9
UNSPECIFIED = 2
_KNOWN = {BT709: BT709, BT470BG: BT601, BT601: BT601, BT2020: BT2020}
LIMITED_RANGE = 1  # AVColorRange: 16 to 235
FULL_RANGE = 2
# Shares of red and blue in luma, ITU-T H.273 table 4; green has the rest.
_LUMA = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114), BT2020: (0.2627, 0.0593)}


@dataclass(frozen=True, slots=True)
class Colour:
    """How RGB became YUV: code points of ITU-T H.273, 2 where the file does not say."""

    matrix: int = BT601  # BT709, BT601 or BT2020: never unspecified
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


def colour_of(frame: Any) -> Colour:
    """How an av.VideoFrame became YUV; what it does not say is guessed as players do."""
    guess = BT709 if frame.height >= HD_LINES else BT601
    matrix = _KNOWN.get(int(frame.colorspace), guess)
    return Colour(matrix, int(frame.color_primaries), int(frame.color_trc))


def missing_matrix(frame: Any) -> int | None:
    """swscale's number for the guessed matrix of an av.VideoFrame; None if its own is known."""
    return None if int(frame.colorspace) in _KNOWN else _swscale(colour_of(frame).matrix)


# swscale's usual shortcuts cut off fractions: a picture that goes through RGB and back comes out
# darker by one level of 256. With these flags both ways it comes back as it was.
def exact_upwards() -> Any:
    """How chroma is spread over pixels."""
    from av.video.reformatter import Interpolation as How

    return How.BICUBIC | How.ACCURATE_RND | How.FULL_CHR_H_INT | How.FULL_CHR_H_INP


def exact_downwards() -> Any:
    """How chroma is gathered from pixels; with `exact_upwards` before it, nothing moves."""
    from av.video.reformatter import Interpolation as How

    return How.AREA | How.ACCURATE_RND


def to_yuv(image: U8, colour: Colour) -> Any:
    """uint8[H, W, 3] RGB -> av.VideoFrame in yuv420p of limited range; odd sides grow by a pixel.

    yuv420p halves both sides for colour, so that they must be even; the last row or column is
    repeated. The other choice, yuv444p, keeps odd sizes but plays on few phones and browsers.
    """
    import av

    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(
        format="yuv420p",
        dst_colorspace=_swscale(colour.matrix),
        dst_color_range=LIMITED_RANGE,
        interpolation=exact_downwards(),
    )


def rgb_to_yuv(matrix: int) -> F64:
    """f64[3, 3] from a change of RGB (0 to 255) to the change of limited-range Y, U, V."""
    red, blue = _LUMA[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    u = (np.array([0.0, 0.0, 1.0]) - luma) / (2 * (1 - blue))
    v = (np.array([1.0, 0.0, 0.0]) - luma) / (2 * (1 - red))
    return np.stack([luma * 219, u * 224, v * 224]) / 255


def _swscale(matrix: int) -> int:
    return BT470BG if matrix == BT601 else matrix
