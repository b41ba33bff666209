"""What a voice hears: closures, silence, intervals over speakers, the figures of a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from lipwire.engine.model.bundle import open_bundle
from lipwire.training.data.dataset import load_clips
from lipwire.training.data.layouts import find_clips
from lipwire.training.evaluation.hearing import AFTER_S, SILENCES, WAYS, drawn, measure_voice
from lipwire.training.evaluation.hearing_table import voice_table
from lipwire.training.evaluation.measures import over_speakers


def test_speakers_are_drawn_and_not_clips() -> None:
    values = np.array([0.0] * 20 + [1.0] * 20)
    same, low, high = drawn(values, ["a"] * 20 + ["b"] * 20)
    assert same == 0.5 and (low, high) == (0, 1)
    assert drawn(values, ["a"] * 20 + ["b"] * 20, values) == [0, 0, 0]
    assert drawn(values, ["a"] * 40) == [0.5, None, None], "one speaker says nothing of others"
    assert drawn(np.array([np.nan, 0.25]), ["a", "b"])[0] == 0.25, "one too short to be measured"
    assert over_speakers(lambda rows: float(len(rows)), []) == [None] * 3


def test_a_bundle_is_measured_in_every_way_by_language_and_speaker(shards: Path) -> None:
    bundle = open_bundle()
    clips = load_clips(shards, "val")
    report = measure_voice(bundle, [replace(clip, language="xx") for clip in clips], bundle)
    assert set(report["heard"]) == set(WAYS)
    assert set(report["speakers"]) == {clip.speaker for clip in clips}
    assert report["languages"]["xx"] == {
        name: value for name, value in report["heard"]["recorded"].items() if "more" not in name
    }
    for row in report["heard"].values():
        assert row["r_more"][0] == 0, "than itself"
        assert len(row["r"]) == 3 and row["movement"] > 0
        assert row["r"][0] <= row["r_best"][0] and row["clips"] == len(clips)
    assert "NaN" not in json.dumps(report), "which JSON has not"
    rows = voice_table(report).splitlines()
    assert sum(row.startswith("| xx | ") for row in rows) == 1
    assert len({row.count("|") for row in rows[: 2 + len(WAYS)]}) == 1


def test_a_voice_that_is_over_leaves_still_and_shut_lips(shards: Path) -> None:
    report = measure_voice(open_bundle(), load_clips(shards, "val"))["silence"]
    assert set(report) == set(SILENCES)
    nothing = report["digital zero"]
    assert nothing["leak"] == 0, "every window is the same"
    assert nothing["open"] == 0 and 0 <= nothing["shut_s"] < AFTER_S
    assert 0 <= report["room"]["leak"] < 0.5


def test_a_language_comes_from_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "file,kind,split,speaker,language\na.mp4,talking,val,ann,pl\n", encoding="utf-8"
    )
    assert [clip.language for clip in find_clips(tmp_path)] == ["pl"]
