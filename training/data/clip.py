"""One film -> the members of one sample, or the reason why it cannot be trained on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lipwire.engine.audio.mel import PAPER_FPS, log_mel
from lipwire.engine.errors import LipwireError, MediaError
from lipwire.engine.face.alignment import CROP_SIZE, align, face_width_px, profile_ratio, transform
from lipwire.engine.face.litert import FAR, detect
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.media.files import at_rate, read_frames
from lipwire.engine.media.sound import as_float, stream_sound
from lipwire.engine.types import F32, I16, SPEECH_RATE_HZ, U8
from lipwire.training.data.framing import alignments
from lipwire.training.data.layouts import Clip
from lipwire.training.data.pictures import cut_members, frames_in, picture_members
from lipwire.training.data.shards import FORMAT

MIN_FRAMES = 5  # what a sample of the paper's recipe takes
MIN_FACE_PX = 48
MAX_PROFILE = 4.0
SAMPLES_PER_FRAME = SPEECH_RATE_HZ // PAPER_FPS

# A second face counts from half the first one's width on: smaller ones stand in the background.
RIVAL_SHARE = 0.5
LOOK_EVERY = 12  # frames between two looks for other faces
# Two frames on either side of a cut are as little alike as two other pictures. Higher: nods and
# camera shake count as cuts; lower: cuts between two shots of one studio are missed.
CUT_LIKENESS = 0.55
EDGE_FRAMES = PAPER_FPS  # a title or a fade in the first or last second is trimmed, not a cut


class Rejected(LipwireError):
    """The clip cannot be trained on.

    Args:
        reason: what the report counts it under.
        detail: more, for this clip.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Rules:
    """How clips are cut out, and which are not wanted."""

    framing: str = "stabilised"
    size: int = CROP_SIZE
    cuts: str = "reject"
    """reject a clip with cuts, or keep its longest shot"""
    pictures: str = "jpeg"
    """how crops are stored: see `lipwire.training.data.pictures`"""


@dataclass(slots=True)
class _Shot:
    """An unbroken run of frames with a usable face."""

    start: int
    landmarks: list[F32] = field(default_factory=list)


