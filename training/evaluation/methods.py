"""Who paints: a bundle (ours, the paper's, Wav2Lip's), the same bundle fed silence, or nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from lipwire.engine.audio.mel import PAPER_FPS, SILENCE, WINDOW_COLUMNS, window, window_start
from lipwire.engine.backends import Backend, load_backend
from lipwire.engine.config import EngineConfig
from lipwire.engine.errors import ConfigError
from lipwire.engine.face.mesh import box_of
from lipwire.engine.media.planes import paint_image
from lipwire.engine.model.bundle import check_steps, open_bundle
from lipwire.engine.session.aligned import Aligned, composite
from lipwire.engine.session.face_pipeline import FacePipeline
from lipwire.engine.types import F32, U8, Face, LipJob
from lipwire.training.data.framing import paper_boxes

COPY = "copy"
BATCH = 8
Feed = Literal["voice", "silence"]
Protocol = Literal["call", "paper"]
Crop = Literal["face", "voxceleb2"]


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method as asked for: `copy`, `BUNDLE`, `NAME=BUNDLE`, `silence=BUNDLE`."""

    name: str
    bundle: Path | None
    """None shows the pictures as they came"""
    steps: int | None = None
    feed: Feed = "voice"

    @classmethod
    def parse(cls, text: str, steps: int | None = None) -> MethodSpec:
        """Read what the command line says; the bundle is opened and checked.

        Raises:
            ConfigError: the name cannot be one.
            BundleError: the bundle cannot be used, or does not offer so many steps.
        """
        if text == COPY:
            return cls(COPY, None)
        name, _, path = text.rpartition("=")
        opened = open_bundle(Path(path))
        if steps is not None and opened.manifest.steps_offered != (1,):
            check_steps(opened.manifest, steps)
        name = name or opened.manifest.name
        if not name.replace("-", "").replace("_", "").replace(".", "").replace(" ", "").isalnum():
            raise ConfigError(f"method name {name!r}: letters, digits, - _ . only")
        if name in ("real", COPY):
            raise ConfigError(f"method name {name!r} is taken")
        feed: Feed = "silence" if name == "silence" else "voice"
        taken = steps if steps in opened.manifest.steps_offered else None
        return cls(name, Path(path), taken or opened.manifest.default_steps, feed)


class _Known:
    """A tracker that has looked already.

    Args:
        images: uint8[H, W, 3] each; what is asked for must be these very arrays.
        faces: f32[468, 2] of each, or None.
    """

    def __init__(self, images: Sequence[U8], faces: Sequence[F32 | None]) -> None:
        self._faces = {id(image): face for image, face in zip(images, faces, strict=True)}

    def track(self, image: U8) -> Face | None:
        """This picture's face."""
        landmarks = self._faces[id(image)]
        return None if landmarks is None else Face(landmarks, 1.0)

    def detect(self, image: U8) -> F32:
        """Where it is, f32[1, 4] or f32[0, 4]."""
        face = self.track(image)
        return np.zeros((0, 4), np.float32) if face is None else box_of(face)[None]

    def aim(self, box: F32) -> None:
        """There is no other."""

    def glimpse(self, image: U8, boxes: F32) -> list[Face | None]:
        """Nobody else is known."""
        return [None] * len(boxes)

    def close(self) -> None:
        """Nothing is held."""


