"""A model directory is checked to the last byte before anything is loaded from it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fakes import make_manifest

from lipwire.engine.errors import BundleError
from lipwire.engine.model.bundle import (
    DEFAULT_BUNDLE,
    MANIFEST,
    Manifest,
    check_steps,
    open_bundle,
    sha256,
)
from lipwire.engine.runtime.open import open_engine
from lipwire.export.model_card import MODEL_CARD, seal, update_manifest

FILES = {"encode.onnx": b"not really a graph", "step.onnx": b"\x00\x01\x02" * 100}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete bundle, but for graphs that no runtime would take."""
    path = tmp_path / "bundle"
    path.mkdir()
    sums = {}
    for name, data in FILES.items():
        (path / name).write_bytes(data)
        sums[name] = hashlib.sha256(data).hexdigest()
    (path / MANIFEST).write_text(make_manifest(files=sums).to_json(), encoding="utf-8")
    return path


def change(folder: Path, **changes: Any) -> None:
    """Rewrite fields of the manifest; None removes one."""
    values = json.loads((folder / MANIFEST).read_text()) | changes
    values = {k: v for k, v in values.items() if v is not None}
    (folder / MANIFEST).write_text(json.dumps(values))


def refused(folder: Path) -> str:
    """The error, which must come before a runtime is loaded and fit in one line."""
    loaded = {name for name in ("onnxruntime", "torch") if name in sys.modules}
    with pytest.raises(BundleError) as caught:
        open_engine(folder)
    assert {name for name in ("onnxruntime", "torch") if name in sys.modules} == loaded
    message = str(caught.value)
    assert "\n" not in message
    assert folder.name in message
    return message


def test_a_good_bundle_opens(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.manifest.name == "fake"
    assert bundle.manifest.steps_offered == (1, 2, 4, 8)
    assert bundle.file("encode.onnx").read_bytes() == FILES["encode.onnx"]
    assert open_bundle(str(folder)).manifest == bundle.manifest
    with pytest.raises(BundleError, match="holds no weights.bin"):
        bundle.file("weights.bin")


def test_the_manifest_survives_the_disk() -> None:
    manifest = make_manifest(training={"clips": ["a", "b"]}, quality={"lse_d": 7.1})
    values = json.loads(manifest.to_json())
    assert Manifest(**{**values, "steps_offered": tuple(values["steps_offered"])}) == manifest
    assert set(values) == set(asdict(manifest))


def test_no_such_folder(tmp_path: Path) -> None:
    assert "no such model bundle" in refused(tmp_path / "bundle")


def test_a_file_is_no_bundle(folder: Path) -> None:
    assert "no such model bundle" in refused(folder / "encode.onnx")


def test_no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    assert "has no manifest.json" in refused(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0, 7, -1])
def test_one_changed_byte_in_any_file(folder: Path, name: str, where: int) -> None:
    data = bytearray((folder / name).read_bytes())
    data[where] ^= 1
    (folder / name).write_bytes(data)
    message = refused(folder)
    assert name in message
    assert "checksum differs" in message


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    message = refused(folder)
    assert name in message
    assert "is missing" in message


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_empty_file(folder: Path, name: str) -> None:
    (folder / name).write_bytes(FILES[name][:-1])
    assert name in refused(folder)
    (folder / name).write_bytes(b"")
    assert name in refused(folder)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "..", ".", "", "sub/file", "a\\b", "../bundle/encode.onnx"]
)
def test_a_name_that_leaves_the_folder(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_bytes(b"x")
    change(folder, files={name: hashlib.sha256(b"x").hexdigest()})
    assert f"file name {name!r} leaves the bundle" in refused(folder)


@pytest.mark.parametrize("version", [1, 3, 0, "1", None, True, 1.5])
def test_a_format_that_we_do_not_know(folder: Path, version: object) -> None:
    change(folder, format_version=version)
    assert f"bundle format {version!r} is unknown; this lipwire reads 2" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gan"}, "kind is 'gan', must be one of"),
        ({"prediction": "noise"}, "prediction is 'noise'"),
        ({"spacing": "random"}, "spacing is 'random'"),
        ({"default_steps": 3}, "default_steps is not among steps_offered"),
        ({"default_steps": "2"}, "default_steps is '2', must be a whole number"),
        ({"steps_offered": []}, "steps_offered is []"),
        ({"steps_offered": "1248"}, "steps_offered is '1248'"),
        ({"steps_offered": [0, 2]}, "steps_offered is [0, 2]"),
        ({"steps_offered": 2}, "steps_offered is 2"),
        ({"crop_size": 127}, "crop_size is 127, must be an even number"),
        ({"crop_size": "128"}, "crop_size is '128'"),
        ({"framing": "round"}, "framing is 'round'"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"device": "tpu"}, "device is 'tpu', must be one of"),
        ({"references": 0}, "references is 0, must be a whole number"),
        ({"reach_px": -1}, "reach_px is -1, must be pixels"),
        ({"reach_px": "5"}, "reach_px is '5'"),
        ({"network": []}, "network is []"),
        ({"mel": 16}, "mel is 16"),
        ({"files": ["encode.onnx"]}, "files is ['encode.onnx']"),
        ({"files": {"encode.onnx": 5}}, "files is"),
        ({"name": None}, "incomplete, without ['name']"),
        ({"files": None, "crop_size": None}, "incomplete, without ['crop_size', 'files']"),
        ({"weights": 1}, "unknown fields ['weights']"),
    ],
)
def test_a_manifest_that_makes_no_sense(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change(folder, **changes)
    found = refused(folder)
    assert message in found
    assert MANIFEST in found


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b'"manifest"', b"null", b"{}" * 2]
)
def test_garbage_in_the_manifest(folder: Path, garbage: bytes) -> None:
    (folder / MANIFEST).write_bytes(garbage)
    assert MANIFEST in refused(folder)


