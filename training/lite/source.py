"""Where the painter's batches come from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lipwire.training.config import LiteRecipe
from lipwire.training.data.batch import Slot
from lipwire.training.data.dataset import Clips
from lipwire.training.lite.dataset import MouthBatch, draw, shares
from lipwire.training.lite.units import Looks, draw_units


class MouthDraw(NamedTuple):
    """A batch, the step that it is for and the seed of all else that is random about it."""

    batch: MouthBatch
    step: int
    seed: int


class MouthSource:
    """Augmented frames with references; one process draws a step whole."""

    def __init__(
        self, clips: Clips, batch: int, references: int, seed: int, recipe: LiteRecipe
    ) -> None:
        self.clips, self.batch, self.references, self.seed = clips, batch, references, seed
        self.recipe, self.looks = recipe, Looks()

    def draw(self, step: int, slot: Slot) -> MouthDraw:
        part = () if slot.count == 1 else (slot.index,)
        rng = np.random.default_rng((self.seed, step, *part))
        w = self.recipe
        starts = shares(self.batch // slot.count, w.noise_starts, w.own_starts, w.unit_starts)
        if w.unit_starts:
            batch = draw_units(self.clips, self.looks, starts, w.strays, self.references, rng)
        else:
            batch = draw(self.clips, len(starts), self.references, rng, True, w.strays, starts)
        return MouthDraw(batch, step, int(rng.integers(2**62)))
