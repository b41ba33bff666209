"""ONNX Runtime: the default, on a CPU. Also the reference that other runtimes are compared with."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from engine.bundle import Bundle, check_steps
from engine.diffusion import NoiseSchedule, ddim_sample
from engine.errors import BackendError
from engine.types import F32, U8, LipJob

MAX_BATCH = 16


class OrtBackend:
    """A lite bundle's two graphs: `encode.onnx` once a frame, `denoise.onnx` once a step.

    Args:
        bundle: the model.
        threads: CPU threads; None takes the machine's cores, at most 4. More helps little on a
            network this small and takes cores from decoding and tracking.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.manifest = bundle.manifest
        if self.manifest.kind != "lite":
            raise BackendError(f"{bundle.path}: 'ort' does not run kind {self.manifest.kind!r} yet")
        self.batch_sizes = (1, 2, 4, 8, MAX_BATCH)
        self._threads = threads or min(4, os.cpu_count() or 1)
        self.description = f"ONNX Runtime {ort.__version__}, CPU, {self._threads} threads"
        self._schedule = NoiseSchedule.linear()
        self._encode = self._session(bundle, "encode.onnx")
        self._denoise = self._session(bundle, "denoise.onnx")
        self._context_names = [output.name for output in self._encode.get_outputs()]
        self._noise: dict[int, F32] = {}
        # Shapes and memory plans are settled by the first run; no live frame should wait for it.
        size = self.manifest.crop_size
        blank = np.zeros((1, 3, size, size), np.float32)
        mel = np.zeros((1, 80, 16), np.float32)
        self._paint(blank, blank, mel, self.manifest.default_steps, [self.manifest.noise_seed])

    def _session(self, bundle: Bundle, name: str) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads would steal the core that decodes the next frame.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = bundle.file(name)
        try:
            return ort.InferenceSession(str(path), options,
                                        providers=["CPUExecutionProvider"])  # fmt: skip
        except Exception as error:  # the runtime raises several unrelated kinds
            cause = _one_line(error)
            raise BackendError(f"{path}: ONNX Runtime refuses it ({cause})") from error

    def generate(self, jobs: Sequence[LipJob]) -> list[U8]:
        """Repaint the lower half of each crop; see `Backend.generate`."""
        if not jobs:
            return []
        steps = jobs[0].steps
        if any(job.steps != steps for job in jobs):
            raise BackendError("all jobs of a batch must take the same number of steps")
        check_steps(self.manifest, steps)
        try:
            crops = np.stack([job.crop for job in jobs])
            references = np.stack([job.references[0] for job in jobs])
            mels = np.stack([job.mel for job in jobs])
        except ValueError as error:
            raise BackendError(f"the jobs of a batch differ in shape ({error})") from error
        seeds = [job.seed for job in jobs]
        hidden = self._paint(_to_planes(crops), _to_planes(references), mels, steps, seeds)
        painted = np.rint((hidden.transpose(0, 2, 3, 1) + 1) * 127.5)
        out = crops.copy()
        out[:, self.manifest.crop_size // 2 :] = np.clip(painted, 0, 255).astype(np.uint8)
        return list(out)

    def _paint(
        self, crops: F32, references: F32, mels: F32, steps: int, seeds: Sequence[int]
    ) -> F32:
        """f32[B, 3, S, S] twice, f32[B, 80, 16] -> hidden halves f32[B, 3, S/2, S] in ±1."""
        visible = np.ascontiguousarray(crops[:, :, : crops.shape[2] // 2])
        try:
            maps = self._encode.run(
                None, {"visible": visible, "reference": references, "mel": mels}
            )
            feeds = dict(zip(self._context_names, maps, strict=True))
            feeds["reference"] = references

            def denoise(x_t: F32, t: int) -> F32:
                level = np.full(len(x_t), t, np.float32)
                sigma = np.full(len(x_t), np.sqrt(1 - self._schedule.alphas_cumprod[t]), np.float32)
                (v,) = self._denoise.run(None, {**feeds, "x_t": x_t, "t": level, "sigma": sigma})
                return np.asarray(v, np.float32)

            noise = np.stack([self._noise_for(seed) for seed in seeds])
            timesteps = self._schedule.timesteps(steps, spacing=self.manifest.spacing)  # type: ignore[arg-type]
            return ddim_sample(denoise, noise, timesteps, self._schedule,
                               prediction=self.manifest.prediction)  # type: ignore[arg-type] # fmt: skip
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed ({_one_line(error)})") from error

    def _noise_for(self, seed: int) -> F32:
        """The one noise image of a seed, f32[3, S/2, S]: the same for every frame of a session."""
        if seed not in self._noise:
            if len(self._noise) >= 64:  # a seed a session; old sessions need theirs no more
                self._noise.clear()
            size = self.manifest.crop_size
            self._noise[seed] = np.random.default_rng(seed).standard_normal(
                (3, size // 2, size), dtype=np.float32)  # fmt: skip
        return self._noise[seed]

    def close(self) -> None:
        """Free the graphs; nothing can be generated any more."""
        self.__dict__.pop("_encode", None)
        self.__dict__.pop("_denoise", None)


def _one_line(error: Exception) -> str:
    """What went wrong; the runtime's own messages run over several lines."""
    return " ".join(str(error).split()) or type(error).__name__


def _to_planes(images: U8) -> F32:
    """uint8[B, S, S, 3] -> f32[B, 3, S, S] in ±1."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 127.5 - 1
