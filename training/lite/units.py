"""Units: the person's own mouths, chosen from a bank of the clip's other moments as a session's is.

A painter trained so is given, beside the most closed mouth and the widest, the one that lies
nearest to what is asked for in code and pose, moved to the present pose; and it begins there.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.audio.mel import PAPER_FPS
from lipwire.engine.face.alignment import CROP_SIZE
from lipwire.engine.face.articulation import OPENING
from lipwire.engine.face.identity import likeness_of
from lipwire.engine.types import F32, U8, Alignment
from lipwire.engine.units.bank import CODE_WEIGHTS, LOOK_COST
from lipwire.engine.units.moved import moved_unit, unit_slot
from lipwire.engine.units.shape import allowed_change
from lipwire.engine.units.unit import look_of, unit_of
from lipwire.training.data.dataset import I64, ClipData, Clips
from lipwire.training.lite.dataset import (
    MouthBatch,
    Start,
    astray,
    pick_references,
    row_of,
    shown_to_a_camera,
    stacked,
)

APART_FRAMES = round(0.4 * PAPER_FPS)  # nearer ones nearly are the target: in a call there are none
BANK_SIZES = (20, 200)  # from a second of a call to a full bank
# Of the code that chooses, in spreads: what is heard is no more exact, so units are not either.
CHOICE_NOISE = 0.3
# A share of them is chosen badly, as from a bank that has nothing near.
POOR_CHOICES, POOR_CHOICE_NOISE = 0.15, 1.5
# Of the code that a chosen mouth is moved towards, in spreads.
SHAPE_NOISE = 0.3
# A share of them was taken in a light that differs by so much, each colour by a third of it.
OTHER_LIGHT, LIGHT_SPREAD = 0.3, 0.12
_WHOLE = Alignment(np.array([[1, 0, 0], [0, 1, 0]], np.float32), CROP_SIZE)


def moved_crop(clip: ClipData, index: int, unit: int, asked: F32) -> tuple[U8, F32]:
    """Frame `index` with the mouth of frame `unit` moved to its pose.

    Nothing of the frame's own hidden half is in it.

    Args:
        clip: to look in.
        index: of the frame.
        unit: of another.
        asked: f32[7], the code that its mouth is moved towards, in the clip's own units.

    Returns:
        uint8[S, S, 3], and the code that it shows now, f32[7].
    """
    picture = np.ascontiguousarray(clip.crops[unit])
    mouth = unit_of(picture, _WHOLE, clip.landmarks[unit], np.zeros(1, np.float32), 0.0)
    crop = np.array(clip.crops[index])
    change = allowed_change(asked, clip.codes[unit])
    crop[CROP_SIZE // 2 :] = moved_unit(mouth, clip.landmarks[index], CROP_SIZE, change)
    return crop, clip.codes[unit] + change


def other_light(crop: U8, rng: np.random.Generator) -> U8:
    """The hidden half as if it had been taken in a slightly other light, some of the times."""
    if rng.random() >= OTHER_LIGHT:
        return crop
    gains = np.exp(LIGHT_SPREAD * (rng.standard_normal() + rng.standard_normal(3) / 3))
    lit = crop.copy()
    half = CROP_SIZE // 2
    lit[half:] = np.clip(crop[half:] * gains, 0, 255).round()
    return lit


def unit_costs(asked: F32, look: F32, codes: F32, looks: F32) -> F32:
    """How ill each mouth of a bank fits, f32[N].

    Args:
        asked: f32[7], normalised.
        look: f32[C] of unit length, the face's likeness now.
        codes: f32[N, 7], normalised.
        looks: f32[N, C], as `look`.
    """
    shape = ((codes - asked) ** 2 * CODE_WEIGHTS).sum(1)
    return np.asarray(shape + LOOK_COST * (1 - looks @ look), np.float32)


def unit_look(crop: U8) -> F32:
    """A crop's likeness as one vector of unit length; uint8[S, S, 3] -> f32[C]."""
    return look_of(likeness_of(np.ascontiguousarray(crop)))


