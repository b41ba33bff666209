"""TrainConfig and its presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run; every batch follows from `seed` and the step's number."""

    steps: int = 9_000
    batch: int = 16
    voices: int = 256
    """sounds without pictures a step: they cost little and the voice needs many"""
    learning_rate: float = 2e-3
    warmup: int = 100
    ema: float = 0.999
    clip_norm: float = 1.0
    l2_weight: float = 1.0
    code_weight: float = 0.5
    voice_share: float = 0.25
    """share of pictures driven by what the voice branch hears instead of the measured mouth"""
    code_noise: float = 0.15
    timestep_grid: int = 8
    """noise levels trained: those that 1, 2, 4 .. this many sampling steps visit; 0 = all 1000"""
    seed: int = 0
    checkpoint_every: int = 250
    sample_every: int = 500

    def __post_init__(self) -> None:
        """Check what would only show after hours."""
        for name in ("steps", "batch", "voices", "checkpoint_every", "sample_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning_rate is {self.learning_rate}, must lie in (0, 1)")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is {self.ema}, must lie in [0, 1)")

    def to_dict(self) -> dict[str, Any]:
        """As stored in checkpoints and manifests."""
        return asdict(self)


PRESETS = {
    "lite": TrainConfig(),
    # A few minutes, to see that everything works.
    "smoke": replace(TrainConfig(), steps=20, batch=4, voices=16, warmup=2, checkpoint_every=10,
                     sample_every=10),
}  # fmt: skip
