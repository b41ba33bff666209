"""A person's own mouths as bytes: checked to the last, sealed if there is a key, without pickles.

    magic, version, whether sealed | archive, or salt, nonce and its AES-256-GCM | SHA-256 of all
    archive: npz (numpy.lib.format), not compressed, so that it unpacks to no more than it is
    key: scrypt (RFC 7914) of the passphrase

The checksum tells a damaged file from one of another key; whoever forges one needs no key, unless
the file is sealed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from lipwire.engine.errors import BankError, ConfigError
from lipwire.engine.face.articulation import CODES
from lipwire.engine.face.identity import GRID
from lipwire.engine.units.bank import CAPACITY
from lipwire.engine.units.enrolled import Consent, EnrolledBank
from lipwire.engine.units.unit import WIDEST_PX, Unit

MAGIC, VERSION = b"LIPWIRE-BANK", 1
HEAD, SALT, NONCE, DIGEST = len(MAGIC) + 2, 16, 12, 32
# 200 units of upright heads have at most 32 MB, of tilted ones 40.
MAX_BYTES = 48_000_000
KEY_CHARS = 16  # of a passphrase: fewer are guessed, as whoever has the file may try for ever
TEXT_CHARS = 2000
MAX_FRAMES = 1500  # of what was seen: what `UsualMouth` and `ArticulationScale` keep
FARTHEST_PX = 1000.0  # of a landmark, in a crop of 128

_FORMAT: Any = np.lib.format  # numpy has no types for it
_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {  # the sizes after the first, which differs
    "consent": ("u1", ()),
    "pixels": ("u1", ()),  # of one picture after the other
    "sizes": ("<i4", (2,)),
    "to_crop": ("<f4", (2, 3)),
    "landmarks": ("<f4", (468, 2)),
    "codes": ("<f4", (CODES,)),
    "looks": ("<f4", (GRID[0] * GRID[1],)),
    "details": ("<f4", ()),
    "times": ("<f8", ()),
    "seen": ("<f4", (CODES,)),
    "openings": ("<f4", ()),
}


def write_bank(bank: EnrolledBank, key: str | None = None) -> bytes:
    """A bank as a file's bytes.

    Args:
        bank: at least one unit.
        key: passphrase that seals it; None leaves it open.

    Raises:
        ConfigError: the key is too short.
    """
    units = bank.units
    arrays = {
        "consent": np.frombuffer(json.dumps(asdict(bank.consent)).encode(), np.uint8),
        "pixels": np.concatenate([unit.picture.ravel() for unit in units]),
        "sizes": [unit.picture.shape[:2] for unit in units],
        "to_crop": [unit.to_crop for unit in units],
        "landmarks": [unit.landmarks for unit in units],
        "codes": [unit.codes for unit in units],
        "looks": [unit.look for unit in units],
        "details": [unit.detail for unit in units],
        "times": [unit.time_s for unit in units],
        "seen": bank.seen,
        "openings": bank.openings,
    }
    out = io.BytesIO()
    np.savez(out, **{name: np.asarray(arrays[name], kind) for name, (kind, _) in _ARRAYS.items()})
    head, body = MAGIC + bytes([VERSION, key is not None]), out.getvalue()
    if key is not None:
        salt, nonce = os.urandom(SALT), os.urandom(NONCE)
        body = salt + nonce + _cipher(key, salt).encrypt(nonce, body, head)
    return head + body + hashlib.sha256(head + body).digest()


def read_bank(data: bytes, key: str | None = None) -> EnrolledBank:
    """The bank in a file's bytes.

    Args:
        data: all of it.
        key: passphrase, for one that is sealed.

    Raises:
        BankError: no bank, a damaged one, one of another version or key, or too large.
        ConfigError: the key is too short.
    """
    if len(data) > MAX_BYTES:
        raise BankError(f"larger than {MAX_BYTES // 1_000_000} MB")
    if data[: len(MAGIC)] != MAGIC or len(data) < HEAD + DIGEST:
        raise BankError("not a bank of mouths")
    version, sealed = data[len(MAGIC) : HEAD]
    if version != VERSION:
        raise BankError(f"a bank of version {version}; this lipwire reads version {VERSION}")
    head, body = data[:HEAD], data[HEAD:-DIGEST]
    if hashlib.sha256(head + body).digest() != data[-DIGEST:]:
        raise BankError("the bank is damaged: truncated or altered")
    if sealed:
        if key is None:
            raise BankError("the bank is encrypted; LIPWIRE_BANK_KEY must hold its key")
        body = _unsealed(head, body, key)
    try:
        return _bank_of(_unpacked(body))
    except Exception as error:  # whatever a forged archive makes zipfile, numpy and json raise
        raise BankError(f"the bank is malformed ({' '.join(str(error).split())[:100]})") from error


def is_bank(data: bytes) -> bool:
    """Whether a file that begins so is a bank, of whatever version."""
    return data.startswith(MAGIC)


def _cipher(key: str, salt: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    if len(key) < KEY_CHARS:
        raise ConfigError(f"LIPWIRE_BANK_KEY is shorter than {KEY_CHARS} characters")
    return AESGCM(Scrypt(salt=salt, length=32, n=2**14, r=8, p=1).derive(key.encode()))


def _unsealed(head: bytes, body: bytes, key: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    salt, nonce, sealed = body[:SALT], body[SALT : SALT + NONCE], body[SALT + NONCE :]
    if len(sealed) < 16:
        raise BankError("the bank is malformed (too short)")
    try:
        return bytes(_cipher(key, salt).decrypt(nonce, sealed, head))
    except InvalidTag:
        raise BankError("the bank was encrypted with another key") from None


def _unpacked(archive: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays, of the kinds and shapes that they must have."""
    found = {}
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        for name, (kind, sizes) in _ARRAYS.items():
            info = file.getinfo(f"{name}.npy")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed")
            with file.open(info) as member:
                if _FORMAT.read_magic(member) != (1, 0):
                    raise ValueError(f"{name} is of another format")
                shape, _, dtype = _FORMAT.read_array_header_1_0(member)
                if dtype != np.dtype(kind) or shape[1:] != sizes or len(shape) != 1 + len(sizes):
                    raise ValueError(f"{name} is {dtype}{list(shape)}")
                found[name] = np.frombuffer(member.read(), dtype).reshape(shape)
            if not np.isfinite(found[name]).all():
                raise ValueError(f"{name} is not finite")
    return found


