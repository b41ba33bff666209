"""Every state of tracking and every way from one to another, before made people."""

from __future__ import annotations

import pytest
from fakes import SceneTracker
from films import ELSEWHERE, HERE, LEFT, MIDDLE, RIGHT, Film, good, two

from lipwire.engine.face.alignment import CHIN, EAR_TO_EAR, NOSE_TIP, profile_ratio, turned_px
from lipwire.engine.face.policy import Choice, Policy
from lipwire.engine.face.selector import (
    EMPTY_S,
    KEEP_S,
    MAX_TURN_PX,
    RETURN_FRAMES,
    SCAN_S,
    TURN_AGAIN_PX,
)
from lipwire.engine.types import U8, Face, FaceState, Outcome

# --- states ---


def test_a_face_is_tracked_from_its_first_picture_on() -> None:
    film = Film(SceneTracker(ann=(MIDDLE, 100)))
    assert film.selector.sighting.state is FaceState.SEARCHING
    assert all(good(film.run(5)))
    assert film.selector.sighting.state is FaceState.TRACKED
    assert film.selector.sighting.reason is None
    assert film.tracker.detections == 1  # it is followed, not found again


def test_an_empty_room_is_searched_without_a_face() -> None:
    film = Film(SceneTracker())
    assert film.run(5) == [Outcome.NO_FACE] * 5
    assert film.tracker.detections == 5
    assert film.selector.sighting.state is FaceState.SEARCHING
    assert film.selector.sighting.reason is Outcome.NO_FACE
    film.run(round(EMPTY_S * 25))
    before = film.tracker.detections
    film.run(20)
    assert film.tracker.detections - before == 10  # and half as often when nobody has come
    film.tracker.people["ann"] = MIDDLE, 100
    assert True in good(film.run(3))


@pytest.mark.parametrize("gone", [1, 3, 25, 70, 200])
def test_a_hidden_face_passes_through_at_once_and_is_back_within_five(gone: int) -> None:
    film = Film(SceneTracker(ann=(MIDDLE, 100)))
    for _ in range(3):  # again and again
        assert all(good(film.run(10))[RETURN_FRAMES - 1 :])
        film.tracker.hidden = {"ann"}
        assert film.run(gone) == [Outcome.NO_FACE] * gone  # from the very first
        assert film.selector.sighting.state is (
            FaceState.LOST if gone / 25 <= KEEP_S else FaceState.SEARCHING
        )
        film.tracker.hidden = set()
        assert good(film.run(5))[4]
        assert film.selector.sighting.state is FaceState.TRACKED


def test_a_face_that_flickers_is_not_shown_until_it_stays() -> None:
    film = Film(SceneTracker(ann=(MIDDLE, 100)))
    film.update()
    shown = []
    for index in range(20):
        film.tracker.hidden = {"ann"} if index % 2 == 0 else set()
        shown.append(film.update())
    assert not any(good(shown))
    film.tracker.hidden = set()
    assert good(film.run(3)) == [True] * 3  # the last of those twenty counts


def test_movement_is_broken_by_a_loss_and_by_a_jump_but_not_by_a_walk() -> None:
    film = Film(SceneTracker(ann=(MIDDLE, 100)))
    film.update()
    before = film.selector.stretch
    for step in range(10):
        film.tracker.people["ann"] = (320.0 + 20 * step, 180), 100 + step
        film.update()
    assert film.selector.stretch == before
    film.tracker.people["ann"] = (200.0, 180), 109
    assert good([film.update()]) == [True]
    assert film.selector.stretch == before + 1
    assert film.selector.person == 0  # the same one, in the same room
    film.tracker.people["ann"] = (200.0, 180), 160
    film.update()
    assert film.selector.stretch == before + 2
    film.tracker.hidden = {"ann"}
    film.update()
    assert film.selector.stretch == before + 3
    assert film.selector.person == 0


# --- what cannot be repainted ---


def test_small_faces_pass_through_with_a_margin() -> None:
    film = Film(SceneTracker(ann=(MIDDLE, 66)))
    outcomes = []
    for width_px in (66, 63, 65, 67, 70, 70, 66, 64.5):
        film.tracker.people["ann"] = MIDDLE, width_px
        outcomes.append(isinstance(film.update(), Face))
    assert outcomes == [True, False, False, False, False, True, True, True]
    assert film.selector.sighting.state is FaceState.TRACKED
    film.tracker.people["ann"] = MIDDLE, 50
    assert film.update() is Outcome.FACE_UNUSABLE
    assert film.selector.sighting.reason is Outcome.FACE_UNUSABLE


