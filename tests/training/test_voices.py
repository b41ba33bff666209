"""Utterances drawn at random and their shards; nothing held out is heard in training."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ConfigError
from training import voices
from training.synthesis import Espeak
from training.visemes import Viseme, segments_of
from training.voices import draw_utterance, load_voices, write_voices


def test_every_variant_exists(espeak: Espeak) -> None:
    for variant in filter(None, voices.VARIANTS):
        espeak.say("a", f"en-us+{variant}")


def test_splits_share_no_voice(espeak: Espeak) -> None:
    heard: dict[str, set[str]] = {"train": set(), "val": set()}
    for split, names in heard.items():
        rng = np.random.default_rng(0)
        for _ in range(16):
            said, about = draw_utterance(espeak, split, rng, degraded=0)
            names.add(about["voice"].partition("+")[2] or about["voice"])
            if about["voice"] in (*voices.NOISES, "none"):
                assert {s.viseme for s in segments_of(said.phones)} == {Viseme.SILENCE}
    assert not (heard["train"] & heard["val"]) - {*voices.NOISES, "none"}


def test_shards_hold_what_was_said_and_are_made_once(
    espeak: Espeak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voices, "UTTERANCES_PER_SHARD", 2)
    for name in ("train-0000.tar", "again-0000.tar"):
        voices._write_shard((tmp_path / name, "train", 0, 0.5))
    first, again = (load_voices(tmp_path, split) for split in ("train", "again"))
    assert len(first) == 2
    for a, b in zip(first, again, strict=True):
        # To the sample only in a process of its own: the library carries state from what it said.
        assert [ipa for ipa, _, _ in a.phones] == [ipa for ipa, _, _ in b.phones]
        assert a.voice == b.voice
        columns = a.mel.shape[1]
        assert (
            a.mel.shape[0] == 80 and a.visemes.shape == (columns,) and a.mouth.shape == (columns, 3)
        )
        assert columns == len(a.speech) // 200 + 1
        assert np.abs(a.mouth).max() <= 1
    with tarfile.open(tmp_path / "train-0000.tar") as tar:
        assert tar.getnames()[:2] == ["train-0000-000.speech.npy", "train-0000-000.mel.npy"]
    with pytest.raises(ConfigError, match="no val voices"):
        load_voices(tmp_path, "val")
    with pytest.raises(ConfigError, match="hours"):
        write_voices(tmp_path, 0)
