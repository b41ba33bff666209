"""A bundle as one file: the same when it is unpacked, and nothing else gets out of it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from fakes import make_manifest

from engine.archive import pack, unpack
from engine.bundle import MANIFEST, Bundle, open_bundle, seal, update_manifest
from engine.cache import cache_folder
from engine.card import MODEL_CARD
from engine.errors import BundleError

FILES = {"encode.onnx": b"not really a graph", "step.onnx": b"\x00\x01\x02" * 1000}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIPWIRE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    folder = tmp_path / "b"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return seal(folder, make_manifest(quality={"sync": 0.4}), FILES)


@pytest.fixture
def packed(bundle: Bundle, tmp_path: Path) -> Path:
    return pack(bundle.path, [MANIFEST, *bundle.manifest.files], tmp_path / "b.lipwire")


def test_what_is_packed_opens_like_the_folder(bundle: Bundle, packed: Path, tmp_path: Path) -> None:
    opened = open_bundle(packed)
    assert opened.manifest == bundle.manifest
    assert opened.packed == packed
    assert opened.file("step.onnx").read_bytes() == FILES["step.onnx"]
    assert open_bundle(packed).path == opened.path, "unpacked once"
    assert open_bundle(unpack(packed, tmp_path / "out")).manifest == bundle.manifest


def test_equal_bundles_give_equal_files(bundle: Bundle, packed: Path, tmp_path: Path) -> None:
    names = [*bundle.manifest.files, MANIFEST]
    assert pack(bundle.path, names, tmp_path / "c.lipwire").read_bytes() == packed.read_bytes()
    assert not list(tmp_path.glob(".*")), "nothing is left lying about"


def test_a_copy_in_the_cache_that_was_altered_is_made_again(packed: Path) -> None:
    opened = open_bundle(packed)
    opened.file("step.onnx").write_bytes(b"evil")
    assert open_bundle(packed).file("step.onnx").read_bytes() == FILES["step.onnx"]


def test_without_a_cache_it_is_unpacked_for_this_process(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIPWIRE_CACHE", "")
    assert open_bundle(packed).file("step.onnx").read_bytes() == FILES["step.onnx"]


def test_a_packed_bundle_is_not_changed(packed: Path) -> None:
    with pytest.raises(BundleError, match="is packed; unpack it"):
        update_manifest(open_bundle(packed), quality={})


def test_the_card_follows_the_manifest(bundle: Bundle) -> None:
    assert "- sync: 0.4" in (bundle.path / MODEL_CARD).read_text()
    changed = update_manifest(bundle, quality={"sync": 0.7})
    assert "- sync: 0.7" in (bundle.path / MODEL_CARD).read_text()
    assert changed.manifest.files["step.onnx"] == bundle.manifest.files["step.onnx"]


def rezip(packed: Path, extra: dict[str, bytes], *, kind: int = zipfile.ZIP_STORED) -> Path:
    """The same archive with more or other members."""
    with zipfile.ZipFile(packed) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(packed, "w", kind) as archive:
        for name, data in (members | extra).items():
            archive.writestr(name, data)
    return packed


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "sub/evil", "..", "a\\b", "c:evil", "more.onnx"]
)
def test_members_that_are_none_of_the_bundles_files(
    packed: Path, name: str, tmp_path: Path
) -> None:
    with zipfile.ZipFile(packed) as archive:
        manifest = json.loads(archive.read(MANIFEST))
    if name != "more.onnx":  # not even when the manifest names it
        manifest["files"][name] = "0" * 64
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BundleError, match="is none of the bundle's files"):
        open_bundle(rezip(packed, {name: b"x", MANIFEST: json.dumps(manifest).encode()}))
    assert sorted({*tmp_path.iterdir()} - {tmp_path / "cache"}) == before


def test_compressed_members_are_refused_before_they_are_unpacked(packed: Path) -> None:
    bomb = {"step.onnx": b"\0" * 5_000_000}
    with pytest.raises(BundleError, match="is compressed"):
        open_bundle(rezip(packed, bomb, kind=zipfile.ZIP_DEFLATED))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_double_members_are_refused(packed: Path) -> None:
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("step.onnx", b"second")
    with pytest.raises(BundleError, match="may be double"):
        open_bundle(packed)


def test_an_altered_member_is_named(packed: Path) -> None:
    with pytest.raises(BundleError, match=r"b\.lipwire: .*step\.onnx: checksum differs"):
        open_bundle(rezip(packed, {"step.onnx": b"other"}))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_one_line(packed: Path, share: float) -> None:
    data = packed.read_bytes()
    packed.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BundleError, match=r"b\.lipwire") as caught:
        open_bundle(packed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("manifest", [b"[]", b"{", b"{}", b"\xff\xfe"])
def test_a_member_manifest_that_makes_no_sense(packed: Path, manifest: bytes) -> None:
    with pytest.raises(BundleError):
        open_bundle(rezip(packed, {MANIFEST: manifest}))


def test_packing_over_a_folder_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "home.lipwire").mkdir()
    with pytest.raises(BundleError, match="is a folder"):
        pack(bundle.path, [MANIFEST], tmp_path / "home.lipwire")


def test_a_cache_that_others_can_write_to_is_not_used(cache: Path) -> None:
    found = cache_folder("graphs")
    assert found is not None and found.stat().st_mode & 0o777 == 0o700
    found.chmod(0o777)
    assert cache_folder("graphs") is None
    found.chmod(0o700)
    cache.chmod(0o777)
    assert cache_folder("graphs") is None
