"""Lips that draw together slide over what lies between them; a warp would squeeze the teeth.

A mouth is three layers: the upper lip and the lower one, each moved by itself, and what is seen
between them, which is fixed to the skull. The lips' inner edges say where which is seen.

All points are pixels of the 128 px crop, unless they are said to be of the frame.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.face.alignment import CROP_SIZE, LIPS_OUTER, transform
from lipwire.engine.face.articulation import opening_px
from lipwire.engine.types import F32, U8
from lipwire.engine.units.morph import Morph
from lipwire.engine.units.resample import LowerFace, Part, crisp, inverse, mixed
from lipwire.engine.units.shape import (
    CORNERS_INNER,
    LIPS_INNER,
    LOWER_INNER,
    LOWER_OUTER,
    RIM_PX,
    UPPER_INNER,
    UPPER_OUTER,
)

# Lips that draw together by less are moved by one warp: nobody sees a difference.
LEAST_PX = 0.4
# From the upper lip to the lower one: teeth catch light, what lies behind and below them none.
SHADE = (0.0, 0.15, 0.4, 0.65, 1.0), (0.6, 1.0, 0.85, 0.38, 0.3)
WARM = 1.1, 0.85, 0.85  # of the darkest, red, green, blue: what little light there is, is skin's
EDGE_PX = 0.7  # of the frame: lips end softly
FINE = 4  # pixels of a mask to one of the frame, each way
OUTLINE_PX = 1.0  # of the crop: outside the lips one warp moves all


def draw(
    face: LowerFace,
    shown: U8,
    part: Part,
    picture: U8,
    to_crop: F32,
    morph: Morph,
    painted: F32 | None = None,
    share: float = 0.0,
) -> None:
    """Put lips, each moved by itself, and what is seen between them into a picture.

    Without `painted` only lips that draw together; others are as the warp left them.

    Args:
        face: of the frame.
        shown: uint8[h, w, 3], a part of the box of `face`, warped by `morph`; is written to.
        part: rows and columns of it in the box.
        picture: uint8[.., .., 3], where the mouth is from.
        to_crop: f32[2, 3], pixels of `picture` -> pixels of the crop.
        morph: of `picture` as the unit.
        painted: f32[h, w, 3], the model's part; None where nothing of it is to be seen.
        share: of it in what is seen between lips that part.
    """
    shuts_px = float(opening_px(morph.unit[None])[0] - opening_px(morph.target[None])[0])
    if painted is None and shuts_px < LEAST_PX:
        return
    rows, columns = part
    edges = morph.target.copy()
    edges[list(UPPER_INNER), 1] -= RIM_PX
    edges[list(LOWER_INNER), 1] += RIM_PX
    first = np.array(face.corner, np.float32) + (columns.start, rows.start)
    outline = transform(edges[list(LIPS_OUTER)], face.to_frame) - first
    soft = OUTLINE_PX / face.crop_px
    low = np.maximum(np.floor(outline.min(0) - 3 * soft), 0).astype(int)
    high = np.minimum(np.ceil(outline.max(0) + 3 * soft) + 1, shown.shape[1::-1]).astype(int)
    if (high - low < 2).any():
        return
    x, y, size = int(low[0]), int(low[1]), (int(high[1] - low[1]), int(high[0] - low[0]))
    here = slice(y, y + size[0]), slice(x, x + size[1])
    y, x = y + rows.start, x + columns.start
    place = slice(y, y + size[0]), slice(x, x + size[1])
    to_area = face.to_frame.copy()
    to_area[:, 2] -= first + low
    near = face.nodes_near(place)
    nodes, back = face.nodes[near], inverse(to_crop)
    places = np.zeros_like(face.nodes)

    def fetched(sources: F32) -> U8:
        places[near] = transform(sources, back)
        return face.fetched(picture, places, place)

    mouth = fetched(morph.without(LOWER_INNER + LOWER_OUTER, nodes))
    below = fetched(morph.without(UPPER_INNER + UPPER_OUTER, nodes))
    mouth = mixed(mouth, below, _within(transform(_below(edges), to_area), size, EDGE_PX))
    if painted is None:
        between = fetched(morph.fixed(nodes))
    else:
        there = shown[here].astype(np.float32)
        there += (painted[here] * _shade(edges, to_area, size) - there) * np.float32(share)
        between = np.clip(there + 0.5, 0, 255).astype(np.uint8)
    gap = _within(transform(edges[list(LIPS_INNER)], to_area), size, EDGE_PX)
    sharp = crisp(mixed(mouth, between, gap))
    old = np.ascontiguousarray(shown[here])
    shown[here] = mixed(old, sharp, _within(outline - low, size, soft))


def _shade(edges: F32, to_area: F32, size: tuple[int, int]) -> F32:
    """How bright the inside of a mouth is, of what the model paints there, f32[h, w, 3].

    Args:
        edges: f32[468, 2], landmarks of the mouth.
        to_area: f32[2, 3], pixels of the crop -> pixels of the area.
        size: of the area, rows and columns.
    """
    places = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1).reshape(-1, 2)
    x, y = transform(places.astype(np.float32), inverse(to_area)).T
    right, left = CORNERS_INNER
    top, bottom = (
        np.interp(x, *edges[[right, *edge, left]].T) for edge in (UPPER_INNER, LOWER_INNER)
    )
    depth = np.clip((y - top) / np.maximum(bottom - top, 1.0), 0, 1)
    bright = np.interp(depth, *SHADE).astype(np.float32).reshape(*size, 1)
    return bright * (bright + (1 - bright) * np.array(WARM, np.float32))


def _below(edges: F32) -> F32:
    """All that lies below the line where lips meet, f32[N, 2]."""
    right, left = edges[list(CORNERS_INNER)]
    line = (edges[list(UPPER_INNER)] + edges[list(LOWER_INNER)]) / 2
    aside, down = np.array([CROP_SIZE, 0]), np.array([0, CROP_SIZE])
    ends = [left, left + aside, left + aside + down, right - aside + down, right - aside]
    return np.array([right, *line, *ends], np.float32)


def _within(outline: F32, size: tuple[int, int], soft_px: float) -> F32:
    """1 within an outline, f32[N, 2] in pixels of an area, 0 without, f32[h, w]."""
    import cv2

    # Outlines are drawn a pixel wide, which between lips that meet would be a line of teeth: a
    # quarter of one.
    fine = np.zeros((FINE * size[0], FINE * size[1]), np.uint8)
    fixed = np.round(np.clip((outline + 0.5) * FINE - 0.5, -1e5, 1e5) * 16).astype(np.int32)
    cv2.fillPoly(fine, [fixed], (255,), shift=4)
    mask = cv2.resize(fine, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    soft = cv2.GaussianBlur(mask, (0, 0), soft_px)
    return np.asarray(soft, np.float32) / np.float32(255)
