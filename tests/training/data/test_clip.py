from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import portrait, write_clip

from lipwire.engine.face.tracker import MeshTracker
from lipwire.training.data.clip import Rejected, Rules, prepare_clip
from lipwire.training.data.layouts import Clip


def _clip(path: Path) -> Clip:
    return Clip(str(path), "ann", "train", path.stem)


def _other_scene() -> np.ndarray:
    """The same woman, elsewhere in another picture."""
    scene = np.full((256, 256, 3), (40, 90, 160), np.uint8)
    scene[:, 128:] = (230, 200, 90)
    scene[70:250, 60:240] = cv2.resize(portrait(0.4), (180, 180))[:, ::-1]
    return scene


@pytest.mark.parametrize("framing", ["stabilised", "box", "voxceleb2"])
def test_every_framing_gives_crops_with_their_landmarks(
    tmp_path: Path, tracker: MeshTracker, framing: str
) -> None:
    rules = Rules(framing=framing, pictures="raw")
    found = prepare_clip(_clip(write_clip(tmp_path / "a.mp4", 12)), rules, tracker)
    assert found["crops.npy"].shape == (12, 128, 128, 3) and found["json"]["frames"] == 12
    assert found["json"]["framing"] == framing and found["json"]["format"] == 3
    lips = found["landmarks.npy"][:, 13:15].astype(np.float32)
    if framing != "voxceleb2":  # this is not a film of VoxCeleb2
        assert 20 < lips.min() and lips.max() < 120
        assert lips[..., 1].min() > 64, "the mouth is in the hidden half"


def test_reasons_of_rejection(tmp_path: Path, tracker: MeshTracker) -> None:
    faces = [portrait(o)[:, 55:183] for o in np.linspace(0, 1, 10)]
    pair = [np.hstack([face, face[:, ::-1]]) for face in faces]
    small = [np.zeros((256, 256, 3), np.uint8) for _ in range(10)]
    for image in small:
        image[90:160, 90:160] = cv2.resize(portrait(0.3), (70, 70))
    talk = [portrait(o) for o in np.linspace(0, 1, 10)]
    cases = {
        "several faces": write_clip(tmp_path / "pair.mp4", pictures=pair),
        "with cuts": write_clip(tmp_path / "cut.mp4", pictures=talk * 3 + [_other_scene()] * 30),
        "face too small|no face": write_clip(tmp_path / "small.mp4", pictures=small),
        "shorter than 5 frames": write_clip(tmp_path / "short.mp4", 4),
        "no audio: .*no audio stream": write_clip(tmp_path / "mute.mp4", 8, sound=False),
        "no face": write_clip(tmp_path / "blank.mp4", 8, blank=True),
        "unreadable": tmp_path / "broken.mp4",
    }
    (tmp_path / "broken.mp4").write_bytes(b"not a film")
    for reason, path in cases.items():
        tracker.forget()
        with pytest.raises(Rejected, match=f"^({reason})"):
            prepare_clip(_clip(path), Rules(), tracker)


def test_the_longest_shot_can_be_kept(tmp_path: Path, tracker: MeshTracker) -> None:
    talk = [portrait(o) for o in np.linspace(0, 1, 12)]
    path = write_clip(tmp_path / "cut.mp4", pictures=[_other_scene()] * 30 + talk * 3)
    about = prepare_clip(_clip(path), Rules(cuts="longest"), tracker)["json"]
    assert about["first_frame"] == 30 and about["frames"] == 36


def test_a_title_is_trimmed(tmp_path: Path, tracker: MeshTracker) -> None:
    talk = [portrait(o) for o in np.linspace(0, 1, 12)]
    path = write_clip(tmp_path / "titled.mp4", pictures=[_other_scene()] * 7 + talk)
    about = prepare_clip(_clip(path), Rules(), tracker)["json"]
    assert about["first_frame"] == 7 and about["frames"] == 12


def test_a_flash_is_no_cut(tmp_path: Path, tracker: MeshTracker) -> None:
    talk = [portrait(0.5) for _ in range(10)]
    talk[5] = np.clip(talk[5] * 1.4 + 50, 0, 255).astype(np.uint8)
    path = write_clip(tmp_path / "flash.mp4", pictures=talk)
    assert prepare_clip(_clip(path), Rules(), tracker)["json"]["frames"] == 10


def test_sound_that_begins_late_stays_late(tmp_path: Path, tracker: MeshTracker) -> None:
    members = prepare_clip(
        _clip(write_clip(tmp_path / "late.mkv", 30, late_s=0.2)), Rules(), tracker
    )
    loud = np.abs(members["speech.npy"].astype(int))
    assert loud[: int(0.15 * 16_000)].max() < 100 and loud[int(0.25 * 16_000) :].max() > 1000
