"""Orientation: how a decoded picture is turned and mirrored to be shown."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipwire.engine.types import U8


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight ways in which a picture's sides can lie: first `swap`, then the flips."""

    swap: bool = False  # rows become columns
    flip_x: bool = False  # left becomes right
    flip_y: bool = False

    @property
    def as_is(self) -> bool:
        """Whether nothing is changed."""
        return self == UPRIGHT

    def apply(self, pixels: U8) -> U8:
        """uint8[H, W] or uint8[H, W, C] as it is shown, a view."""
        if self.swap:
            pixels = np.swapaxes(pixels, 0, 1)
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


UPRIGHT = Orientation()


def orientation_of(frame: Any) -> Orientation:
    """Of an av.VideoFrame, by its display matrix (ISO/IEC 14496-12 section 8.3.2).

    A point (x, y) is shown at (a x + c y, b x + d y). Other angles than right ones are taken for
    the nearest.
    """
    from av.sidedata.sidedata import SideDataContainer

    # `frame.side_data` would keep frame and container in a cycle: every picture, half a megabyte
    # of it, would wait for the garbage collector.
    container: Any = SideDataContainer  # its stub forgets the argument
    data = container(frame).get("DISPLAYMATRIX")
    if data is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)
