"""File lists as they are published, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipwire.engine.errors import ConfigError
from lipwire.training.evaluation.lists import Share, folder_pairs, read_list


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def listed(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_voxceleb2_names_sound_then_picture_without_suffix(tmp_path: Path) -> None:
    root = touch(tmp_path / "vox", "test/mp4/id1/a/00001.mp4", "test/mp4/id2/b/00007.mp4")
    setting, pairs = read_list(listed(tmp_path, "id1/a/00001 id2/b/00007\n\n# done\n"), root)
    assert setting == "cross"
    assert [p.audio for p in pairs] == [root / "test/mp4/id1/a/00001.mp4"]
    assert [p.video for p in pairs] == [root / "test/mp4/id2/b/00007.mp4"]
    assert pairs[0].key == "id1__a__00001..id2__b__00007"


@pytest.mark.parametrize("line", ["id1/a/00001 id1/a/00001", "id1/a/00001", "id1/a/00001.mp4"])
def test_a_clip_named_once_or_twice_is_reconstructed(tmp_path: Path, line: str) -> None:
    root = touch(tmp_path / "vox", "id1/a/00001.mp4")
    setting, pairs = read_list(listed(tmp_path, f"{line}\n{line}\n"), root)
    assert setting == "reconstruction" and len(pairs) == 1, "a clip that comes twice counts once"
    assert pairs[0].audio == pairs[0].video == root / "id1/a/00001.mp4"
    assert pairs[0].key == "id1__a__00001"


def test_lrw_wav2lip_and_names_with_spaces(tmp_path: Path) -> None:
    root = touch(tmp_path / "lrw", "lipread_mp4/ABOUT/test/ABOUT_00001.mp4", "voices/two words.wav")
    _, pairs = read_list(listed(tmp_path, "voices/two words\tABOUT/test/ABOUT_00001"), root)
    assert pairs[0].audio.name == "two words.wav" and pairs[0].video.is_file()


def test_a_file_that_is_missing_is_found_out_later(tmp_path: Path) -> None:
    root = touch(tmp_path / "vox", "a.mp4")
    _, pairs = read_list(listed(tmp_path, "a\nb\n"), root)
    assert [p.video.is_file() for p in pairs] == [True, False]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "names no clip"),
        ("a b c", "line 1: 3 names"),
        ("a\na b", "line 1 is for reconstruction, line 2 for cross"),
        ("x y", "not one of the 1 clips"),
    ],
)
def test_bad_lists_say_why(tmp_path: Path, text: str, cause: str) -> None:
    root = touch(tmp_path / "vox", "a.mp4", "b.mp4")
    with pytest.raises(ConfigError, match=cause):
        read_list(listed(tmp_path, text), root)


def test_a_list_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a list"):
        read_list(tmp_path / "none.txt", tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        read_list(listed(tmp_path, "a"), tmp_path / "none")


def test_videos_pair_by_name_whatever_their_suffix(tmp_path: Path) -> None:
    real = touch(tmp_path / "real", "x/1.mp4", "2.mp4")
    fake = touch(tmp_path / "fake", "x/1.avi", "3.mp4")
    found = folder_pairs(real, [fake])
    assert [key for key, _, _ in found] == ["2", "3", "x__1"]
    assert found[2][1:] == (real / "x/1.mp4", [fake / "x/1.avi"])
    assert not found[0][2][0].exists() and not found[1][1].exists()
    with pytest.raises(ConfigError, match="not one video has the name"):
        folder_pairs(real, [touch(tmp_path / "other", "9.mp4")])
    with pytest.raises(ConfigError, match="holds no video"):
        folder_pairs(real, [touch(tmp_path / "empty", "9.txt")])


def test_shares_are_disjoint_and_whole() -> None:
    items = list(range(11))
    parts = [items[s.index - 1 :: s.of] for s in map(Share.parse, ("1/3", "2/3", "3/3"))]
    assert sorted(sum(parts, [])) == items
    for wrong in ("0/3", "4/3", "2", "a/b", "1/0"):
        with pytest.raises(ConfigError, match="must be like 2/8"):
            Share.parse(wrong)
