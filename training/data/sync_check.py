"""Are a clip's sound and picture in step? By how many frames not, and how sure is that?

A ridge regression predicts how the mouth is held (training.articulation) from the log-mel around a
frame. Slid along the clip, its prediction fits the measured mouth best where sound and picture are
in step. It hears little (a correlation of 0.4 with people it has not seen), but a clip of a few
seconds has many frames and seven measurements in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lipwire.engine.audio.mel import MEL_RATE_HZ, PAPER_FPS
from lipwire.engine.errors import ConfigError
from lipwire.engine.types import F32, F64

MAX_LAG = 15  # frames either way
MIN_OVERLAP = 20  # frames that a lag must leave to compare
BANDS = 20
# Columns around a frame that are heard: 125 ms before to 175 ms after, every other one.
OFFSETS = np.arange(-10, 15, 2)
RIDGE = 3000.0
# Neighbouring frames repeat each other, and the seven measurements one another: how much of the
# sum of their evidence is independent. Higher: the method is sure of lags that are wrong; lower:
# it is never sure. Measured on held-out clips with known lags (tests).
EVIDENCE = 0.12
SURE = 0.9
MIN_FRAMES = 50  # shorter clips fit a wrong lag by chance: with 30 frames one sure verdict in ten
TOLERANCE = 1  # frames: a lag is not known better than that
# Below this the seven predictions have, at their best lag, nothing to do with the mouth.
MIN_FIT = 0.12

PUBLISHED = Path(__file__).parents[1] / "weights" / "mouth-from-mel.npz"


class Talking(Protocol):
    """What is compared."""

    @property
    def codes(self) -> F32:
        """f32[T, 7], see training.articulation."""

    @property
    def mel(self) -> F32:
        """f32[80, M], column 0 at the first frame."""


def mouth_features(codes: F32) -> F32:
    """The articulation code in units of the clip's own spread, f32[T, 7]."""
    return np.asarray((codes - codes.mean(0)) / (codes.std(0) + 1e-3), np.float32)


