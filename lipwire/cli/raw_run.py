"""Sample a bundle on raw arrays, so that anyone can hold it against a reference."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lipwire.engine.backends.feeds import noise_image
from lipwire.engine.backends.ort import OrtBackend
from lipwire.engine.errors import MediaError
from lipwire.engine.face.articulation_scale import TYPICAL
from lipwire.engine.model.bundle import Bundle
from lipwire.engine.types import F32

FIELDS = ("face", "ref", "noise", "mel", "reach")


def run_arrays(
    bundle: Bundle,
    given: Mapping[str, Any],
    *,
    steps: int | None = None,
    clip: bool = True,
    forward: int | None = None,
    device: str | None = None,
) -> dict[str, F32]:
    """Sample a batch.

    Args:
        bundle: the model.
        given: `face` f32[B, 3, S, S] and `ref` f32[B, 3R, S, S] in ±1, `mel` f32[B, 80, C] in ±4,
            `noise` f32[B or 1, 3, S, S]; without noise, the one that the bundle's seed gives;
            `reach` f32[B, 7] of a bundle that takes it, without it a typical speaker's.
        steps: DDIM steps; None takes the bundle's default.
        clip: keep the clean-image estimate in ±1 at every step.
        forward: also run the network alone, at this step, with x_t = noise.
        device: see `lipwire.engine.backends.ort_session.choose_device`.

    Returns:
        `sample` as the model samples it, f32[B, 3, S, S], or f32[B, 3, S/2, S] of one that samples
        the hidden half only; `composited` f32[B, 3, S, S], that under the face's visible half;
        and `forward_t…`, what the network returned.

    Raises:
        MediaError: an array is missing, misshapen or not finite.
        BundleError: the steps are not offered.
        BackendError: the runtime refuses or fails.
    """
    face, ref, mel = (_array(given, name) for name in ("face", "ref", "mel"))
    size = bundle.manifest.crop_size
    if face.ndim != 4 or face.shape[1:] != (3, size, size):
        raise MediaError(f"face is {list(face.shape)}, must be [B, 3, {size}, {size}]")
    backend = OrtBackend(bundle, device=device)
    try:
        rows = backend.noise_rows
        if "noise" in given:
            noise = _array(given, "noise")
        else:
            noise = noise_image(bundle.manifest.noise_seed, rows, size)[None]
        if noise.ndim != 4 or noise.shape[0] not in (1, len(face)):
            raise MediaError(f"noise is {list(noise.shape)}, must be [{len(face)} or 1, 3, …]")
        noise = noise[:, :, -rows:].repeat(len(face) // len(noise), axis=0)
        visible = np.ascontiguousarray(face[:, :, : size // 2])
        arrays = {"visible": visible, "references": ref, "mel": mel, "noise": noise}
        if bundle.manifest.reach_px:
            typical = np.tile(TYPICAL, (len(face), 1))
            arrays["reach"] = _array(given, "reach") if "reach" in given else typical
        sample = backend.sample(arrays, steps or bundle.manifest.default_steps, clip=clip)
        hidden = sample[:, :, -(size // 2) :]
        found = {
            "sample": sample,
            "composited": np.concatenate([face[:, :, : size // 2], hidden], axis=2),
        }
        if forward is not None:
            found[f"forward_t{forward}"] = backend.forward(arrays, forward)
        return found
    finally:
        backend.close()


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of an .npz, of which `run_arrays` takes those it knows; no code is run.

    Raises:
        MediaError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files if name in FIELDS}
    except FileNotFoundError as error:
        raise MediaError(f"{path}: no such file") from error
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise MediaError(f"{path}: not an .npz of arrays ({error})") from error


def write_arrays(path: Path, arrays: Mapping[str, F32]) -> None:
    """Write an .npz; it appears when it is whole.

    Raises:
        MediaError: it cannot be written.
    """
    partial = path.with_name(f".{os.getpid()}.partial.npz")
    try:
        np.savez(partial, **arrays)
        partial.replace(path)
    except OSError as error:
        raise MediaError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)


def _array(given: Mapping[str, Any], name: str) -> F32:
    if name not in given:
        raise MediaError(f"the array {name!r} is missing; needed are face, ref and mel")
    values = np.asarray(given[name])
    if values.dtype.kind not in "fiu":
        raise MediaError(f"{name} is of type {values.dtype}, must be numbers")
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise MediaError(f"{name} holds NaN or infinity")
    return values
