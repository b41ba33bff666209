"""Strips of frames, a row a film: the paper's figures 4 and 5, and 6 with the mouths alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.errors import ConfigError, MediaError
from lipwire.engine.face.alignment import (
    align,
    alignment_from,
    box_alignment,
    face_box,
    fit_similarity,
)
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.media.files import at_rate, read_frames
from lipwire.engine.types import F32, U8
from lipwire.training.evaluation.films import known_faces, track

TILE_PX = 128
HEAD = 1.5  # sides of a face's box that a head with its hair and chin takes
ZOOM = 2  # a mouth is shown twice as large as in the model's crop
LABEL_PX = 110
MAX_FRAMES = 1500  # a minute


def draw_strips(
    films: Sequence[tuple[str, Path]], out: Path, *, columns: int = 8, mouths: bool = False
) -> None:
    """Write a PNG with the same moments of every film.

    Args:
        films: (label, video) of each row, the real film first.
        out: the PNG.
        columns: moments, spread evenly over what all films have.
        mouths: show the lower half of each face, enlarged, instead of the picture.

    Raises:
        ConfigError: no film, or `out` cannot be written.
        MediaError: a film is unreadable, or shows no face where mouths are wanted.
    """
    import cv2

    if not films:
        raise ConfigError("no film to draw")
    shots = [_frames(path) for _, path in films]
    picks = np.linspace(0, min(map(len, shots)) - 1, columns).round().astype(int)
    rows, tracker = [], MeshTracker(still=True)
    try:
        for (label, path), images in zip(films, shots, strict=True):
            chosen = [images[i] for i in picks]
            faces = track(chosen, tracker)
            if mouths and any(face is None for face in faces):
                raise MediaError(f"{path}: shows no face in one of the frames to be drawn")
            found = known_faces(faces)
            tiles = _mouths(chosen, found) if mouths else _heads(chosen, found)
            rows.append(np.hstack([_label(label, len(tiles[0])), *tiles]))
    finally:
        tracker.close()
    width = max(row.shape[1] for row in rows)
    sheet = np.vstack(
        [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows]
    )
    if not out.parent.is_dir() or not cv2.imwrite(str(out), sheet[..., ::-1]):
        raise ConfigError(f"{out}: cannot be written")


def _frames(path: Path) -> list[U8]:
    images = list(islice(at_rate(read_frames(path), PAPER_FPS), MAX_FRAMES))
    if not images:
        raise MediaError(f"{path}: no picture can be decoded")
    return images


def _heads(images: Sequence[U8], faces: Sequence[F32]) -> list[U8]:
    """The same square of every picture, around the head; all of it where no face was found."""
    import cv2

    height, width = images[0].shape[:2]
    if not faces:
        size = (round(TILE_PX * width / height), TILE_PX)
        return [
            np.asarray(cv2.resize(i, size, interpolation=cv2.INTER_AREA), np.uint8) for i in images
        ]
    box = np.mean([face_box(points) for points in faces], axis=0)
    centre, half = (box[:2] + box[2:]) / 2, HEAD * float((box[2:] - box[:2]).max()) / 2
    square = box_alignment(np.concatenate([centre - half, centre + half]), TILE_PX)
    return [align(image, square) for image in images]


def _mouths(images: Sequence[U8], faces: Sequence[F32]) -> list[U8]:
    size = TILE_PX * ZOOM // 2
    tiles = []
    for image, face in zip(images, faces, strict=True):
        whole = align(image, alignment_from(fit_similarity(face, 2 * size), 2 * size))
        tiles.append(whole[size:, size // 2 : size // 2 + size])
    return tiles


def _label(text: str, height: int) -> U8:
    import cv2

    cell = np.full((height, LABEL_PX, 3), 255, np.uint8)
    cv2.putText(
        cell, text[:14], (6, height // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA
    )
    return cell
