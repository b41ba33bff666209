"""A real film and the films that methods made of it -> figures, every method on the same frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.errors import CheckpointError
from lipwire.engine.face.alignment import align, box_alignment, face_box
from lipwire.engine.face.articulation import OPENING, raw_codes
from lipwire.engine.types import F32, SPEECH_RATE_HZ, U8
from lipwire.training.data.clip import Rejected
from lipwire.training.data.dataset import to_planes
from lipwire.training.data.framing import alignments
from lipwire.training.evaluation.films import Film, known_faces
from lipwire.training.evaluation.frechet import Features, GaborStatistics, Inception
from lipwire.training.evaluation.lists import Setting
from lipwire.training.evaluation.measures import (
    MIN_KNOWN,
    best_lag,
    correlation,
    flicker,
    lmd,
    psnr_db,
    shape_px,
    ssim,
)
from lipwire.training.evaluation.sync import face_crops, load_syncnet, score_film, whole_pictures
from lipwire.training.nets.perceptual import load_perceptual

REAL = "real"
# Where ArcFace's networks want eyes, nose and mouth corners in 112 px (their published alignment),
# and the mesh's points for them; an eye is the middle of its corners.
_ARC = np.array([(38.3, 51.7), (73.5, 51.5), (56.0, 71.7), (41.5, 92.4), (70.7, 92.2)], np.float32)
_ARC_MESH = ((33, 133), (362, 263), (1,), (61,), (291,))
_ARC_PX = 112


@dataclass(frozen=True, slots=True)
class Weights:
    """Files of the networks that judge; what is not given is not measured, or by its substitute."""

    syncnet: Path | None = None
    """Sync_c, Sync_d: `syncnet_v2.model`"""
    inception: Path | None = None
    """FID: `inception-2015-12-05.pt`; else `frechet_gabor`"""
    perceptual: tuple[Path, ...] = ()
    """LPIPS: VGG-16 and its linear weights; else the Gabor distance"""
    face: Path | None = None
    """identity: an ArcFace-like ONNX network; else only `shape_px`"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Figures of one clip."""

    frames: int
    """that all figures are of"""
    left_out: dict[str, int]
    """reason -> frames left out, of the real film and of every method alike"""
    methods: dict[str, dict[str, float]]
    features: dict[str, F32]
    """method, or real -> f32[N, D] of the pictures compared"""


