"""OcclusionDetector: is something before the mouth? A face mesh draws lips on a hand without a
doubt.

At some forty places around the mouth the colour and the contrast of this very person's skin and
lips are learned, as logarithms, colours against those of the upper face, so that another light is
the same face. A hand may have the right skin, but no lips, no line between them and no shade under
the chin; a microphone under the lip hides little, but is like no skin. A cover that was there from
the first picture on, a mask, is told by what every bare face has: lips redder than the chin, a line
between them, and a chin of about the forehead's colour. How well this works is in
docs/research.md.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.types import F32, U8

# Lips, chin and lower cheeks, well inside the contour: behind it lies the room.
_LOWER = [
    0, 13, 14, 17, 32, 40, 43, 57, 81, 82, 83, 86, 88, 106, 181, 194, 199, 200, 201, 208, 210, 211,
    214, 262, 273, 287, 311, 312, 313, 316, 318, 335, 405, 415, 418, 421, 428, 430, 431, 434,
]  # fmt: skip
# The line between the lips, where a bare mouth has contrast whatever it does,
_LINE = [13, 14, 81, 82, 83, 86, 88, 311, 312, 313, 316, 318]
# the lips, and what is neither: cheeks and chin.
_LIPS = [*_LINE, 0, 17, 40, 57, 181, 287, 405, 415]
_ON_LINE, _ON_LIPS = np.isin(_LOWER, _LINE), np.isin(_LOWER, _LIPS)
# Nose bridge and cheeks under the eyes, which tell the light.
_UPPER = [6, 197, 195, 50, 280, 118, 347, 101, 330]

# Forehead, chin and jaw, lips: where a cover is told that nobody has seen come.
_FOREHEAD = [10, 151, 9, 8, 107, 336, 67, 297, 109, 338, 55, 285]
_CHIN = [199, 200, 201, 208, 421, 428, 175, 152, 148, 377, 171, 396, 210, 430, 211, 431]
_JAW = [214, 434, 135, 364, 192, 416, 138, 367]
_OFFSETS = (-0.1, -0.05, 0.0, 0.05, 0.1, 0.15)
_RED = [0, 17, 40, 57, 181, 287, 405, 415, 13, 14, 37, 267, 84, 314]

# What 1,742 pictures of 168 bare faces and made masks, cloths and hands on them have apart, in
# logarithms: how much redder lips are than the chin, how much more or less red chin and jaw are
# than the forehead, how much darker the chin is, contrast on the line between the lips. Wider: of
# the bare ones more than 0.3 % are taken for masks; narrower: masks are painted over.
PALE_LIPS, OTHER_HUE, OTHER_HUE_PALE, DARK_CHIN = 0.02, 0.28, 0.2, 0.45
FLAT, FLAT_LINE = -1.12, 0.3
# A mesh that lies upright on a head that is upside down has the lips above its own middle: where
# they would be then, it is so much redder.
LIPS_ABOVE, LESS_LIPS, LESS_LINE = -0.02, 0.065, -0.05
# Lips less red than the chin by so much, with so little of a line between them, are a microphone's
# foam; lips of the chin's very colour, with hardly a line and nothing else between them, a hand's
# skin. Of 461 pictures of 67 bare faces none is either; of drawn hands and microphones before them
# 100 % and 98 % are, from the first picture on. Wider: pale lips that are out of focus alarm.
FOAM, FOAM_LINE = -0.04, 0.25
SKIN, SKIN_LINE, SKIN_BETWEEN, SKIN_FLAT = 0.015, 0.175, 0.13, -1.05
# Unless it is so much brighter or darker between the lips than on the chin: somebody laughs.
TEETH = 0.4
# Looks in a row without lips that a known face needs to be covered, as single ones are blurred; and
# looks with lips until one that is not known is bare.
SURE = 3
# A mouth open by so much more than ever before is no cover as long as its lips are so much of their
# usual red. Lower: a hand on which the mesh draws an open mouth passes; higher: the first wide
# vowel after a pause alarms.
WIDER, WIDER_PX, STILL_RED = 1.1, 1.0, 0.4
OPEN_RATE = 0.2

DARK = 12.0  # of 255, added before the logarithm: black is noise
NO_CONTRAST = 0.03  # the same of contrast
# A face is known after so many looks. Fewer: half-way through a hand's rise nothing is bare.
KNOWN = 4
# What n looks have shown may be off by so many n-ths of the slack more. Less: a mouth that opens
# wide for the first time alarms (2 % of pictures with 0, 0.8 % with 4); more: a hand in the first
# second is painted over.
DOUBT = 4.0
# Then the newest look weighs so much: about two seconds at 25 a second.
RATE = 0.02
# Half-width of what counts as the same, in logarithms, beside the person's own. More: a hand of the
# right colour passes; less: every turn of the head alarms.
SLACK = 0.10
OWN = 2.0  # times the person's own mean deviation
# What contrast weighs against colour. Less: only a microphone is seen; more: stubble that comes in
# and out of focus alarms.
CONTRAST = 0.5
# Share of places that differ: covered from the first on, bare again below the second.
COVERED, BARE = 0.5, 0.38
# The same if the line between the lips has gone as well. Lower: people who press their lips alarm;
# higher: hands of the speaker's own skin pass (a third of them, with 0.5).
LINELESS, LINED = 0.25, 0.2
# By how much the line must have gone, in logarithms, beside the person's own.
LINE_SLACK = 0.08
# And this share of places beside the mouth's line if they differ so many times as far: metal, a
# cup. Lower: a beard in another light alarms; higher: a microphone under the lip is painted over.
STRANGE_TIMES = 3.0
STRANGE, FAMILIAR = 0.1, 0.07
# Somebody who stays covered for so long (a mask, a light that came) is learned afresh.
FORGET_S = 10.0


class OcclusionDetector:
    """Learns one person's lower face and says when it is hidden."""

    def __init__(self) -> None:
        self._looks = 0
        self._pale = self._lips = 0  # looks without lips in a row, and with
        self._masked = False
        self._open = 0.0  # the widest opening so far, pixels of a 128 px crop
        self._red = 0.0  # how much redder the lips were, at most
        self._line_spread = 0.0
        self._mean: F32 = np.zeros((len(_LOWER), 4), np.float32)
        self._spread: F32 = np.zeros((len(_LOWER), 4), np.float32)
        self._since_s: float | None = None
        self.share = 0.0  # of the places that differ in the newest look

    @property
    def covered(self) -> bool:
        """Whether something was before the mouth in the newest look."""
        return self._since_s is not None

    def clear(self) -> None:
        self._looks, self._since_s, self.share = 0, None, 0.0
        self._pale = self._lips = 0
        self._masked, self._open, self._red = False, 0.0, 0.0

    def update(self, crop: U8, points: F32, time_s: float, told: bool = False) -> bool:
        """Whether the mouth is covered.

        Args:
            crop: uint8[S, S, 3].
            points: f32[468, 2], landmarks in pixels of the crop.
            time_s: when it was taken.
            told: the landmarks were said, see `Face.told`.
        """
        soft = _soft(crop)
        seen, tones = _look(crop, soft, points), _tones(soft, points)
        opening = float(np.hypot(*(points[13] - points[14]))) * 128 / len(crop)
        mouthless = not told and _mouthless(tones, seen)
        self._pale = self._pale + 1 if mouthless else 0
        self._lips = 0 if mouthless else self._lips + 1
        if self._pale >= (1 if self._looks < KNOWN else SURE):
            self._masked = True
        elif self._lips >= (SURE if self._looks < KNOWN else 1):
            self._masked = False
        if self._masked:
            self._since_s = time_s if self._since_s is None else self._since_s
            return True  # and is not learned, however long it stays: nobody looks like this
        if self._looks < KNOWN:
            self._since_s = None
            self._learn(seen)
            self._note_mouth(opening, tones)
            return False
        differs, wider = self._differs(seen), self._wider(opening, tones)
        if differs and not wider:
            if self._since_s is None:
                self._since_s = time_s
            if not 0 <= time_s - self._since_s < FORGET_S and not mouthless:
                self.clear()
                self._learn(seen)
            return self.covered
        self._since_s = None
        if wider or self.share < BARE:  # not from what is half on its way
            self._learn(seen)
            self._note_mouth(opening, tones)
        return False

    def _wider(self, opening: float, tones: F32) -> bool:
        """Whether what differs is a mouth that is wider open than it was seen to be."""
        red = tones[0] >= max(STILL_RED * self._red, PALE_LIPS)
        return bool(red) and opening > WIDER * self._open + WIDER_PX

    def _note_mouth(self, opening: float, tones: F32) -> None:
        # Slowly, so that some looks of a new opening are learned before it is a usual one.
        self._open += OPEN_RATE * max(0.0, opening - self._open)
        self._red = max(self._red, float(tones[0]))

    def _differs(self, seen: F32) -> bool:
        """Whether this is not the bare face, which a covered one must resemble more."""
        doubt = 1 + DOUBT / self._looks
        own = SLACK * doubt + OWN * self._spread.max(1)
        times = np.abs(seen - self._mean).max(1) / own
        self.share = float((times > 1).mean())
        strange = float((times > STRANGE_TIMES)[~_ON_LINE].mean())
        lost = _line(self._mean) - _line(seen)
        lineless = lost > LINE_SLACK * doubt + OWN * self._line_spread
        if self.covered:
            least = LINED if lineless else BARE
            return self.share > least or strange > FAMILIAR
        return self.share > (LINELESS if lineless else COVERED) or strange > STRANGE

    def _learn(self, seen: F32) -> None:
        self._looks += 1
        rate = max(RATE, 1 / self._looks)
        first = self._looks == 1
        apart = np.zeros_like(seen) if first else np.abs(seen - self._mean)
        line = 0.0 if first else abs(_line(seen) - _line(self._mean))
        self._line_spread += rate * (line - self._line_spread)
        self._spread += np.float32(rate) * (apart - self._spread)
        self._mean += np.float32(rate) * (seen - self._mean)


