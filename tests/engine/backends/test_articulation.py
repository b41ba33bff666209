"""Articulation: the voice branch alone says what the whole network hears."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lipwire.engine.backends.articulation import REMEMBERED, Articulation, open_articulation
from lipwire.engine.model.bundle import Bundle, open_bundle

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def shipped() -> Iterator[Bundle]:
    yield open_bundle()


def test_it_hears_what_the_network_hears(shipped: Bundle) -> None:
    from lipwire.engine.nets import build_network
    from lipwire.engine.nets.graphs import example_inputs

    net = build_network(shipped)
    inputs = example_inputs(net, 3, seed=5)
    with torch.no_grad():
        wanted = net.voice(inputs["mel"], inputs["reach"][:1].expand(3, -1)).numpy()
    hears = open_articulation(shipped)
    assert hears is not None
    found = hears(list(inputs["mel"].numpy()), inputs["reach"][0].numpy())
    assert found.shape == (3, 7) and found == pytest.approx(wanted, abs=1e-4)


def columns(bundle: Bundle) -> int:
    return bundle.manifest.job_spec.mel_columns


def test_a_window_is_heard_once_whoever_speaks(
    shipped: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    hears, runs = Articulation(shipped), []
    run = hears._run
    monkeypatch.setattr(hears, "_run", lambda *args: runs.append(1) or run(*args))
    rng = np.random.default_rng(0)
    mels = list(rng.uniform(-4, 4, (REMEMBERED + 2, 80, columns(shipped))).astype(np.float32))
    first = hears(mels[:3], None)
    wide = hears([mel.copy() for mel in mels[:3]], np.full(7, 2, np.float32))
    assert len(runs) == 3 and not np.allclose(first, wide)
    fresh = Articulation(shipped)(mels[:3], np.full(7, 2, np.float32))
    np.testing.assert_array_equal(wide, fresh)
    hears(mels, None), hears(mels[:1], None)
    assert len(runs) == len(mels) + 1, "the oldest was forgotten"


def test_nothing_known_of_a_person_is_a_typical_person(shipped: Bundle) -> None:
    hears = Articulation(shipped)
    mel = np.zeros((80, columns(shipped)), np.float32)
    assert (hears([mel], None) == hears([mel], np.ones(7, np.float32))).all()


def test_one_window_alone_is_heard_as_among_others(shipped: Bundle) -> None:
    hears = Articulation(shipped)
    mels = list(
        np.random.default_rng(0).uniform(-4, 4, (5, 80, columns(shipped))).astype(np.float32)
    )
    assert hears(mels, None)[2] == pytest.approx(hears(mels[2:3], None)[0], abs=1e-5)


def test_a_bundle_without_a_voice_of_its_own_has_none(wav2lip_bundle: Bundle) -> None:
    assert open_articulation(wav2lip_bundle) is None


def test_silence_is_a_shut_mouth(shipped: Bundle) -> None:
    from lipwire.engine.audio.mel import SILENCE

    code = Articulation(shipped)([np.full((80, columns(shipped)), SILENCE, np.float32)], None)[0]
    stats = shipped.manifest.codes
    opening_px = code[0] * stats["spread"][0] + stats["mean"][0]
    assert opening_px < 2.5


def test_the_manifest_says_what_codes_mean(shipped: Bundle) -> None:
    spec = shipped.manifest.job_spec
    assert spec.codes is not None and len(spec.codes.mean) == 7
    assert all(value > 0 for value in spec.codes.spread)
    assert Path(shipped.file("voice.onnx")).stat().st_size < 8e6
