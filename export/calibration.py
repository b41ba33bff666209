"""Real crops and sounds to calibrate on, from prepared shards or an .npz of raw arrays."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import BundleError
from engine.mel import MAX_ABS, N_MELS, SILENCE, WINDOW_COLUMNS, window_start
from engine.nets.graphs import example_inputs
from engine.types import F32

SAMPLES = 32  # more changes the ranges little and takes longer
FRAMES_A_CLIP = 2


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a network is shown: its inputs as in `engine.nets.graphs`, but x_t and t."""

    inputs: dict[str, Tensor]

    def shown(self) -> dict[str, Tensor]:
        """The samples that ranges are measured on."""
        return {name: values[::2] for name, values in self.inputs.items()}

    def held_out(self) -> dict[str, Tensor]:
        """The other half, to judge the result by."""
        return {name: values[1::2] for name, values in self.inputs.items()}


def read_calibration(source: Path, net: nn.Module, samples: int = SAMPLES) -> Calibration:
    """Read samples in the shapes that a network takes.

    Args:
        source: a folder of shards as `lipwire prepare` writes them, or an .npz with `face` and
            `ref` f32[N, 3, S, S] in ±1 and `mel` f32[N, 80, C] in ±4.
        net: to be calibrated.
        samples: at most so many.

    Raises:
        BundleError: nothing usable there.
    """
    wanted = example_inputs(net, 1)
    size, columns = wanted["references"].shape[2], wanted["mel"].shape[2]
    count = wanted["references"].shape[1] // 3
    found = _from_shards(source, columns, count) if source.is_dir() else _from_npz(source)
    faces, references, mels = [], [], []
    for face, reference, mel in found:
        if mel.shape != (N_MELS, columns) or reference.shape[0] not in (3, 3 * count):
            raise BundleError(
                f"{source}: mel is {list(mel.shape)} and ref has {reference.shape[0]} channels, "
                f"the network takes [{N_MELS}, {columns}] and {3 * count}"
            )
        faces.append(_resized(face, size))
        references.append(_resized(np.resize(reference, (3 * count, *reference.shape[1:])), size))
        mels.append(np.clip(mel, -MAX_ABS, MAX_ABS))
        if len(faces) == samples:
            break
    if len(faces) < 2:
        raise BundleError(f"{source}: holds fewer than two faces to calibrate on")
    noise = example_inputs(net, 1, seed=3)["noise"].expand(len(faces), -1, -1, -1)
    stacked = {"visible": np.stack(faces)[:, :, : size // 2], "references": np.stack(references),
               "mel": np.stack(mels)}  # fmt: skip
    tensors = {k: torch.from_numpy(v.astype(np.float32)) for k, v in stacked.items()}
    if "reach" in wanted:
        tensors["reach"] = wanted["reach"].new_ones(len(faces), wanted["reach"].shape[1])
    return Calibration({**tensors, "noise": noise.contiguous()})


def _resized(planes: F32, size: int) -> F32:
    if planes.shape[1] == size:
        return planes
    scaled = nn.functional.interpolate(
        torch.from_numpy(planes)[None], (size, size), mode="bilinear", antialias=True
    )
    return np.asarray(scaled[0].numpy(), np.float32)


def _from_npz(path: Path) -> Iterator[tuple[F32, F32, F32]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            face, ref, mel = (np.asarray(stored[name], np.float32) for name in
                              ("face", "ref", "mel"))  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{path}: needs the arrays face, ref and mel ({error})") from error
    yield from zip(face, ref, mel, strict=False)


def _from_shards(folder: Path, columns: int, references: int) -> Iterator[tuple[F32, F32, F32]]:
    """A few frames of every clip, the references spread over the clip."""
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: member for member in tar if member.isfile()}
            for name in members:
                key = name.removesuffix(".crops.npy")
                if key == name or f"{key}.mel.npy" not in members:
                    continue
                crops, mel = (_array(tar, members[f"{key}.{part}.npy"]) for part in
                              ("crops", "mel"))  # fmt: skip
                others = np.linspace(0, len(crops) - 1, references + 1).astype(int)[:-1]
                ref = np.concatenate([_planes(crops[i]) for i in others])
                for index in np.linspace(0, len(crops) - 1, FRAMES_A_CLIP + 2).astype(int)[1:-1]:
                    yield _planes(crops[index]), ref, _window(mel, int(index), columns)


def _array(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    file = tar.extractfile(member)
    assert file is not None
    return np.load(io.BytesIO(file.read()), allow_pickle=False)


def _planes(image: Any) -> F32:
    return np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1


def _window(mel: F32, frame: int, columns: int) -> F32:
    """The window of a frame, f32[80, columns]; columns beyond the paper's 16 are earlier ones."""
    stop = window_start(frame) + WINDOW_COLUMNS
    padded = np.pad(mel, ((0, 0), (columns, columns)), constant_values=SILENCE)
    return np.asarray(padded[:, stop : stop + columns], np.float32)
