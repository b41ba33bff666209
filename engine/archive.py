"""A bundle as one file, NAME.lipwire: a zip of its members, stored as they are.

Unpacking trusts nothing: members must be plain, uncompressed files named by the manifest, and the
folder that results is checked like any other.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from engine.cache import cache_folder
from engine.errors import BundleError

SUFFIX = ".lipwire"
_MANIFEST = "manifest.json"
_KEPT_BUNDLES = 4  # unpacked in the cache, those used last
_MAX_MEMBERS = 32  # a bundle has half a dozen
_MAX_MANIFEST_BYTES = 1 << 20
_DATE = (1980, 1, 1, 0, 0, 0)  # of every member: equal bundles give equal files


def pack(folder: Path, names: list[str], out: Path) -> Path:
    """Write files of a folder into one; it appears at `out` when it is whole.

    Args:
        folder: of a bundle that has been checked.
        names: of its files, the manifest among them.
        out: the file to write; an older one is replaced.

    Raises:
        BundleError: `out` is a folder, or cannot be written.
    """
    if out.is_dir():
        raise BundleError(f"{out}: is a folder; name a file")
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(names):
                info = zipfile.ZipInfo(name, _DATE)
                info.external_attr = 0o644 << 16
                with archive.open(info, "w", force_zip64=True) as target:
                    with (folder / name).open("rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)
        partial.replace(out)
    except OSError as error:
        raise BundleError(f"{out}: cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)
    return out


def unpack(file: Path, out: Path) -> Path:
    """Write a packed bundle's files into a new folder; it appears when it is whole.

    Args:
        file: the packed bundle.
        out: the folder to make; it must not exist.

    Raises:
        BundleError: not a packed bundle, damaged, or it holds what no bundle holds.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".unpack-") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        try:
            with zipfile.ZipFile(file) as archive:
                for info in _checked_members(file, archive):
                    with archive.open(info) as source, (folder / info.filename).open("xb") as to:
                        shutil.copyfileobj(source, to, 1 << 20)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise BundleError(f"{file}: damaged, or not a packed bundle ({error})") from error
        folder.rename(out)
    return out


def _checked_members(file: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    names = [info.filename for info in members]
    if _MANIFEST not in names:
        raise BundleError(f"{file}: not a packed bundle, it has no {_MANIFEST}")
    if len(members) > _MAX_MEMBERS or len(set(names)) != len(names):
        raise BundleError(f"{file}: holds {len(members)} members, some may be double; refused")
    if archive.getinfo(_MANIFEST).file_size > _MAX_MANIFEST_BYTES:
        raise BundleError(f"{file}: its {_MANIFEST} is too large to be one")
    manifest = json.loads(archive.read(_MANIFEST))
    listed = manifest.get("files") if isinstance(manifest, dict) else None
    allowed = {_MANIFEST, *(listed if isinstance(listed, dict) else ())}
    for info in members:
        name = info.filename
        if name not in allowed or Path(name).name != name or "\\" in name or ":" in name:
            raise BundleError(f"{file}: member {name!r} is none of the bundle's files")
        # Stored, a member cannot be larger than the file that it came in.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise BundleError(f"{file}: member {name!r} is compressed; pack it with lipwire")
    if sum(info.file_size for info in members) > file.stat().st_size:
        raise BundleError(f"{file}: its members overlap")
    return members


def unpacked(file: Path, checksum: str) -> Path:
    """The folder of a packed bundle's files, unpacked once into the cache.

    Args:
        file: the packed bundle.
        checksum: of its bytes.

    Raises:
        BundleError: see `unpack`.
    """
    cache = cache_folder("bundles")
    if cache is None:  # no cache: unpacked for this process alone
        cache = Path(tempfile.mkdtemp(prefix="lipwire-"))
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
    folder = cache / checksum[:32]
    if not folder.is_dir():
        try:
            unpack(file, folder)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster
                raise BundleError(f"{file}: cannot be unpacked ({error.strerror})") from error
    os.utime(folder)
    by_use = sorted(cache.glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in by_use[_KEPT_BUNDLES:]:
        shutil.rmtree(old, ignore_errors=True)
    return folder