class Method:
    """One method, loaded.

    Args:
        spec: what to load.
        threads: of the runtime; None leaves it to it.
        protocol: cut out and put back as a call does it, or as the paper's authors do: every
            picture, its own crop as the reference, a rectangle pasted back as it was generated.
        crop: of the paper's protocol: around the face, or at VoxCeleb2's fixed place.
        device: to run on, by the fastest runtime there; None: the CPU's.
    """

    def __init__(
        self,
        spec: MethodSpec,
        threads: int | None = None,
        *,
        protocol: Protocol = "call",
        crop: Crop = "face",
        device: str | None = None,
    ) -> None:
        self.name, self._spec = spec.name, spec
        self._protocol, self._fixed = protocol, crop == "voxceleb2"
        self.refused = 0
        """pictures of the last film that nothing was painted into"""
        self._backend: Backend | None = None
        if spec.bundle is not None:
            opened = open_bundle(spec.bundle)
            if device:
                self._backend = load_backend(opened, "auto", device=device)
            else:
                self._backend = load_backend(opened, threads=threads)

    def generate(self, images: Sequence[U8], faces: Sequence[F32 | None], mel: F32) -> list[U8]:
        """The pictures, speaking.

        Args:
            images: uint8[H, W, 3] each, 25 a second.
            faces: f32[468, 2] of each, or None; such a picture passes through in a call.
            mel: f32[80, M] of the voice from the first picture on.
        """
        self.refused = 0
        if self._backend is None:
            return list(images)
        if self._protocol == "paper":
            return self._generate_plainly(images, faces, mel)
        manifest = self._backend.manifest
        shown, waiting = list(images), list[tuple[Aligned, LipJob]]()
        # Small faces too: they are judged, not shown.
        painter = FacePipeline(
            _Known(images, faces), EngineConfig(min_face_px=32), manifest.job_spec
        )
        for i, image in enumerate(images):
            aligned = painter.find(image, i / PAPER_FPS)
            if not isinstance(aligned, Aligned):
                self.refused += 1
                continue
            job = LipJob(
                "evaluate",
                i,
                aligned.crop,
                aligned.references,
                self._heard(mel, i),
                manifest.noise_seed,
                self._spec.steps or manifest.default_steps,
                0.0,
                aligned.reach,
            )
            waiting.append((aligned, job))
            if len(waiting) == BATCH:
                self._run(waiting, shown)
        self._run(waiting, shown)
        return shown

    def _heard(self, mel: F32, frame: int) -> F32:
        assert self._backend is not None
        columns = int(self._backend.manifest.mel.get("columns", WINDOW_COLUMNS))
        heard = window(mel, window_start(frame) + WINDOW_COLUMNS - columns, columns)
        return np.full_like(heard, SILENCE) if self._spec.feed == "silence" else heard

    def _generate_plainly(
        self, images: Sequence[U8], faces: Sequence[F32 | None], mel: F32
    ) -> list[U8]:
        assert self._backend is not None
        manifest, shown = self._backend.manifest, list[U8]()
        size, steps = manifest.crop_size, self._spec.steps or manifest.default_steps
        boxes = paper_boxes(faces, images[0].shape, self._fixed)
        for begin in range(0, len(images), BATCH):
            jobs = []
            for i in range(begin, min(begin + BATCH, len(images))):
                x0, y0, x1, y1 = boxes[i]
                crop = np.asarray(cv2.resize(images[i][y0:y1, x0:x1], (size, size)), np.uint8)
                references, heard = np.stack([crop] * manifest.references), self._heard(mel, i)
                jobs.append(
                    LipJob("evaluate", i, crop, references, heard, manifest.noise_seed, steps, 0.0)
                )
            for job, painted in zip(jobs, self._backend.generate(jobs), strict=True):
                x0, y0, x1, y1 = boxes[job.index]
                picture = images[job.index].copy()
                picture[y0:y1, x0:x1] = cv2.resize(painted, (x1 - x0, y1 - y0))
                shown.append(picture)
        return shown

    def _run(self, waiting: list[tuple[Aligned, LipJob]], shown: list[U8]) -> None:
        if not waiting:
            return
        assert self._backend is not None
        painted = self._backend.generate([job for _, job in waiting])
        for (aligned, job), crop in zip(waiting, painted, strict=True):
            shown[job.index] = paint_image(aligned.image, composite(aligned, crop, 1.0))
        waiting.clear()

    def close(self) -> None:
        """Free the runtime."""
        if self._backend is not None:
            self._backend.close()