def test_a_head_turned_away_passes_through_with_a_margin() -> None:
    class Turning(SceneTracker):
        ratio = 1.0

        def track(self, image: U8) -> Face | None:
            face = super().track(image)
            assert face is not None
            left, right = (face.landmarks[i] for i in EAR_TO_EAR)
            face.landmarks[NOSE_TIP] = left + (right - left) / (1 + self.ratio)
            return face

    tracker = Turning(ann=(MIDDLE, 100))
    film = Film(tracker)
    outcomes = []
    for tracker.ratio in (1, 4.5, 5.5, 4.5, 3.8, 4.2, 3.8, 3.8, 4.8):
        outcomes.append(film.update())
    assert good(outcomes) == [True, True, False, False, False, False, False, True, True]
    assert outcomes[2] is Outcome.FACE_UNUSABLE
    assert film.selector.person == 0  # he is known all the while


def test_a_profile_passes_through_whatever_its_ears_say() -> None:
    class Turning(SceneTracker):
        nose_px = 0.0

        def track(self, image: U8) -> Face | None:
            face = super().track(image)
            assert face is not None
            face.landmarks[[168, 6, 197, 195, 5, 98, 327], 0] += self.nose_px
            return face

    tracker = Turning(ann=(MIDDLE, 100))
    film = Film(tracker)
    outcomes, turned = [], []
    for tracker.nose_px in (0, 6, 12, 8, 6, 6, 6):
        outcomes.append(film.update())
        landmarks = tracker.track(HERE).landmarks
        turned.append(turned_px(landmarks))
        assert profile_ratio(landmarks) < 2
    assert turned[1] < TURN_AGAIN_PX < turned[3] < MAX_TURN_PX < turned[2]
    assert good(outcomes) == [True, True, False, False, False, True, True]
    assert outcomes[2] is Outcome.FACE_UNUSABLE


# --- cuts ---


def test_a_cut_begins_afresh_and_leaves_one_picture_between() -> None:
    film = Film(SceneTracker(ann=(MIDDLE, 100)))
    film.run(5)
    person, stretch = film.selector.person, film.selector.stretch
    film.tracker.people = {"bob": (MIDDLE, 100)}  # at the very same place
    seen = film.run(4, ELSEWHERE)
    assert good(seen) == [False, True, True, True]
    assert film.selector.person > person
    assert film.selector.stretch > stretch
    assert film.tracker.followed == "bob"


def test_after_a_cut_the_policy_chooses_again() -> None:
    film = Film(two())
    film.run(3)
    assert film.tracker.followed == "ann"
    film.tracker.people = {"ann": (LEFT, 80), "bob": (RIGHT, 100)}
    film.run(3)
    assert film.tracker.followed == "ann"  # larger or not, she is kept
    film.run(3, ELSEWHERE)
    assert film.tracker.followed == "bob"


def test_a_jump_in_another_picture_is_a_cut_too() -> None:
    film = Film(SceneTracker(ann=(LEFT, 100)))
    film.run(3)
    film.tracker.people["ann"] = MIDDLE, 100
    moved = HERE.copy()
    moved[:, 240:] = ELSEWHERE[:, 240:]  # not enough for a cut of its own
    assert film.selector.person == 0
    seen = film.run(2, moved)
    assert good(seen) == [False, True]
    assert film.selector.person == 1


# --- several ---


@pytest.mark.parametrize(
    ("policy", "followed"), [(Policy.LARGEST, "ann"), (Policy.CENTRAL, "cy"), (Policy.LIPS, "ann")]
)
def test_who_is_followed(policy: Policy, followed: str) -> None:
    tracker = SceneTracker(bob=(RIGHT, 80), cy=((300.0, 200.0), 70), ann=(LEFT, 100))
    film = Film(tracker)
    film.selector.choose(Choice(policy))
    film.run(3)
    assert tracker.followed == followed
    sighting = film.selector.sighting
    assert (sighting.faces, sighting.policy) == (3, policy.value)
    assert sighting.index == {"ann": 0, "cy": 1}[followed]
    assert sighting.box is not None
    x0, y0, x1, y1 = sighting.box
    (x, y), _ = tracker.people[followed]
    assert x0 < x / 640 < x1 and y0 < y / 360 < y1


