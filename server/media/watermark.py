"""Watermark: the visible words that say a picture is synthetic, blended into the frames that leave.

    mark = Mark("AI-generated", "top-right")
    mark.draw(frame)        # av.VideoFrame, yuv420p, in place

Goals: readable on any picture and after any codec, and so cheap that nobody wants it off. Plan:
the words are drawn once per picture size, as weights for each plane; a frame then costs one
multiplication and one addition for each pixel under the mark.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from lipwire.engine.errors import ConfigError

if TYPE_CHECKING:
    from lipwire.server.config import Place, ServerConfig

U16 = npt.NDArray[np.uint16]

HEIGHT = 1 / 28  # of the letters, as a share of the picture: as large as a subtitle's
MIN_LETTERS_PX, MAX_LETTERS_PX = 10, 64  # smaller: no codec keeps them; larger: a poster
SHORT = "AI"  # where the picture is too narrow for the words
WIDTH_MAX = 0.6  # of the picture
MARGIN = 0.6  # from the picture's edge, in letters' heights
BACKGROUND = 0.7  # weight of the dark plate under the letters: they are read on white walls too
BLACK, WHITE, GREY = 16, 235, 128  # in limited-range video; GREY is a chroma plane's zero
SHIFT = 8  # weights are in 1/256


@dataclass(frozen=True, slots=True)
class _Patch:
    """What one plane needs: `new = (old * keep + add) >> SHIFT` in the rectangle."""

    rows: slice
    columns: slice
    keep: U16
    add: U16


class Watermark:
    """Words and where they stand."""

    def __init__(self, text: str = "AI-generated", place: Place = "top-right") -> None:
        self.text, self.place = text, place
        self._patches = lru_cache(maxsize=16)(self._draw)  # sizes a peer may wander through

    def draw(self, frame: av.VideoFrame) -> None:
        """Blend the mark into a frame, in place."""
        if frame.format.name not in ("yuv420p", "yuvj420p"):
            raise ConfigError(f"a mark is drawn on yuv420p, not on {frame.format.name}")
        patches = self._patches(frame.width, frame.height)
        for plane, patch in zip(frame.planes, patches, strict=True):
            pixels: Any = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            under = pixels[patch.rows, patch.columns]
            under[:] = (under * patch.keep + patch.add) >> SHIFT

    def _draw(self, width: int, height: int) -> tuple[_Patch, _Patch, _Patch]:
        letters, plate = self._rasterise(width, height)
        rows, columns = letters.shape
        # Even places, so that chroma lies under the same pixels.
        margin = min(int(MARGIN * self._size(height)), (width - columns) // 2) // 2 * 2
        top = margin if self.place.startswith("top") else (height - rows - margin) // 2 * 2
        left = margin if self.place.endswith("left") else (width - columns - margin) // 2 * 2
        top, left = max(top, 0), max(left, 0)
        seen = letters[: height - top, : width - left]
        plate = plate[: height - top, : width - left]
        weight = np.maximum(seen, plate * BACKGROUND)
        shade = BLACK + (WHITE - BLACK) * np.divide(
            seen, weight, out=np.zeros_like(seen), where=weight > 0
        )
        luma = _patch(top, left, weight, shade)
        chroma = _patch(top // 2, left // 2, weight[::2, ::2], np.full(1, GREY, np.float32))
        return luma, chroma, chroma

    def _size(self, height: int) -> int:
        return int(np.clip(height * HEIGHT, MIN_LETTERS_PX, MAX_LETTERS_PX))

    def _rasterise(self, width: int, height: int) -> tuple[Any, Any]:
        """Letters and plate, f32[h, w] each 0 to 1; h and w are even and fit the picture."""
        size = self._size(height)
        font = ImageFont.load_default(size)
        text = self.text if font.getlength(self.text) + 1.2 * size <= WIDTH_MAX * width else SHORT
        left, top, right, bottom = font.getbbox(text)
        pad_x, pad_y = 0.5 * size, 0.32 * size
        shape = (
            min(int(right - left + 2 * pad_x) // 2 * 2 + 2, width + width % 2),
            min(int(bottom - top + 2 * pad_y) // 2 * 2 + 2, height + height % 2),
        )
        letters, plate = Image.new("L", shape), Image.new("L", shape)
        ImageDraw.Draw(letters).text((pad_x - left, pad_y - top), text, font=font, fill=255)
        ImageDraw.Draw(plate).rounded_rectangle(
            (0, 0, shape[0] - 1, shape[1] - 1), radius=shape[1] / 3, fill=255
        )
        return np.asarray(letters, np.float32) / 255, np.asarray(plate, np.float32) / 255


def _patch(top: int, left: int, weight: Any, shade: Any) -> _Patch:
    """Weights in 1/256 that blend `shade` in by `weight`."""
    rows, columns = weight.shape
    scale = 1 << SHIFT
    keep = np.rint((1 - weight) * scale).astype(np.uint16)
    # Half a step is added because the shift cuts off; 255 * 256 + 128 still fits 16 bits.
    add = np.rint(weight * shade * scale + scale / 2 - 1).clip(0, 65_535 - 255 * keep.astype(int))
    return _Patch(slice(top, top + rows), slice(left, left + columns), keep, add.astype(np.uint16))


def make_mark(settings: ServerConfig) -> Watermark | None:
    """The mark that the settings ask for; None only where they turn it off."""
    return Watermark(settings.mark_text, settings.mark_place) if settings.mark else None
