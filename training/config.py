"""Settings of a run and the presets. Every batch follows from the seed and the step's number."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from lipwire.engine.errors import ConfigError
from lipwire.training.losses import GanForm

Precision = Literal["no", "bf16", "fp16"]
FamilyName = Literal["paper", "lite"]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How a run goes, whatever it learns."""

    steps: int = 9_000
    batch: int = 16
    """samples an optimiser step, over all devices"""
    accumulate: int = 1
    """micro-batches that a device splits its share into, where memory is short"""
    learning_rate: float = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 100
    weight_decay: float = 1e-4
    ema: float = 0.999
    clip_norm: float = 1.0
    precision: Precision = "no"
    seed: int = 0
    workers: int = 0
    """processes that load data; 0 loads between steps"""
    checkpoint_every: int = 250
    sample_every: int = 500
    keep_every: int = 0
    """steps between averages that stay, each in its own file; 0 keeps the newest state alone"""

    def __post_init__(self) -> None:
        """Check what would only show after hours."""
        for name in ("steps", "batch", "accumulate", "checkpoint_every", "sample_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning_rate is {self.learning_rate}, must lie in (0, 1)")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is {self.ema}, must lie in [0, 1)")

    def to_dict(self) -> dict[str, Any]:
        """As stored in checkpoints and manifests."""
        return asdict(self)


# Of these a resumed run may have others: they change how long it goes on and what it writes, not
# what a step does (but for a cosine, whose end moves with the steps).
FREE = frozenset(
    {"steps", "workers", "accumulate", "checkpoint_every", "sample_every", "keep_every"}
)


@dataclass(frozen=True, slots=True)
class LiteRecipe:
    """The lite painter's losses, beside L_simple at weight 1."""

    l2: float = 1.0
    shape: float = 0.1
    """the shape critic's reading of the painted mouth against the code"""
    features: float = 0.2
    """the shape critic's features of the painted against those of the true mouth"""
    gan: float = 0.02
    r1: float = 1.0
    critic_rate: float = 8e-4
    gan_start: int = 2_000
    """steps before the patch critic is listened to: before, it only learns"""
    shape_warmup: int = 500
    code_noise: float = 0.2
    """of the measured codes, in their spreads: what is heard is no more exact"""
    strays: float = 0.0
    """share of samples asked for the mouth of another frame of their clip, of which no picture is
    known: what the visible half tells of the mouth's shape must not be believed"""
    timestep_grid: int = 8
    """noise levels trained: those that 1, 2, 4 .. this many sampling steps visit; 0 = all 1000"""
    perceptual: float = 0.0
    """distance of the painted mouth from the true one in features that ImageNet taught"""
    noise_starts: float = 1 / 3
    """share of samples whose x_t is pure noise"""
    own_starts: float = 1 / 3
    """share whose x_t is the network's own first estimate with noise put back"""
    unit_starts: float = 0.0
    """share whose x_t is a mouth that the person made at another moment, with noise; of the rest
    it is the true picture with noise. Above 0, they and the rest have units as references"""

    def __post_init__(self) -> None:
        """Check what would only show after hours."""
        shares = self.noise_starts, self.own_starts, self.unit_starts
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(f"starts are {shares}, must be shares whose sum is at most 1")
        if self.perceptual < 0:
            raise ConfigError(f"weight perceptual is {self.perceptual}, must not be negative")


