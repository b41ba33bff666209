from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import portrait

from lipwire.engine.errors import ConfigError
from lipwire.engine.types import U8
from lipwire.training.data.pictures import (
    BYTES,
    ENDS,
    StoredPictures,
    cut_members,
    frames_in,
    picture_members,
)
from lipwire.training.data.shards import StoredArray, add_member


@pytest.fixture
def crops() -> U8:
    """Seven faces with mouths more and more open, uint8[7, 128, 128, 3]."""
    return np.stack([portrait(index / 6, 128) for index in range(7)])


def stored(folder: Path, members: dict[str, Any]) -> StoredPictures:
    path = folder / "train-0000.tar"
    with tarfile.open(path, "w") as tar:
        for name, value in members.items():
            add_member(tar, f"a.{name}", value)
    with tarfile.open(path) as tar:
        found = {m.name.removeprefix("a."): m for m in tar}
    return StoredPictures(StoredArray(path, found[BYTES]), StoredArray(path, found[ENDS]), "a clip")


def test_pictures_come_back_as_they_were_but_for_a_level_or_two(crops: U8, tmp_path: Path) -> None:
    members = picture_members(crops, "jpeg")
    pictures = stored(tmp_path, members)
    assert len(pictures) == 7 == frames_in(members) and pictures.shape == crops.shape
    assert members[BYTES].nbytes < crops.nbytes / 4
    difference = np.abs(np.asarray(pictures).astype(int) - crops)
    assert difference.mean() < 2, "colours in their order, frames in theirs"
    apart = [np.abs(pictures[-1].astype(int) - crop)[44:64].mean() for crop in crops]
    assert int(np.argmin(apart)) == 6, "the last is the last"


def test_they_are_indexed_as_an_array_is(crops: U8, tmp_path: Path) -> None:
    pictures = stored(tmp_path, picture_members(crops, "jpeg"))
    every = pictures[:]
    assert np.array_equal(pictures[np.int64(3)], every[3])
    assert np.array_equal(pictures[1:4], every[1:4]) and pictures[4:4].shape == (0, 128, 128, 3)
    assert np.array_equal(pictures[1:4, 64:], every[1:4, 64:])
    assert np.array_equal(pictures[2, 64:], every[2, 64:])
    assert [image.sum() for image in pictures] == [image.sum() for image in every]
    with pytest.raises(IndexError):
        pictures[7]


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_a_part_is_cut_out_as_it_lies(crops: U8, kind: str, tmp_path: Path) -> None:
    members = picture_members(crops, kind)
    part = cut_members(members, 2, 5)
    assert frames_in(part) == 3
    if kind == "raw":
        assert np.array_equal(part["crops.npy"], crops[2:5])
        return
    whole = stored(tmp_path, members)[2:5]
    assert np.array_equal(stored(tmp_path, part)[:], whole)
    assert np.array_equal(cut_members(members, 0, 7)[BYTES], members[BYTES])


def test_bytes_that_are_no_picture_are_named(crops: U8, tmp_path: Path) -> None:
    members = picture_members(crops, "jpeg")
    members[BYTES][members[ENDS][1] : members[ENDS][2]] = 0
    pictures = stored(tmp_path, members)
    assert len(pictures[1]) == 128
    with pytest.raises(ConfigError, match="a clip: picture 2 is no JPEG"):
        pictures[2]