def sound_features(
    mel: F32, first: int, count: int
) -> tuple[F32, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """What is heard around frames `first` .. `first + count - 1`; and which of them have sound.

    Returns:
        f32[count, 20 * 13] with the clip's mean spectrum removed, and bool[count].
    """
    bands = mel.reshape(BANDS, -1, mel.shape[1]).mean(1)
    bands = bands - bands.mean(1, keepdims=True)
    columns = np.round(np.arange(first, first + count) * (MEL_RATE_HZ / PAPER_FPS)).astype(int)
    heard = (columns >= 0) & (columns < mel.shape[1])
    index = np.clip(columns[:, None] + OFFSETS, 0, mel.shape[1] - 1)
    return bands[:, index].transpose(1, 0, 2).reshape(count, -1), heard


@dataclass(frozen=True, slots=True)
class MouthModel:
    """Linear map from sound to mouth."""

    mean: F32
    """f32[260] of the sound's features"""
    scale: F32
    """f32[260]"""
    weights: F32
    """f32[261, 7], the constant last"""

    def predict(self, features: F32) -> F32:
        """f32[N, 260] -> f32[N, 7]."""
        x = (features - self.mean) / self.scale
        return np.asarray(x @ self.weights[:-1] + self.weights[-1], np.float32)

    def save(self, path: Path) -> None:
        """Write as .npz."""
        np.savez(path, mean=self.mean, scale=self.scale, weights=self.weights)


@cache
def published_model() -> MouthModel:
    """The model that comes with the package; `docs/data.md` says what it was fitted to."""
    with np.load(PUBLISHED) as arrays:
        return MouthModel(arrays["mean"], arrays["scale"], arrays["weights"])


def fit_model(clips: Sequence[Talking]) -> MouthModel:
    """Ridge regression on clips that are in step.

    Raises:
        ConfigError: there is nothing to fit to.
    """
    sounds, mouths = [], []
    for clip in clips:
        features, heard = sound_features(clip.mel, 0, len(clip.codes))
        sounds.append(features[heard])
        mouths.append(mouth_features(clip.codes)[heard])
    if not sum(map(len, sounds)):
        raise ConfigError("no clip to fit the sound of mouths to")
    x, y = np.concatenate(sounds), np.concatenate(mouths)
    mean, scale = x.mean(0), x.std(0) + 1e-3
    x = np.concatenate([(x - mean) / scale, np.ones((len(x), 1))], 1).astype(np.float32)
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
    return MouthModel(mean.astype("f4"), scale.astype("f4"), weights.astype("f4"))


@dataclass(frozen=True, slots=True)
class Step:
    """How sound and picture of one clip lie to each other."""

    lag: int
    """frames that the sound is late (negative: early)"""
    confidence: float
    """probability that the lag is right within a frame, 0 to 1"""
    fit: float
    """mean correlation of the seven predictions at that lag"""
    frames: int
    """length of the clip"""

    @property
    def sure(self) -> bool:
        """Whether to act on it."""
        return self.frames >= MIN_FRAMES and self.confidence >= SURE and self.fit >= MIN_FIT

    @property
    def off(self) -> bool:
        """Surely out of step."""
        return self.sure and abs(self.lag) > TOLERANCE


def find_lag(model: MouthModel, clip: Talking, max_lag: int = MAX_LAG) -> Step:
    """The lag that explains a clip best.

    With Gaussian errors a correlation r over n frames speaks for its lag with a log-likelihood of
    -n/2 log(1 - r^2); lags are equally probable beforehand.
    """
    frames = len(clip.codes)
    mouth = mouth_features(clip.codes)
    features, heard = sound_features(clip.mel, -max_lag, frames + 2 * max_lag)
    predicted = model.predict(features)
    lags = np.arange(-max_lag, max_lag + 1)
    evidence, fits = np.zeros(len(lags)), np.zeros(len(lags))
    for number in range(len(lags)):
        both = heard[number : number + frames]
        if both.sum() >= min(MIN_OVERLAP, frames):
            r = _correlations(predicted[number : number + frames][both], mouth[both])
            fits[number] = r.mean()
            evidence[number] = -both.sum() / 2 * np.log(1 - np.maximum(r, 0) ** 2).sum()
    probability = np.exp(EVIDENCE * (evidence - evidence.max()))
    probability /= probability.sum()
    best = int(evidence.argmax())
    near = probability[max(best - 1, 0) : best + 2].sum()
    return Step(int(lags[best]), float(near), float(fits[best]), frames)


def _correlations(a: F32, b: F32) -> F64:
    """Pearson's r of each column, f64[7]; 0 where one does not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    norm = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.clip((a * b).sum(0) / np.maximum(norm, 1e-6), -0.99, 0.99).astype(np.float64)


class Known(Talking, Protocol):
    """A clip with a name and a speaker."""

    @property
    def key(self) -> str:
        """Its name."""

    @property
    def speaker(self) -> str:
        """Who speaks."""

    @property
    def split(self) -> str:
        """What it is for."""


# With less than this of other people's speech the published model knows more.
REFIT_FRAMES = 10 * 60 * PAPER_FPS
MAX_FIT_FRAMES = 200_000  # more adds nothing to a linear model
FOLDS = 5


class _Judged(NamedTuple):
    """What is kept of a clip once it was looked at."""

    key: str
    speaker: str
    split: str
    step: Step


Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""`map`, or the like in other processes, in any order"""


def find_lags(
    sources: Sequence[Any], read: Callable[[Any], Iterable[Known]], each: Each = map
) -> dict[str, Step]:
    """The lag of every clip, by name in order.

    First by the published model; then, where there is enough, by models fitted to the material
    itself without the clips found out of step, each clip by one that has not met its speaker.
    Never more than one source's clips, or what a fit takes, are in memory.

    Args:
        sources: of clips, e.g. shards; numbered here, so that the result depends on no order.
        read: the clips of one source; of a module, if `each` sends it elsewhere.
        each: goes over the sources.
    """
    first = dict(each(partial(_judge, read=read), list(enumerate(sources))))
    judged = [clip for number in range(len(sources)) for clip in first[number]]
    steps = {clip.key: clip.step for clip in judged}
    speakers = sorted({clip.speaker for clip in judged})
    folds = {speaker: place % FOLDS for place, speaker in enumerate(speakers)}
    models: dict[int, MouthModel] = {}
    for fold in range(FOLDS):
        taken: dict[int, set[str]] = {}
        frames = 0
        for number in range(len(sources)):
            for clip in first[number]:
                if (
                    frames < MAX_FIT_FRAMES
                    and folds[clip.speaker] != fold
                    and clip.split == "train"
                    and not clip.step.off
                ):
                    taken.setdefault(number, set()).add(clip.key)
                    frames += clip.step.frames
        if frames >= REFIT_FRAMES:
            chosen = [
                clip
                for number, keys in taken.items()
                for clip in read(sources[number])
                if clip.key in keys
            ]
            models[fold] = fit_model(chosen)
    tasks = []
    for number, source in enumerate(sources):
        own = {
            c.speaker: models[folds[c.speaker]] for c in first[number] if folds[c.speaker] in models
        }
        if own:
            tasks.append((number, (source, own)))
    for _, again in each(partial(_judge_again, read=read), tasks):
        steps.update(again)
    return dict(sorted(steps.items()))


def _judge(
    task: tuple[int, Any], read: Callable[[Any], Iterable[Known]]
) -> tuple[int, list[_Judged]]:
    number, source = task
    model = published_model()
    return number, [
        _Judged(clip.key, clip.speaker, clip.split, find_lag(model, clip)) for clip in read(source)
    ]


def _judge_again(
    task: tuple[int, tuple[Any, Mapping[str, MouthModel]]], read: Callable[[Any], Iterable[Known]]
) -> tuple[int, dict[str, Step]]:
    number, (source, models) = task
    return number, {
        clip.key: find_lag(models[clip.speaker], clip)
        for clip in read(source)
        if clip.speaker in models
    }