def test_a_manifest_that_is_a_folder(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    assert MANIFEST in refused(folder)


@pytest.mark.parametrize("spoil", [lambda f: f.mkdir(), lambda f: f.symlink_to("nowhere")])
def test_something_else_in_a_files_place(folder: Path, spoil: Callable[[Path], None]) -> None:
    (folder / "encode.onnx").unlink()
    spoil(folder / "encode.onnx")
    assert "encode.onnx" in refused(folder)


def test_checksums_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert sha256(tmp_path / "empty") == hashlib.sha256(b"").hexdigest()


def test_steps_are_those_offered() -> None:
    manifest = make_manifest()
    assert check_steps(manifest, 4) == 4
    with pytest.raises(BundleError, match=r"bundle fake offers \[1, 2, 4, 8\] steps, not 3"):
        check_steps(manifest, 3)


@pytest.mark.skipif(not DEFAULT_BUNDLE.is_dir(), reason="no model has been built into this copy")
def test_the_shipped_bundle_is_whole() -> None:
    bundle = open_bundle()
    assert bundle.manifest.kind == "lite"
    assert bundle.manifest.lookahead_s == pytest.approx(0.1725)
    assert (
        sum(file.stat().st_size for file in bundle.path.iterdir()) <= 24e6
    )  # the voice is in two graphs
    named = {*bundle.manifest.files, MANIFEST, "__init__.py"}
    assert {file.name for file in bundle.path.iterdir() if file.is_file()} <= named


def test_a_bundle_from_before_the_reach_opens_and_takes_none(folder: Path) -> None:
    change(folder, reach_px=None)
    assert "reach_px" not in json.loads((folder / MANIFEST).read_text())
    assert open_bundle(folder).manifest.job_spec.reach_px == 0


def test_the_card_follows_the_manifest(folder: Path) -> None:
    bundle = seal(folder, make_manifest(quality={"sync": 0.4}), FILES)
    assert "- sync: 0.4" in (folder / MODEL_CARD).read_text()
    changed = update_manifest(bundle, quality={"sync": 0.7})
    assert "- sync: 0.7" in (folder / MODEL_CARD).read_text()
    assert changed.manifest.files["step.onnx"] == bundle.manifest.files["step.onnx"]