def test_who_comes_is_seen_within_a_second_and_does_not_take_over() -> None:
    film = Film(SceneTracker(ann=(LEFT, 100)))
    film.run(3)
    film.tracker.people["bob"] = RIGHT, 200
    assert all(good(film.run(round(SCAN_S * 25) + 1)))
    assert film.selector.sighting.faces == 2
    assert film.tracker.followed == "ann"
    assert film.tracker.detections <= 3
    film.tracker.hidden = {"bob"}
    film.run(round(SCAN_S * 25) + 1)
    assert film.selector.sighting.faces == 1


def test_who_is_lost_is_waited_for_before_another_is_taken() -> None:
    film = Film(two())
    film.run(3)
    film.tracker.hidden = {"ann"}
    assert not any(good(film.run(round(KEEP_S * 25))))
    film.tracker.hidden = set()
    film.run(5)
    assert film.tracker.followed == "ann"
    film.tracker.hidden = {"ann"}
    person = film.selector.person
    film.run(round(KEEP_S * 25) + 5)
    assert film.tracker.followed == "bob"
    assert film.selector.person > person


def test_who_returns_elsewhere_is_known_by_not_being_one_of_the_others() -> None:
    film = Film(two())
    film.run(3)
    film.tracker.hidden = {"ann"}
    film.run(10)
    film.tracker.hidden = set()
    film.tracker.people["ann"] = MIDDLE, 100
    assert good(film.run(5))[4]
    assert film.tracker.followed == "ann"


def test_next_goes_from_left_to_right_and_round() -> None:
    film = Film(SceneTracker(bob=(RIGHT, 80), cy=(MIDDLE, 70), ann=(LEFT, 100)))
    film.run(3)
    followed = []
    for _ in range(4):
        film.selector.choose(Choice(next=True))
        person = film.selector.person
        seen = film.run(3)
        assert good(seen) == [False, True, True]  # one picture between two mouths
        assert film.selector.person > person
        followed.append(film.tracker.followed)
    assert followed == ["cy", "bob", "ann", "cy"]
    assert film.selector.sighting.policy == "position"


def test_next_of_one_changes_nothing() -> None:
    film = Film(SceneTracker(ann=(MIDDLE, 100)))
    film.run(3)
    film.selector.choose(Choice(next=True))
    assert all(good(film.run(3)))
    assert film.selector.person == 0


@pytest.mark.parametrize(
    ("choice", "followed"),
    [
        (Choice(index=0), "ann"),
        (Choice(index=1), "bob"),
        (Choice(index=9), "bob"),
        (Choice(position=(0.9, 0.1)), "bob"),
        (Choice(position=(0.1, 0.9)), "ann"),
    ],
)
def test_a_face_can_be_pointed_at_and_is_kept(choice: Choice, followed: str) -> None:
    film = Film(two())
    film.selector.choose(choice)  # before the first picture
    film.run(3)
    assert film.tracker.followed == followed
    film.selector.choose(choice)
    assert all(good(film.run(3)))
    for step in range(20):  # it walks through the picture, and the choice with it
        film.tracker.people[followed] = (float(100 + 20 * step), 180.0), 100
        film.tracker.people[{"ann": "bob", "bob": "ann"}[followed]] = (600.0, 60.0), 40
        film.update()
    assert film.tracker.followed == followed


def test_who_was_pointed_at_is_found_again_where_he_was() -> None:
    film = Film(two())
    film.selector.choose(Choice(index=1))
    film.run(3)
    film.tracker.hidden = {"ann", "bob"}
    film.run(100)
    assert film.selector.sighting.state is FaceState.SEARCHING
    film.tracker.hidden = set()
    film.run(5)
    assert film.tracker.followed == "bob"  # though ann is larger


def test_pointing_into_an_empty_room_is_remembered() -> None:
    film = Film(two())
    film.tracker.hidden = {"ann", "bob"}
    film.selector.choose(Choice(position=(0.8, 0.5)))
    film.run(3)
    film.tracker.hidden = set()
    film.run(3)
    assert film.tracker.followed == "bob"


def test_a_clock_that_is_set_back_does_not_stop_the_look_around() -> None:
    film = Film(SceneTracker(ann=(LEFT, 100)))
    film.index = 10_000
    film.run(3)
    film.index = 0
    film.tracker.people["bob"] = RIGHT, 80
    film.run(round(SCAN_S * 25) + 2)
    assert film.selector.sighting.faces == 2


def test_the_chin_is_part_of_the_box() -> None:
    """What people are shown as the face is what is repainted."""
    film = Film(SceneTracker(ann=(MIDDLE, 100)))
    face = film.update()
    assert isinstance(face, Face)
    box = film.selector.sighting.box
    assert box is not None and box[3] * 360 >= face.landmarks[CHIN, 1] - 1