class Judge:
    """Loads what judges once; then compares.

    Args:
        weights: files.
        every: of so many frames one is compared as a picture; sync looks at all.
        whole: SyncNet sees whole pictures, as the published script shows it films that are cut
            around a face already (VoxCeleb2, LRW); otherwise a crop that follows the face.

    Raises:
        CheckpointError: a file is missing or does not fit.
    """

    def __init__(self, weights: Weights, every: int = 5, whole: bool = False) -> None:
        self._every, self._whole = every, whole
        self.features: Features = (
            Inception(weights.inception) if weights.inception else GaborStatistics()
        )
        self._perceptual = load_perceptual(weights.perceptual)
        self._syncnet = load_syncnet(weights.syncnet) if weights.syncnet else None
        self._identity = FaceNet(weights.face) if weights.face else None

    def compare(
        self, setting: Setting, real: Film, fakes: Mapping[str, Film], voice: Film
    ) -> Verdict:
        """Figures of each method.

        Args:
            setting: reconstruction has true pictures to compare with, cross has not.
            real: whose picture it is.
            fakes: what the methods showed, by name.
            voice: whose mouth and sound are to be followed; its faces may be unknown.

        Raises:
            Rejected: sizes differ, or too few frames have a face everywhere.
        """
        for name, film in fakes.items():
            if film.images and film.images[0].shape != real.images[0].shape:
                sizes = ["x".join(map(str, f.images[0].shape[1::-1])) for f in (film, real)]
                raise Rejected("sizes differ", f"{name} is {sizes[0]}, the real film {sizes[1]}")
        films = [real, *fakes.values(), *([voice] if voice.images else [])]
        count = min(len(film.images) for film in films)
        known = np.all([film.found[:count] for film in films], axis=0)
        left_out = {
            "beyond the shortest film": max(len(film.images) for film in films) - count,
            "no face": int((~known).sum()),
        }
        if known.sum() < MIN_KNOWN:
            raise Rejected("no face", f"all films have one in {int(known.sum())} of {count} frames")
        kept = [int(i) for i in np.flatnonzero(known)]
        start, stop = _longest_run(known)
        wanted = voice.mouths()[:count] if voice.images else None
        methods: dict[str, dict[str, float]] = {}
        picks = _picks(kept, self._every, first=setting == "cross")
        # Both sides are cut out alike. In reconstruction the fake stands still, so the cut does
        # too, as the paper's does; elsewhere it follows the real face.
        faces = known_faces([real.faces[i] for i in kept])
        if setting == "reconstruction":
            faces = faces[:1] * len(faces)
        maps = dict(zip(kept, alignments("box", faces, real.images[0].shape), strict=True))
        crops = [
            [align(film.images[i], maps[i]) for i in picks] for film in (real, *fakes.values())
        ]
        features = {
            name: self.features(cut) for name, cut in zip((REAL, *fakes), crops, strict=True)
        }
        mouths = real.mouths()[:count]
        # One cut for all of a run: a box that follows a face would shake what is to be still.
        box = np.mean([face_box(f) for f in known_faces(real.faces[start:stop])], axis=0)
        steady = box_alignment(box)
        for (name, film), cut in zip(fakes.items(), crops[1:], strict=True):
            found = film.mouths()[:count]
            found[~known] = np.nan
            figures = {"shape_px": shape_px(found, mouths)}
            if wanted is not None:
                figures |= _following(found, wanted)
            if setting == "reconstruction":
                figures |= self._pictures(cut, crops[0])
            figures["flicker"] = flicker(
                *([align(image, steady) for image in f.images[start:stop]] for f in (film, real))
            )
            if self._identity is not None:
                figures["identity"] = self._identity.likeness(film, real, picks)
            methods[name] = figures | self._sync(film, voice, start, stop)
        if self._syncnet is not None:
            methods[REAL] = self._sync(real, real, start, stop)
        return Verdict(len(kept), {k: v for k, v in left_out.items() if v}, methods, features)

    def _pictures(self, found: Sequence[U8], wanted: Sequence[U8]) -> dict[str, float]:
        a, b = (torch.from_numpy(np.stack([to_planes(p) for p in x])) for x in (found, wanted))
        pairs = list(zip(found, wanted, strict=True))
        with torch.no_grad():
            distance = float(self._perceptual(a, b).mean())
        return {
            "psnr_db": float(np.mean([psnr_db(*pair) for pair in pairs])),
            "ssim": float(np.mean([ssim(*pair) for pair in pairs])),
            self._perceptual.name: distance,
        }

    def _sync(self, film: Film, voice: Film, start: int, stop: int) -> dict[str, float]:
        if self._syncnet is None or not len(voice.speech):
            return {}
        sound, images = voice.speech[start * SPEECH_RATE_HZ // PAPER_FPS :], film.images[start:stop]
        if self._whole:
            seen = whole_pictures(images)
        else:
            seen = face_crops(images, known_faces(film.faces[start:stop]))
        scores = score_film(self._syncnet, seen, sound)
        return {"sync_c": scores.confidence, "sync_d": scores.distance}


def _picks(kept: Sequence[int], every: int, first: bool) -> list[int]:
    """Frames compared as pictures; not the first one where it was given: who copies it has it."""
    return list(kept[0 if first else 1 :: every])


def _longest_run(known: Any) -> tuple[int, int]:
    """Start and stop of the longest stretch that is all True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(np.int8), [0]])))
    runs = list(zip(edges[::2], edges[1::2], strict=True))
    start, stop = max(runs, key=lambda run: run[1] - run[0])
    return int(start), int(stop)


def _following(found: F32, wanted: F32) -> dict[str, float]:
    """How a mouth follows the one that truly spoke."""
    opening, truth = raw_codes(found)[:, OPENING], raw_codes(wanted)[:, OPENING]
    lag = best_lag(opening, truth)
    # A mouth that does not follow at all is not late by any number.
    follows = correlation(opening, truth, lag) > 0
    return {
        "r": correlation(opening, truth),
        "lag": float(lag) if follows else float("nan"),
        "lmd_px": lmd(found, wanted),
    }


class FaceNet:
    """A network that knows faces apart, as ONNX: f32[N, 3, 112, 112] RGB in ±1 -> f32[N, D].

    Raises:
        CheckpointError: it cannot be read, or does not take such pictures.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime as ort

        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; identity needs a face network as ONNX")
        try:
            self._session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            self._input = self._session.get_inputs()[0].name
            self._embed([np.zeros((_ARC_PX, _ARC_PX, 3), np.uint8)])
        except Exception as error:  # the runtime's errors have no common base
            raise CheckpointError(
                f"{path}: not a face network of 112 px pictures ({error})"
            ) from error

    def _embed(self, crops: Sequence[U8]) -> F32:
        """f32[N, D] of length 1."""
        vectors = [
            self._session.run(None, {self._input: to_planes(c)[None]})[0].ravel() for c in crops
        ]
        stacked = np.stack(vectors).astype(np.float32)
        return stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-9)

    def likeness(self, film: Film, real: Film, picks: Sequence[int]) -> float:
        """Mean cosine of a film's face and the real one's, frame by frame; 1 = the same."""
        a, b = (
            self._embed([_arc_crop(f.images[i], p) for i in picks if (p := f.faces[i]) is not None])
            for f in (film, real)
        )
        return float((a * b).sum(1).mean())


def _arc_crop(image: U8, landmarks: F32) -> U8:
    """The face as such networks want it, uint8[112, 112, 3]: the best similarity of five points."""
    import cv2

    points = np.stack([landmarks[list(group)].mean(0) for group in _ARC_MESH])
    (x, y), one, none = points.T, np.ones(len(points)), np.zeros(len(points))
    equations = np.concatenate([np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)])
    a, b, dx, dy = np.linalg.lstsq(equations, _ARC.T.ravel(), rcond=None)[0]
    matrix = np.array([[a, -b, dx], [b, a, dy]])
    return np.asarray(cv2.warpAffine(image, matrix, (_ARC_PX, _ARC_PX)), np.uint8)