@dataclass(frozen=True, slots=True)
class VoiceRecipe:
    """What the voice branch hears, and from whom it learns."""

    heard_steps: int = 1_500
    """steps in which it learns the teacher's features alone"""
    heard_rate: float = 2e-3
    """learning rate of those"""
    heard_film: float = 0.4
    """share of streams from the films in those; of the rest there are no mouths"""
    film: float = 0.75
    """the same in the runs that learn mouths and shut lips"""
    lips_steps: int = 300
    """steps in which a finished voice learns to tell shut lips"""
    silence: float = 0.04
    """share of streams without a voice, which must shut the mouth"""
    moments: int = 160
    """with an answer in a stream, 40 a second"""
    gain_db: float = 3.0
    """loudness of half of the pieces varies by this, of the others by four times as much"""

    def __post_init__(self) -> None:
        for name in ("silence", "film", "heard_film"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must lie in [0, 1)")
        if min(self.moments, self.heard_steps, self.lips_steps) < 1:
            raise ConfigError("moments, heard_steps and lips_steps must be at least 1")


@dataclass(frozen=True, slots=True)
class LossWeights:
    """The paper's total (eq. 9), which prints no weights; the defaults are its authors' answer."""

    l2: float = 1.0
    sync: float = 0.1
    perceptual: float = 0.25
    gan: float = 0.5
    gan_form: GanForm = "log"
    r1: float = 0.0
    """weight of the R1 penalty on real clips; 0 leaves it out, as the paper does"""
    critic_rate: float = 1e-4
    """learning rate of the critic; much above the denoiser's it wins and its gradients die"""

    def __post_init__(self) -> None:
        for name in ("l2", "sync", "perceptual", "gan", "r1"):
            if getattr(self, name) < 0:
                raise ConfigError(f"weight {name} is {getattr(self, name)}, must not be negative")


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings under a name: what, how, and which losses."""

    family: FamilyName
    train: TrainConfig
    objective: LiteRecipe | LossWeights
    net: dict[str, Any] = field(default_factory=dict)
    """of `Diff2LipConfig` or `LiteConfig`; empty: the published sizes, the shipped ones"""


LITE = TrainConfig(steps=7_300, batch=18, learning_rate=1e-3, warmup=200)
# Mouths, after the teacher was learned, in five passes; 500 steps learn the speakers by heart.
VOICE = TrainConfig(
    steps=200,
    batch=32,
    learning_rate=1e-3,
    weight_decay=2e-2,
    ema=0.998,
    precision="bf16",
    sample_every=100,
)
# On from an earlier painter's weights (--init): critics that begin anew learn faster than it.
REFINE = replace(LITE, steps=4_000, learning_rate=4e-4)
# Longer than any machine is lent: constant, so that it may end, and be gone on from, anywhere.
UNITS = replace(
    LITE,
    steps=1_000_000,
    batch=16,
    learning_rate=4e-4,
    schedule="constant",
    checkpoint_every=100,
    sample_every=2_000,
)
SMOKE = replace(LITE, steps=20, batch=4, warmup=2, checkpoint_every=10, sample_every=10)
# From the paper: 5 frames, one t, all 1000 levels, 8 GPUs for 4 days, the losses. It does not give
# batch, learning rate, decay and steps: rate and decay are those of the code that it builds on.
# Eight clips a GPU are 40 frames of 0.78 GB in float32 (counted, not run), which 48 GB hold; at 20
# TFLOP a step and GPU and 25 to 33 TFLOPS, 400,000 steps are three to four days.
PAPER = TrainConfig(
    steps=400_000,
    batch=64,
    learning_rate=1e-4,
    schedule="constant",
    warmup=1000,
    weight_decay=0.0,
    ema=0.9999,
    precision="bf16",
    workers=4,
    checkpoint_every=2_000,
    sample_every=5_000,
    keep_every=20_000,
)
# Small enough for two CPU cores: 64 px, an hour or so for each.
TRIAL = TrainConfig(
    steps=1_000,
    batch=4,
    learning_rate=5e-4,
    warmup=50,
    ema=0.995,
    checkpoint_every=250,
    sample_every=1_000,
)
SMALL_PAPER = {
    "image_size": 64,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "channel_mult": (1, 2, 2),
    "num_head_channels": 32,
}
SMALL_LITE = {
    "size": 64,
    "widths": (24, 48, 64, 96),
    "embed": 96,
    "voice_width": 96,
    "references": 1,
    "mel_columns": 16,
}

# The four rows of the paper's tables 1 and 3 (sec. 4.3), each with one more loss.
ABLATION = {
    "reconstruction": LossWeights(l2=0.0, sync=0.0, perceptual=0.0, gan=0.0),
    "syncnet": LossWeights(perceptual=0.0, gan=0.0),
    "perceptual": LossWeights(gan=0.0),
    "gan": LossWeights(),
}

PRESETS: dict[str, Preset] = {
    "lite": Preset("lite", LITE, LiteRecipe()),
    "lite-refine": Preset("lite", REFINE, LiteRecipe(shape=0.2, gan_start=600, strays=0.25)),
    "lite-units": Preset(
        "lite",
        UNITS,
        LiteRecipe(
            shape=0.2,
            gan_start=600,
            strays=0.2,
            perceptual=0.05,
            noise_starts=1 / 8,
            own_starts=1 / 8,
            unit_starts=5 / 8,
        ),
    ),
    "smoke": Preset("lite", SMOKE, LiteRecipe(gan_start=5, shape_warmup=5)),
    "paper": Preset("paper", PAPER, LossWeights()),
    **{f"paper-ablation-{k}": Preset("paper", PAPER, w) for k, w in ABLATION.items()},
    **{f"lite-ablation-{k}": Preset("lite", TRIAL, w, SMALL_LITE) for k, w in ABLATION.items()},
}


def preset_named(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ConfigError: there is none; lists those that there are.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset is named {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def scaled_down(preset: Preset) -> Preset:
    """The same losses on a network that two CPU cores can train: 64 px, for trials."""
    net = SMALL_PAPER if preset.family == "paper" else SMALL_LITE
    return replace(preset, train=replace(TRIAL, seed=preset.train.seed), net=net)
