"""A whole frame as one torch function: bytes in, audio path, all DDIM steps, mask, bytes out.

Kinds of models are not told apart: `lipwire.engine.nets.graphs` cuts each into `encode` and `step`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipwire.engine.model.bundle import Manifest, check_steps
from lipwire.engine.model.ddim import COEFFICIENTS, NoiseSchedule, trajectory
from lipwire.engine.nets.graphs import Graph


@dataclass(frozen=True, slots=True)
class Part:
    """A graph that runs: what it takes, by name, and what runs it."""

    inputs: tuple[str, ...]
    run: Callable[..., Sequence[Tensor]]

    @classmethod
    def of(cls, graph: Graph, run: Callable[..., Sequence[Tensor]] | None = None) -> Part:
        """A graph run by its own module, or by something compiled from it."""
        return cls(tuple(graph.inputs), run or graph.module)


class Sampler:
    """Paints batches at one number of steps; all its constants lie on the device.

    Args:
        manifest: of the model.
        encode: runs once a frame; None for a model that paints in a single pass.
        step: runs once a step.
        steps: DDIM steps.
        device: where it runs.
    """

    def __init__(
        self, manifest: Manifest, encode: Part | None, step: Part, steps: int, device: torch.device
    ) -> None:
        self._encode, self._step = encode, step
        check_steps(manifest, steps)
        once: list[tuple[int, tuple[float, ...]]] = [(0, (0.0,) * len(COEFFICIENTS))]
        plans = [once, once]  # of samples that begin at noise, and of those that begin at a unit
        if manifest.prediction != "image":
            spacing: Any = manifest.spacing
            how: dict[str, Any] = {"prediction": manifest.prediction}
            schedule = NoiseSchedule.linear()
            plans = [trajectory(schedule, steps, spacing, entered=e, **how) for e in (False, True)]
        steps_of = list(zip(*plans, strict=True))
        self._t = torch.tensor([[float(t) for t, _ in both] for both in steps_of], device=device)
        self._coefficients = torch.tensor(
            [[c for _, c in both] for both in steps_of], device=device
        )

    def __call__(
        self,
        crops: Tensor,
        references: Tensor,
        mel: Tensor,
        noise: Tensor,
        reach: Tensor | None = None,
        shown: Tensor | None = None,
        entered: Tensor | None = None,
    ) -> Tensor:
        """Repaint the lower halves.

        Args:
            crops: uint8[B, S, S, 3].
            references: uint8[B, R, S, S, 3].
            mel: f32[B, 80, C].
            noise: f32[B, 3, H, S].
            reach: f32[B, codes], for a model that takes it.
            shown: f32[B, R, codes], likewise.
            entered: int64[B], 1 where `noise` is a unit with noise; None: nowhere.

        Returns:
            uint8[B, S, S, 3]; the upper halves are the crops' own.
        """
        batch, size = crops.shape[:2]
        half = size // 2
        feeds = {
            "visible": _planes(crops[:, :half]),
            "references": _planes(references).flatten(1, 2),
            "mel": mel,
            "noise": noise,
        }
        feeds |= {
            name: told for name, told in (("reach", reach), ("shown", shown)) if told is not None
        }
        if self._encode is not None:
            context = self._encode.run(*(feeds[name] for name in self._encode.inputs))
            feeds |= {f"context_{i}": made for i, made in enumerate(context)}
        way = torch.zeros(batch, dtype=torch.int64, device=mel.device)
        way = way if entered is None else entered
        x = noise
        for t, coefficients in zip(self._t, self._coefficients, strict=True):
            feeds |= {"x_t": x, "t": t[way], "coefficients": coefficients[way]}
            x = self._step.run(*(feeds[name] for name in self._step.inputs))[0]
        painted = ((x[:, :, x.shape[2] - half :].float() + 1) * 127.5).round().clamp(0, 255)
        return torch.cat([crops[:, :half], painted.permute(0, 2, 3, 1).to(torch.uint8)], dim=1)


def _planes(images: Tensor) -> Tensor:
    """uint8[..., H, W, 3] -> f32[..., 3, H, W] in ±1."""
    return (images.movedim(-1, -3).float() / 127.5 - 1).contiguous()
