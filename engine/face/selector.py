"""FaceSelector: which face is followed, whether it can be repainted, and what became of it.

    searching --a face is found, the policy chooses--> tracked --it is missed once--> lost
    lost --seen twice in a row--> tracked     lost --2 s, or a cut--> searching

A tracked face that is too small or turned away stays tracked and passes through. Landmarks come
from a `FaceTracker`; nothing here looks at a clock.
"""

from __future__ import annotations

import numpy as np

from lipwire.engine.config import EngineConfig
from lipwire.engine.face.active_speaker import ActiveSpeakerDetector, Envelope
from lipwire.engine.face.alignment import face_width_px, profile_ratio, turned_px
from lipwire.engine.face.mesh import box_of, same_place
from lipwire.engine.face.policy import Choice, Policy
from lipwire.engine.face.scene_cut import SceneCutDetector
from lipwire.engine.face.tracker import FaceTracker
from lipwire.engine.types import F32, U8, Face, FaceState, Outcome, Sighting

# Nose this many times nearer one ear than the other: half the mouth is out of sight. It must come
# back to less before the face is used again: at one limit a head that rests there would flicker.
MAX_PROFILE, PROFILE_AGAIN = 5.0, 4.0
# Eyes and nose so far from a frontal face's, `turned_px`: a profile, whatever its ears say. Lower:
# three-quarter views, which are painted well, pass through; higher: lips are painted on the room
# beside a face.
MAX_TURN_PX, TURN_AGAIN_PX = 2.8, 2.4
USABLE_FRAMES = 2  # in a row before an unusable face is used again: in a profile the mesh slips
SMALL_AGAIN = 1.06  # of the smallest face that is repainted
# A face that was lost must be seen so often in a row. One: a doubtful face flashes; more: the mouth
# is late.
RETURN_FRAMES = 2
# So long a lost face is waited for where others are in the picture, and its references are kept.
# Shorter: a hand before the face hands the voice to somebody else; longer: who has left is missed
# and nobody speaks.
KEEP_S = 2.0
# Who else is in the picture is looked up so often. More: it costs a tenth of the tracking.
SCAN_S = 1.0
# A jump by so much of its own width, or such a change of size, is no movement.
JUMP, JUMP_SIZE = 0.5, 1.3
# After so long without any face only every second picture is searched.
EMPTY_S = 2.0
# Lips of others are looked at in one of so many pictures, while lips decide.
GLIMPSE_FRAMES = 2
MOST_OTHERS = 3  # whose lips are watched


