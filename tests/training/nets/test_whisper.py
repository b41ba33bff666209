"""The voice's teacher: its archive is read by ours, and says what it was seen to say."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from lipwire.engine.errors import CheckpointError, ConfigError
from lipwire.training.nets import whisper
from lipwire.training.nets.whisper import WhisperEncoder, read_archive


def archive(**arrays: np.ndarray) -> bytes:
    """As CTranslate2 writes it."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    for name, array in arrays.items():
        out += text(name) + struct.pack("<B", array.ndim)
        out += struct.pack(f"<{array.ndim}I", *array.shape)
        out += struct.pack("<BI", kinds[array.dtype.name], array.nbytes) + array.tobytes()
    return out


def test_arrays_come_back_and_damage_is_named() -> None:
    wanted = {"half": np.arange(6, dtype=np.float16).reshape(2, 3), "number": np.array(3, np.int16)}
    data = archive(**wanted)
    found = read_archive(data)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
    for broken in (data[:-3], data[:20], b"", b"\xff" * 40):
        with pytest.raises(CheckpointError, match="not an archive of CTranslate2"):
            read_archive(broken)


def test_a_missing_teacher_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whisper, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"lipwire\[train\]"):
        WhisperEncoder.pretrained()


def test_it_hears_what_it_was_seen_to_hear() -> None:
    """Numbers of a run that agreed with CTranslate2's own `encode` to 7e-4."""
    pytest.importorskip(whisper.PACKAGE, reason="of the train extra")
    times = np.arange(24_000) / 16_000
    pitch = np.sin(2 * np.pi * (150 + 60 * np.sin(5 * times)) * times)
    sound = (0.1 * pitch * (1 + np.sin(8 * np.pi * times))).astype(np.float32)
    teacher = WhisperEncoder.pretrained()
    features = teacher.listen(sound)
    assert features.shape == (75, 768)
    seen = [0.9151, 0.2718, 0.3804, 1.2498, 0.7725, 0.4106]
    np.testing.assert_allclose(features[40, [0, 100, 383, 384, 500, 767]], seen, atol=2e-3)