def _bank_of(arrays: dict[str, npt.NDArray[Any]]) -> EnrolledBank:
    """The bank, if its arrays go together."""
    count, sizes = len(arrays["times"]), arrays["sizes"].astype(np.int64)
    per_unit = ("sizes", "to_crop", "landmarks", "codes", "looks", "details")
    steady = (
        ("count", 0 < count <= CAPACITY and all(len(arrays[n]) == count for n in per_unit)),
        ("frames", max(len(arrays["seen"]), len(arrays["openings"])) <= MAX_FRAMES),
        ("times", bool((np.diff(arrays["times"]) > 0).all())),
        ("sizes", bool(((sizes >= 2) & (sizes <= 2 * WIDEST_PX)).all())),
        ("pixels", 3 * int(sizes.prod(1).sum()) == len(arrays["pixels"])),
        ("looks", bool((np.abs(np.linalg.norm(arrays["looks"], axis=1) - 1) < 1e-3).all())),
        ("landmarks", bool((np.abs(arrays["landmarks"]) <= FARTHEST_PX).all())),
        ("to_crop", bool((np.abs(np.linalg.det(arrays["to_crop"][:, :, :2])) > 1e-4).all())),
    )
    for name, holds in steady:
        if not holds:
            raise ValueError(f"{name} cannot be")
    consent = Consent(**json.loads(arrays["consent"].tobytes()))
    if not all(isinstance(v, str) and len(v) <= TEXT_CHARS for v in asdict(consent).values()):
        raise ValueError("consent is no text")
    ends = np.cumsum(3 * sizes.prod(1))
    pictures = np.split(arrays["pixels"], ends[:-1])
    shaped = [one.reshape(*size, 3) for one, size in zip(pictures, sizes, strict=True)]
    rows = [arrays[name] for name in ("to_crop", "landmarks", "codes", "looks")]
    numbers = [arrays[name].tolist() for name in ("details", "times")]
    units = tuple(Unit(*parts) for parts in zip(shaped, *rows, *numbers, strict=True))
    return EnrolledBank(consent, units, arrays["seen"], arrays["openings"])