class FaceSelector:
    """Follows one face of a session's video."""

    def __init__(
        self, tracker: FaceTracker, config: EngineConfig, envelope: Envelope | None = None
    ) -> None:
        self._tracker, self._config = tracker, config
        self._active_speaker = ActiveSpeakerDetector(envelope or Envelope())
        self._scene_cuts = SceneCutDetector()
        self.state = FaceState.SEARCHING
        self.policy = Policy.LARGEST
        self.person = 0  # changes when the face may be somebody else's
        self.stretch = 0  # changes when the face's movement is broken
        self._wanted: list[Choice] = []
        self._point = (0.5, 0.5)  # of POSITION, shares of the picture; follows who is tracked
        self._shape = (1, 1)
        self._box: F32 | None = None  # of the face that is or was followed
        self._others = np.zeros((0, 4), np.float32)  # the other faces at the last look
        self._following = False  # whether the tracker has been aimed at a face and holds it
        self._seen = 0  # frames in a row
        self._width_px = 0.0
        self._usable = True
        self._fits = 0  # pictures in a row in which it could be repainted
        self._reason: Outcome | None = Outcome.NO_FACE
        self._seen_s = self._scan_s = float("-inf")
        self._empty_s = float("inf")  # since when no face is in the picture at all
        self._frames = 0

    # --- what others ask and want ---

    def choose(self, choice: Choice) -> None:
        """Follow somebody else, or choose otherwise; from the next picture on."""
        self._wanted.append(choice)

    @property
    def unlike(self) -> bool:
        """Whether the newest picture as a whole is unlike the one before, if not another scene."""
        return self._scene_cuts.unlike

    def record(self, reason: Outcome) -> None:
        """The face that `see` gave cannot be used after all, for this reason."""
        self._reason = reason

    @property
    def sighting(self) -> Sighting:
        """What is known now, for people."""
        height, width = self._shape
        tracked = self.state is FaceState.TRACKED
        box = None
        if tracked and self._box is not None:
            x0, y0, x1, y1 = (self._box / (width, height, width, height)).tolist()
            box = (round(x0, 3), round(y0, 3), round(x1, 3), round(y1, 3))
        return Sighting(
            state=self.state,
            faces=len(self._others) + tracked,
            index=int((_middles(self._others)[:, 0] < _middle(self._box)[0]).sum())
            if tracked and self._box is not None
            else None,
            box=box,
            reason=self._reason,
            policy=self.policy.value,
        )

    # --- every picture ---

    def update(self, image: U8, time_s: float) -> Face | Outcome:
        """The face of uint8[H, W, 3], taken at `time_s`, or why it cannot be repainted."""
        self._frames += 1
        self._shape = image.shape[0], image.shape[1]
        before = self.person
        if self._scene_cuts.update(image):
            self.forget()
        if time_s < max(self._seen_s, self._scan_s):  # the clock was set back
            self._seen_s = self._scan_s = time_s
        self._obey(image, time_s)
        face = self._tracker.track(image) if self._following else None
        if self._following and face is None:
            self._miss()
            return self._pass(Outcome.NO_FACE)
        face = face or self._look(image, time_s)
        if face is None:
            return self._pass(Outcome.NO_FACE)
        self._note_place(face)
        self._seen_s = time_s
        if self.state is FaceState.LOST and self._seen < RETURN_FRAMES:
            return self._pass(Outcome.NO_FACE)
        self.state = FaceState.TRACKED
        if self.person != before:  # one picture apart, so that no mouth goes on in another's face
            return self._pass(Outcome.NO_FACE)
        if time_s - self._scan_s >= SCAN_S:
            self._scan(image, time_s)
        if self.policy is Policy.LIPS and self._listen(image, face, time_s):
            return self._pass(Outcome.NO_FACE)
        if not self._fit(face):
            return self._pass(Outcome.FACE_UNUSABLE)
        self._reason = None
        return face

    def forget(self) -> None:
        """Another scene, or another person: begin the search afresh."""
        self.state, self._following, self._seen, self._usable = FaceState.SEARCHING, False, 0, True
        self._box, self._others = None, self._others[:0]
        self.person += 1
        self.stretch += 1
        self._seen_s = float("-inf")
        self._active_speaker.forget()

    # --- inside ---

    def _pass(self, reason: Outcome) -> Outcome:
        self._reason = reason
        return reason

    def _miss(self) -> None:
        """The face is gone in this very picture."""
        self._following, self._seen = False, 0
        self.stretch += 1
        if self.state is FaceState.TRACKED:
            self.state = FaceState.LOST

    def _note_place(self, face: Face) -> None:
        box, width_px = box_of(face), face_width_px(face.landmarks)
        if self._seen and self._box is not None:
            far = float(np.hypot(*(_middle(box) - _middle(self._box)))) / max(width_px, 1.0)
            ratio = max(width_px, self._width_px) / max(min(width_px, self._width_px), 1e-6)
            if far > JUMP or ratio > JUMP_SIZE:
                self.stretch += 1
                if self._scene_cuts.jumped:
                    self.person += 1
        self._box, self._width_px = box, width_px
        self._seen += 1
        height, width = self._shape
        x, y = _middle(box)
        self._point = float(x) / width, float(y) / height

    def _fit(self, face: Face) -> bool:
        """Whether the face can be repainted; it must get better by a margin to be so again."""
        smallest_px = self._config.min_face_px * (1 if self._usable else SMALL_AGAIN)
        most = MAX_PROFILE if self._usable else PROFILE_AGAIN
        most_px = MAX_TURN_PX if self._usable else TURN_AGAIN_PX
        fit = (
            self._width_px >= smallest_px
            and profile_ratio(face.landmarks) <= most
            and turned_px(face.landmarks) <= most_px
        )
        self._fits = self._fits + 1 if fit else 0
        self._usable = fit and (self._usable or self._fits >= USABLE_FRAMES)
        return self._usable

    def _look(self, image: U8, time_s: float) -> Face | None:
        """Search the whole picture for somebody to follow."""
        if self.state is FaceState.LOST and time_s - self._seen_s > KEEP_S:
            self.forget()
        if time_s - self._empty_s > EMPTY_S and self._frames % 2:
            return None
        boxes = self._tracker.detect(image)
        self._scan_s = time_s
        if not len(boxes):
            self._empty_s = min(self._empty_s, time_s)
            return None
        self._empty_s = float("inf")
        chosen = self._choose(boxes)
        return None if chosen is None else self._follow(image, boxes, chosen)

    def _follow(self, image: U8, boxes: F32, chosen: int) -> Face | None:
        self._others = np.delete(boxes, chosen, axis=0)
        self._tracker.aim(boxes[chosen])
        face = self._tracker.track(image)
        self._following, self._seen = face is not None, 0
        return face

    def _choose(self, boxes: F32) -> int | None:
        """Which of f32[N, 4]; None: the one we wait for is not among them."""
        if self.state is FaceState.LOST and self._box is not None:
            far = np.hypot(*(_middles(boxes) - _middle(self._box)).T)
            for i in np.argsort(far):
                if same_place(boxes[i], self._box):
                    return int(i)
            # Somebody elsewhere who was not there before can only be who was lost.
            fresh = [
                i for i in np.argsort(far) if not any(same_place(boxes[i], o) for o in self._others)
            ]
            return int(fresh[0]) if fresh else None
        return self._by_policy(boxes)

    def _by_policy(self, boxes: F32) -> int:
        height, width = self._shape
        if self.policy in (Policy.LARGEST, Policy.LIPS):
            return int(np.argmax((boxes[:, 2:] - boxes[:, :2]).prod(1)))
        point = self._point if self.policy is Policy.POSITION else (0.5, 0.5)
        return int(np.argmin(np.hypot(*(_middles(boxes) - np.multiply(point, (width, height))).T)))

    def _scan(self, image: U8, time_s: float) -> None:
        """See who else is there."""
        self._scan_s = time_s
        assert self._box is not None
        boxes = self._tracker.detect(image)
        fresh = [box for box in boxes if not same_place(box, self._box)]
        others = []  # in the order in which they came: whose lips are whose
        for known in self._others:
            again = next((i for i, box in enumerate(fresh) if same_place(box, known)), None)
            if again is not None:
                others.append(fresh.pop(again))
        if fresh or len(others) < len(self._others):
            self._active_speaker.forget()
        self._others = np.array(others + fresh, np.float32).reshape(-1, 4)

    def _listen(self, image: U8, face: Face, time_s: float) -> bool:
        """Compare lips with the voice; whether somebody else is followed from now on."""
        if self._frames % GLIMPSE_FRAMES or not len(self._others):
            return False
        others = self._others[:MOST_OTHERS]
        seen = self._tracker.glimpse(image, others)
        for i, other in enumerate(seen):
            if other is not None:  # they move too
                self._others[i] = box_of(other)
        self._active_speaker.update([face, *seen], time_s)
        best = self._active_speaker.speaker(time_s)
        if best == 0:
            return False
        self._turn_to(image, self._others[best - 1], np.delete(self._others, best - 1, axis=0))
        return True

    def _turn_to(self, image: U8, box: F32, without: F32) -> None:
        """Follow somebody else from the next picture on."""
        others = without if self._box is None else np.vstack([without, self._box[None]])
        self.forget()
        self._others, self._box = others, box
        self._tracker.aim(box)
        self._following = True

    def _obey(self, image: U8, time_s: float) -> None:
        wanted, self._wanted = self._wanted, []
        for choice in wanted:
            if choice.policy is not None:
                changed = choice.policy is not self.policy
                self.policy = choice.policy
                self._active_speaker.forget()
                if changed and self.policy is not Policy.LIPS:
                    self.forget()
            if choice.next or choice.index is not None or choice.position is not None:
                self._point_at(choice, image, time_s)

    def _point_at(self, choice: Choice, image: U8, time_s: float) -> None:
        boxes = self._tracker.detect(image)
        self._scan_s = time_s
        if choice.position is not None:
            self._point = choice.position
        elif len(boxes):
            boxes = boxes[np.argsort(_middles(boxes)[:, 0])]
            if choice.index is not None:
                chosen = min(choice.index, len(boxes) - 1)
            else:
                here = -1.0 if self._box is None else float(_middle(self._box)[0])
                own = [self._box is not None and same_place(box, self._box) for box in boxes]
                right = (_middles(boxes)[:, 0] > here) & ~np.array(own)
                chosen = int(np.argmax(right)) if right.any() else 0
            height, width = self._shape
            x, y = _middle(boxes[chosen])
            self._point = float(x) / width, float(y) / height
        self.policy = Policy.POSITION
        if not len(boxes):
            return
        nearest = self._by_policy(boxes)
        if self._box is None or not same_place(boxes[nearest], self._box):
            self._turn_to(image, boxes[nearest], np.zeros((0, 4), np.float32))
            self._others = np.delete(boxes, nearest, axis=0)


def _middle(box: F32 | None) -> F32:
    assert box is not None
    return np.asarray((box[:2] + box[2:]) / 2, np.float32)


def _middles(boxes: F32) -> F32:
    return np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2, np.float32)