def _mouthless(tones: F32, look: F32) -> bool:
    """Whether no bare face looks so, whoever's it is."""
    redder, chin, jaw, darker, above, inside = tones.tolist()
    laughs = inside >= TEETH and redder > 0
    if above > LIPS_ABOVE and redder < LESS_LIPS and _line(look) < LESS_LINE and not laughs:
        return True
    if redder >= 0.03:
        return False
    hue = min(abs(chin), abs(jaw)) if chin * jaw > 0 else 0.0
    line, contrast = _line(look), float(look[_ON_LINE, 3].mean())
    if hue > OTHER_HUE or (redder < FOAM and line < FOAM_LINE):
        return True
    if redder < SKIN and line < SKIN_LINE and inside < SKIN_BETWEEN and contrast < SKIN_FLAT:
        return True
    if redder >= PALE_LIPS:
        return False
    return contrast < FLAT or (line < FLAT_LINE and (darker < -DARK_CHIN or hue > OTHER_HUE_PALE))


def _soft(crop: U8) -> U8:
    """The crop without detail finer than 5 px of 128: where colours are read."""
    import cv2

    side = max(3, round(len(crop) * 5 / 128)) | 1
    return np.asarray(cv2.blur(crop, (side, side)), np.uint8)


def _median(values: F32) -> F32:
    """Along the first axis; a quarter of the time of numpy's on so few values."""
    ordered, half = np.sort(values, axis=0), len(values) // 2
    if len(values) % 2:
        return np.asarray(ordered[half], np.float32)
    return np.asarray((ordered[half - 1] + ordered[half]) / 2, np.float32)