def prepare_clip(clip: Clip, rules: Rules, tracker: MeshTracker) -> dict[str, Any]:
    """Decode, track and crop one clip; the longest run of frames with a usable face is kept.

    Args:
        clip: where it is.
        rules: framing, and what to do with cuts.
        tracker: one that follows nobody yet.

    Returns:
        The members of its sample, by name.

    Raises:
        Rejected: says why.
    """
    damage: list[str] = []
    try:
        origin_s = next(iter(islice(read_frames(clip.path), 1))).time_s
        speech = film_speech(clip.path, origin_s)
        shot, shape = _longest_shot(clip.path, rules, tracker, damage)
    except StopIteration:
        raise Rejected("unreadable", "no picture can be decoded") from None
    except MediaError as error:
        raise Rejected("unreadable", str(error)) from error
    start, count = shot.start, len(shot.landmarks)
    heard = -(-(len(speech) - start * SAMPLES_PER_FRAME) // SAMPLES_PER_FRAME)
    if heard < 0.8 * count:
        raise Rejected("no audio", f"{max(heard, 0)} of {count} frames have sound")
    maps = alignments(rules.framing, shot.landmarks, shape, rules.size)
    frames = islice(at_rate(read_frames(clip.path), PAPER_FPS), start, start + count)
    crops = [align(image, map_) for image, map_ in zip(frames, maps, strict=True)]
    points = [transform(p, m.matrix) for p, m in zip(shot.landmarks, maps, strict=True)]
    speech = speech[start * SAMPLES_PER_FRAME : (start + count) * SAMPLES_PER_FRAME + TAIL_SAMPLES]
    about = {
        "path": Path(clip.path).name,
        "speaker": clip.speaker,
        "language": clip.language,
        "split": clip.split,
        "format": FORMAT,
        "framing": rules.framing,
        "frames": count,
        "first_frame": start,
    }
    return {
        **picture_members(np.stack(crops), rules.pictures),
        "landmarks.npy": np.stack(points).astype(np.float16),
        "speech.npy": speech,
        "mel.npy": log_mel(as_float(speech)),
        "json": about | ({"damage": damage} if damage else {}),
    }


# The last frame's window reaches 173 ms past it; sound that goes on is kept for it.
TAIL_SAMPLES = 8 * SAMPLES_PER_FRAME


def film_speech(path: str, origin_s: float) -> I16:
    """The film's sound from its first picture on, int16[N]; holes are silent.

    Raises:
        Rejected: there is none.
    """
    out = np.zeros(0, np.int16)
    try:
        for sound in stream_sound(path, SPEECH_RATE_HZ):
            begin = round((sound.time_s - origin_s) * SPEECH_RATE_HZ)
            samples = sound.samples[max(-begin, 0) :]
            begin = max(begin, 0)
            if begin + len(samples) > len(out):
                out = np.concatenate([out, np.zeros(begin + len(samples) - len(out), np.int16)])
            out[begin : begin + len(samples)] = samples
    except MediaError as error:
        raise Rejected("no audio", str(error)) from error
    if not len(out) or int(np.abs(out.astype(np.int32)).max()) < 33:  # 60 dB below full scale
        raise Rejected("no audio", "silent")
    return out


def _longest_shot(
    path: str, rules: Rules, tracker: MeshTracker, damage: list[str]
) -> tuple[_Shot, tuple[int, ...]]:
    """Track every frame; the longest run with a usable face, and the shape of the frames."""
    shots: list[_Shot] = []
    reasons: Counter[str] = Counter()
    rivals, looks, count = 0, 0, 0
    cuts: list[int] = []
    thumb: F32 | None = None
    shape: tuple[int, ...] = ()
    broken = True
    for index, image in enumerate(at_rate(read_frames(path, damage.append), PAPER_FPS)):
        count, shape = index + 1, image.shape
        before, thumb = thumb, _thumbnail(image)
        if before is not None and _likeness(before, thumb) < CUT_LIKENESS:
            cuts.append(index)
            broken = True
            tracker.forget()
        face = tracker.track(image)
        problem = ""
        if face is None:
            problem = "no face"
        elif face_width_px(face.landmarks) < MIN_FACE_PX:
            problem = "face too small"
        elif profile_ratio(face.landmarks) > MAX_PROFILE:
            problem = "profile"
        if problem:
            reasons[problem] += 1
            broken = True
            continue
        assert face is not None
        if index % LOOK_EVERY == 0:
            looks += 1
            rivals += _has_rival(image)
        if broken:
            shots.append(_Shot(index))
            broken = False
        shots[-1].landmarks.append(face.landmarks)
    inside = [cut for cut in cuts if EDGE_FRAMES <= cut < count - EDGE_FRAMES]
    if inside and rules.cuts == "reject":
        raise Rejected("with cuts", f"{len(inside)}, the first at {inside[0] / PAPER_FPS:.2f} s")
    if rivals > looks / 4:
        raise Rejected("several faces", f"in {rivals} of {looks} frames looked at")
    longest = max(shots, key=lambda shot: len(shot.landmarks), default=_Shot(0))
    if len(longest.landmarks) < MIN_FRAMES:
        if count < MIN_FRAMES:
            raise Rejected(f"shorter than {MIN_FRAMES} frames", f"{count}")
        reason = reasons.most_common(1)[0][0] if reasons else "with cuts"
        raise Rejected(reason, f"in {reasons[reason] or len(cuts)} of {count} frames")
    return longest, shape


def _thumbnail(image: U8) -> F32:
    """Grey, 24x24, without brightness and contrast: a flash is no cut."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (24, 24), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean()
    return np.asarray(small / (np.sqrt((small**2).sum()) + 1e-3), np.float32)


def _likeness(a: F32, b: F32) -> float:
    """Correlation of two thumbnails; two pictures without content are alike."""
    if max(float((a**2).sum()), float((b**2).sum())) < 0.5:
        return 1.0
    return float((a * b).sum())


def _has_rival(image: U8) -> bool:
    """Whether a second face is nearly as large as the first."""
    boxes = detect(FAR, image, 0.6).boxes
    widths = sorted(boxes[:, 2] - boxes[:, 0], reverse=True)
    return len(widths) > 1 and bool(widths[1] > RIVAL_SHARE * widths[0])


def shifted(members: dict[str, Any], lag: int) -> dict[str, Any]:
    """A sample whose sound was `lag` frames late, with both in step; what has no partner is cut.

    Raises:
        Rejected: too little is left.
    """
    speech, count = members["speech.npy"], frames_in(members)
    first, last = max(-lag, 0), count - max(lag, 0)
    if last - first < MIN_FRAMES:
        raise Rejected("out of sync", f"by {lag} frames, which leaves {last - first}")
    speech = np.ascontiguousarray(speech[max(lag, 0) * SAMPLES_PER_FRAME :])
    about = members["json"]
    return {
        **cut_members(members, first, last),
        "landmarks.npy": members["landmarks.npy"][first:last],
        "speech.npy": speech,
        "mel.npy": log_mel(as_float(speech)),
        "json": {
            **about,
            "frames": last - first,
            "first_frame": about["first_frame"] + first,
            "shifted_frames": lag,
        },
    }
