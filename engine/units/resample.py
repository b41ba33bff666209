"""The lower half of a face at the frame's own resolution: what a warp moves, and what is fetched.

A warp is told at nodes and is linear between them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lipwire.engine.face.alignment import block_box, transform
from lipwire.engine.types import F32, U8

# Pixels of the 128 px crop between two nodes of the warp; between them it is linear.
NODE_PX = 4.0
# Where the frame may be moved, pixels of the crop: inside, fading out over `EDGE_PX`.
FIELD = (14.0, 65.0, 114.0, 134.0)  # left, top, right, bottom
EDGE_PX = 8.0
# Less than this is not worth a resampling, pixels of the frame.
STILL_PX = 0.05
# Unsharp masking of what moving by parts of a pixel blurs: the finest detail, grain and traces of
# compression, by which a mouth is told from the film around it. Less: 0.75 of the film's is left in
# skin at 0; more: 1.06 of it at 1.
CRISP, CRISP_RADIUS_PX = 0.5, 0.7
# Boxes of more pixels are fetched linearly: faces of 350 px and more, whose units are enlarged
# anyway. Bicubic takes twice as long there, the time of the next frame.
LARGE_PX = 90_000
_WHOLE: F32 = np.empty(0, np.float32)  # no second map: the first has both coordinates

Part = tuple[slice, slice]
"""rows and columns"""


class LowerFace:
    """A frame's pixels from the nose to below the chin, with nodes all over them.

    Args:
        image: uint8[H, W, 3], the frame.
        to_crop: f32[2, 3], frame -> 128 px crop.
    """

    def __init__(self, image: U8, to_crop: F32) -> None:
        import cv2

        self._image = image
        x0, y0, x1, y1 = block_box(FIELD, inverse(to_crop), image.shape[:2])
        self.corner = x0, y0
        """of the box, pixels of the frame"""
        self.shape = y1 - y0, x1 - x0
        self.original = image[y0:y1, x0:x1]
        self.crop_px = float(np.hypot(*to_crop[:, 0]))
        """of a pixel of the frame, its side in pixels of the crop"""
        self.step = max(round(NODE_PX / self.crop_px), 2)
        """pixels between two nodes; the first lies a step before the middle of the box's first"""
        down, across = (max(-(-size // self.step), 0) + 2 for size in self.shape)
        self._grid = down, across
        first = np.array([x0, y0], np.float32) - (self.step + 1) / 2
        self._places: F32 = (_lattice(down, across) * self.step + first).astype(np.float32)
        self.nodes = transform(self._places, to_crop)
        """f32[N, 2], pixels of the crop"""
        below = (image.shape[0] - 1 - self._places[:, 1]) / (2 * self.step)
        self._window = (_inside(self.nodes) * np.clip(below, 0, 1)).astype(np.float32)
        self.to_frame = inverse(to_crop)
        """f32[2, 3], pixels of the crop -> pixels of the frame"""
        area = self.shape[0] * self.shape[1]
        self._how = cv2.INTER_CUBIC if area <= LARGE_PX else cv2.INTER_LINEAR

    @property
    def empty(self) -> bool:
        """Whether next to nothing of it lies in the picture."""
        return min(self.shape) < 4

    def window(self) -> F32:
        """How far each pixel may move, f32[h, w]: 1 inside the lower face, 0 at its edges."""
        high, wide = self.shape
        return self._fine(self._window, (slice(0, high), slice(0, wide)))

    def moved(self, in_frame: F32, *, crisply: bool = False) -> U8:
        """The frame, each pixel from where its mouth is to come from, uint8[h, w, 3].

        Args:
            in_frame: f32[N, 2], for each node its place in the frame, pixels of the crop.
            crisply: sharpen what moves.
        """
        shift = (in_frame - self.nodes) * self._window[:, None] @ self.to_frame[:, :2].T
        far = np.abs(shift).max(1)
        moves = far >= STILL_PX
        out = self.original.copy()
        around = extent(moves.reshape(self._grid))
        if around is None:
            return out
        places = self._places.copy()
        places[moves] += shift[moves]
        rows, columns = (
            slice(max((s.start - 2) * self.step, 0), min(s.stop * self.step, most))
            for s, most in zip(around, self.shape, strict=True)
        )
        part = rows, columns
        shown = self.fetched(self._image, places, part)
        if crisply:  # where next to nothing moves the pixels are as they were
            share = np.minimum(2 * self._fine(far.astype(np.float32), part), 1)
            shown = mixed(shown, crisp(shown), share)
        out[part] = shown
        return out

    def fetched(self, picture: U8, places: F32, part: Part) -> U8:
        """A picture's pixels for a part of the box; whole places give the very pixels.

        Args:
            picture: uint8[h, w, 3].
            places: f32[N, 2], for each node its place in the picture.
            part: of the box.
        """
        import cv2

        fine = self._fine(places, part)
        return np.asarray(
            cv2.remap(picture, fine, _WHOLE, self._how, borderMode=cv2.BORDER_REPLICATE), np.uint8
        )

    def placed(self, picture: F32, matrix: F32) -> F32:
        """A picture over the box, fetched linearly; edges go on.

        Args:
            picture: f32[.., ..].
            matrix: f32[2, 3], pixels of the frame -> pixels of `picture`.
        """
        import cv2

        here = matrix.astype(np.float32)
        here[:, 2] += here[:, :2] @ np.array(self.corner, np.float32)
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = self.shape[1], self.shape[0]
        return np.asarray(
            cv2.warpAffine(picture, here, size, flags=how, borderMode=cv2.BORDER_REPLICATE),
            np.float32,
        )

    def nodes_near(self, part: Part) -> npt.NDArray[np.bool_]:
        """Which of the nodes a part of the box is between, bool[N]: others are not asked there."""
        near = np.zeros(self._grid, bool)
        near[self._nodes_of(part)] = True
        return near.ravel()

    def _nodes_of(self, part: Part) -> Part:
        rows, columns = (slice(s.start // self.step, -(-s.stop // self.step) + 2) for s in part)
        return rows, columns

    def _fine(self, at_nodes: F32, part: Part) -> F32:
        """What nodes say, f32[N, ..], for the pixels of a part of the box, f32[h, w, ..].

        Not by `cv2.warpAffine`: it has 32 places between two nodes, which makes stairs of straight
        edges.
        """
        import cv2

        coarse, step = at_nodes.reshape(*self._grid, *at_nodes.shape[1:]), self.step
        near = self._nodes_of(part)
        some = coarse[near[0], near[1]]
        size = some.shape[1] * step, some.shape[0] * step
        rows, columns = (
            slice(s.start + step - n.start * step, s.stop + step - n.start * step)
            for s, n in zip(part, near, strict=True)
        )
        return np.asarray(cv2.resize(some, size, interpolation=cv2.INTER_LINEAR), np.float32)[
            rows, columns
        ]


def extent(there: npt.NDArray[np.bool_]) -> Part | None:
    """Around what is true; None if nothing is."""
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def crisp(picture: U8) -> U8:
    """Sharpened by `CRISP`, without halos: no pixel leaves the range of its neighbours."""
    import cv2

    soft, around = cv2.GaussianBlur(picture, (0, 0), CRISP_RADIUS_PX), np.ones((3, 3), np.uint8)
    sharp = cv2.addWeighted(picture, 1 + CRISP, soft, -CRISP, 0)
    least, most = cv2.erode(picture, around), cv2.dilate(picture, around)
    return np.asarray(cv2.min(cv2.max(sharp, least), most), np.uint8)


def mixed(below: U8, above: U8, share: F32) -> U8:
    """Two pictures, uint8[h, w, 3], of the second as much as f32[h, w] says, 0 to 1."""
    import cv2

    return np.asarray(cv2.blendLinear(above, below, share, 1 - share), np.uint8)


def inverse(matrix: F32) -> F32:
    """Of an affine map, f32[2, 3]."""
    import cv2

    return np.asarray(cv2.invertAffineTransform(matrix), np.float32)


@lru_cache(maxsize=64)
def _lattice(down: int, across: int) -> npt.NDArray[np.intp]:
    """Columns and rows of a grid's nodes, int[down * across, 2]."""
    return np.stack(np.meshgrid(np.arange(across), np.arange(down)), axis=-1).reshape(-1, 2)


def _inside(points: F32) -> F32:
    """1 where the frame may be moved, 0 outside `FIELD`, f32[N]."""
    left, top, right, bottom = FIELD
    x, y = points[:, 0], points[:, 1]
    inside = np.minimum(np.minimum(x - left, right - x), np.minimum(y - top, bottom - y))
    return np.clip(inside / np.float32(EDGE_PX), 0, 1)