def _colours(soft: U8, points: F32) -> F32:
    """Logarithms of the colours at points f32[.., 2] in pixels of the crop, f32[.., 3]."""
    at = np.clip(np.rint(points), 0, len(soft) - 1).astype(np.intp)
    return np.log(soft[at[..., 1], at[..., 0]].astype(np.float32) + np.float32(DARK))


def _tones(soft: U8, points: F32) -> F32:
    """f32[6]: red of the lips against the chin's, of chin and jaw against the forehead's, how
    bright the chin is against it, red where the lips of a head upside down were, and how far from
    the chin in brightness it is between the lips; logarithms."""
    # Along the face, as nobody knows how far such a mesh is off.
    axis = points[152] - points[10]
    turned = [points[10] + points[152] - points[_RED] + axis * off for off in _OFFSETS]
    between = (points[[13, 82, 312]] + points[[14, 87, 317]]) / 2
    places = [points[_FOREHEAD + _CHIN + _JAW + _RED], *turned, between]
    colours = _colours(soft, np.concatenate(places))
    red, bright = colours[:, 0] - colours[:, 1], colours.mean(1)
    chin_at, jaw_at, lips_at, turned_at, between_at = np.cumsum(
        [len(_FOREHEAD), len(_CHIN), len(_JAW), len(_RED), len(_RED) * len(_OFFSETS)]
    )
    forehead, chin, jaw, lips, below = (
        float(_median(part))
        for part in (
            red[:chin_at],
            red[chin_at:jaw_at],
            red[jaw_at:lips_at],
            red[lips_at:turned_at],
            red[chin_at:lips_at],
        )
    )
    chin_bright = _median(bright[chin_at:jaw_at])
    darker = chin_bright - _median(bright[:chin_at])
    above = _median(red[turned_at:between_at].reshape(len(_OFFSETS), -1).T).max() - lips
    inside = np.abs(bright[between_at:] - chin_bright).max()
    return np.array(
        [lips - below, chin - forehead, jaw - forehead, darker, above, inside], np.float32
    )


def _line(look: F32) -> float:
    """How much more contrast the line between the lips has than cheeks and chin."""
    return float(look[_ON_LINE, 3].mean() - look[~_ON_LIPS, 3].mean())


def _look(crop: U8, soft: U8, points: F32) -> F32:
    """Colours around the mouth against those of the upper face, and contrast, f32[K, 4]."""
    import cv2

    size = len(crop)
    around = max(3, round(size * 9 / 128)) | 1
    lower, colours = len(_LOWER), _colours(soft, points[_LOWER + _UPPER])
    x, y = np.clip(np.rint(points[_LOWER]), 0, size - 1).astype(np.intp).T
    # Contrast is asked at the places alone: all between them, and as far as it is measured.
    near = slice(max(y.min() - around, 0), y.max() + around + 1)
    beside = slice(max(x.min() - around, 0), x.max() + around + 1)
    grey = cv2.cvtColor(crop[near, beside], cv2.COLOR_RGB2GRAY).astype(np.float32)
    x, y = x - beside.start, y - near.start
    mean, square = (cv2.blur(level, (around, around))[y, x] for level in (grey, grey * grey))
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    contrast = CONTRAST * np.log(deviation / (mean + DARK) + NO_CONTRAST)
    light = _median(colours[lower:])
    return np.column_stack([colours[:lower] - light, contrast]).astype(np.float32)
