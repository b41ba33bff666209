"""Smooth is smooth for every session; callers send what was encoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiortc.jitterbuffer import JitterFrame

from lipwire.benchmarks.live import capacity
from lipwire.benchmarks.live.capacity import run, smooth
from lipwire.benchmarks.rig.load_generator import FPS, KEY_EVERY, VP8, Blind, Tape, encoded
from lipwire.benchmarks.rig.scenes import made_clip
from lipwire.server.rtc.bitstream import is_key
from lipwire.server.rtc.decoders import make_decoder


def call(**changes: Any) -> dict[str, Any]:
    return {
        "pictures_share": 1.0,
        "generated_share": 0.99,
        "delay_p95_ms": 61.0,
        "pacing_ms": [1.0] * 100,
        **changes,
    }


def test_smooth_is_strict() -> None:
    assert smooth([call(), call()])
    assert not smooth([call(), call(pictures_share=0.94)])
    assert not smooth([call(generated_share=0.5)])
    assert not smooth([call(pacing_ms=[1.0] * 97 + [41.0] * 3)])
    assert not smooth([call(pacing_ms=[])])


def test_sessions_are_added_until_it_judders(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(calls: int, size: str, steps: int, *_: Any) -> dict[str, Any]:
        row = {
            "sessions": calls,
            "size": size,
            "steps": steps,
            "cpu_cores": 0.5 * calls,
            "smooth": calls < 4,
        }
        return {"row": row, "pacing_ms": [1.0]}

    monkeypatch.setattr(capacity, "load", load)
    found = run(clip=Path("x"))
    figures = {name: one["value"] for name, one in found["figures"].items()}
    assert figures["smooth_sessions"] == 3 and figures["limit_found"] == "yes"
    assert figures["cores_each_further_session"] == pytest.approx(0.5)
    assert len(found["tables"]["sessions"]) == 4
    assert {row["steps"] for row in found["tables"]["sizes and steps"]} > {1}
    stopped = run(clip=Path("x"), most=2, short=True)["figures"]
    assert stopped["limit_found"]["value"] == "no, stopped at 2"


async def test_a_tape_is_encoded_once(tmp_path: Path) -> None:
    clip = made_clip(tmp_path / "clip.mp4", seconds=3)
    tape = encoded(clip, (320, 240), KEY_EVERY + 2)
    assert [is_key(data, vp8=True) for data in tape] == [
        index % KEY_EVERY == 0 for index in range(KEY_EVERY + 2)
    ]
    (shown,) = make_decoder(VP8, 320 * 240).decode(JitterFrame(tape[0], 0))
    assert (shown.width, shown.height) == (320, 240)  # type: ignore[attr-defined]
    track = Tape(tape, 0.0)
    assert [(await track.recv()).pts for _ in range(3)] == [k * 90_000 // FPS for k in range(3)]
    (blind,) = Blind().decode(JitterFrame(b"", 77))
    assert blind.pts == 77