def choose(asked: F32, look: F32, codes: F32, looks: F32, count: int) -> list[int]:
    """References from a bank: the nearest mouth between the most closed one and the widest.

    Args:
        asked: f32[7], normalised.
        look: f32[C], see `unit_look`.
        codes: f32[N, 7] of the bank, normalised.
        looks: f32[N, C].
        count: of references; one is the nearest alone, two lack the widest.

    Returns:
        Of each reference its place in the bank.
    """
    nearest = int(unit_costs(asked, look, codes, looks).argmin())
    if count == 1:
        return [nearest]
    opening = codes[:, OPENING]
    return [int(opening.argmin()), nearest, *[int(opening.argmax())] * (count - 2)]


class Looks:
    """Likenesses of a corpus's frames, computed when they are first asked for."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, F32]] = {}

    def of(self, clip: ClipData, frames: I64) -> F32:
        """f32[N, C] of the given frames."""
        known = self._known.setdefault(clip.key, {})
        for frame in frames.tolist():
            if frame not in known:
                known[frame] = unit_look(clip.crops[frame])
        return np.stack([known[frame] for frame in frames.tolist()])


def draw_bank(count: int, index: int, rng: np.random.Generator) -> I64:
    """Frames of a clip of `count` that a bank holds while `index` is painted, in order.

    None within 0.4 s of it; of a short clip there may be no other, and the bank is empty.
    """
    far = np.flatnonzero(np.abs(np.arange(count) - index) >= APART_FRAMES)
    size = int(rng.integers(BANK_SIZES[0], BANK_SIZES[1] + 1))
    return np.sort(rng.choice(far, min(size, len(far)), replace=False))


def pick_units(
    clips: Clips,
    looks: Looks,
    clip: ClipData,
    index: int,
    asked: F32,
    count: int,
    rng: np.random.Generator,
) -> list[int] | None:
    """`count` references of frame `index` from a bank drawn for it; None: the clip is too short.

    Args:
        clips: know what is normal.
        looks: of the corpus.
        clip: to look in.
        index: the frame that is painted.
        asked: f32[7], in the clip's own units.
        count: of references.
        rng: draws the bank, and how inexact the choice is.
    """
    bank = draw_bank(len(clip), index, rng)
    inexact = POOR_CHOICE_NOISE if rng.random() < POOR_CHOICES else CHOICE_NOISE
    noise = inexact * rng.standard_normal(len(asked), np.float32)
    if not len(bank):
        return None
    wanted = clips.normalised(asked) + noise
    look = looks.of(clip, np.array([index]))[0]
    codes = clips.normalised(clip.codes[bank])
    return [int(bank[i]) for i in choose(wanted, look, codes, looks.of(clip, bank), count)]


def draw_units(
    clips: Clips,
    looks: Looks,
    starts: I64,
    strays: float,
    references: int,
    rng: np.random.Generator,
    augmented: bool = True,
) -> MouthBatch:
    """A batch of frames, each with its references.

    Those that begin with noise or the network's own estimate have references as a call's first
    moments do, the others units. A clip without another moment begins with noise.

    Args:
        clips: to draw from.
        looks: of those clips.
        starts: int64[B], wanted of each sample, see `Start`.
        strays: share of samples asked for another frame's mouth: their units are chosen for it.
        references: of each.
        rng: draws it all.
        augmented: as cameras show them, half of them mirrored.
    """
    starts, stray = starts.copy(), astray(starts, strays)
    rows = []
    for number, pick in enumerate(clips.pick(len(starts), rng)):
        clip = clips.clips[pick]
        index, other = (int(i) for i in rng.integers(len(clip), size=2))
        found = None
        if starts[number] in (Start.TRUE, Start.UNIT):
            asked = clip.codes[other if stray[number] else index]
            found = pick_units(clips, looks, clip, index, asked, references, rng)
            if found is None:
                starts[number] = Start.NOISE
        frames = [index, *(found or pick_references(clip, index, references, rng))]
        moved = None
        if found:
            slot = 1 + unit_slot(references)
            heard = rng.standard_normal(len(asked), np.float32) * clips.code_stats[1]
            crop, now = moved_crop(clip, index, frames[slot], asked + SHAPE_NOISE * heard)
            moved = slot, other_light(crop, rng)
        planes, weight = shown_to_a_camera(clip, frames, augmented, rng, moved)
        row = row_of(clips, clip, frames, planes, weight, clip.codes[other])
        if found:
            row[-1][slot - 1] = clips.normalised(now)
        rows.append(row)
    return stacked(rows, starts, stray)
