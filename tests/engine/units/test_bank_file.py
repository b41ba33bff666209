"""A bank as a file: what comes back, and what is refused in one line."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from mouths import enrolled

from lipwire.engine import BankError, ConfigError, read_bank, write_bank
from lipwire.engine.units import bank_file
from lipwire.engine.units.bank_file import DIGEST, HEAD, MAGIC, VERSION

KEY = "a passphrase of some length"


@pytest.mark.parametrize("key", [None, KEY])
def test_a_bank_comes_back_as_it_was(key: str | None) -> None:
    bank = enrolled()
    data = write_bank(bank, key)
    found = read_bank(data, key)
    assert found.consent == bank.consent
    assert len(found.units) == len(bank.units)
    for unit, kept in zip(bank.units, found.units, strict=True):
        for name in ("picture", "to_crop", "landmarks", "codes", "look"):
            assert np.array_equal(getattr(unit, name), getattr(kept, name)), name
        assert (unit.time_s, unit.detail) == (kept.time_s, pytest.approx(kept.detail))
    assert np.array_equal(found.seen, bank.seen) and np.array_equal(found.openings, bank.openings)
    assert (bank.consent.statement.encode() in data) is (key is None)
    assert (bank.units[0].picture.tobytes() in data) is (key is None)


def test_a_bank_says_nothing_of_its_mouths() -> None:
    assert "units" not in repr(enrolled()) and "array" not in repr(enrolled())


def signed(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


DATA = write_bank(enrolled())
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not a bank"),
    "another file": (lambda: b"PK\x03\x04" + bytes(200), "not a bank"),
    "truncated": (lambda: DATA[: len(DATA) // 2], "truncated or altered"),
    "one bit": (lambda: DATA[:500] + bytes([DATA[500] ^ 1]) + DATA[501:], "truncated or altered"),
    "another version": (lambda: MAGIC + bytes([VERSION + 1, 0]) + DATA[HEAD:], "version 2"),
    "sealed": (lambda: write_bank(enrolled(), KEY), "LIPWIRE_BANK_KEY"),
    "no archive": (lambda: signed(DATA[:HEAD] + b"nothing"), "malformed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_with_its_cause(name: str) -> None:
    make, cause = REFUSED[name]
    with pytest.raises(BankError, match=cause) as refused:
        read_bank(make())
    assert "\n" not in str(refused.value)


def test_another_key_a_short_one_and_a_large_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BankError, match="another key"):
        read_bank(write_bank(enrolled(), KEY), KEY + "!")
    with pytest.raises(ConfigError, match="16 characters"):
        write_bank(enrolled(), "short")
    monkeypatch.setattr(bank_file, "MAX_BYTES", 1_000_000)
    with pytest.raises(BankError, match="larger than 1 MB"):
        read_bank(bytes(1_000_001))


def altered(name: str, values: object, compressed: bool = False) -> bytes:
    """A forged file whose checksum is right."""
    with np.load(io.BytesIO(DATA[HEAD:-DIGEST])) as arrays:
        made = dict(arrays) | {name: np.asarray(values)}
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **made)
    return signed(DATA[:HEAD] + out.getvalue())


COUNT = len(enrolled().units)
FORGED: dict[str, tuple[str, object]] = {
    "a pickle": ("codes", np.array([{}], object)),
    "pictures that are not there": ("sizes", np.full((COUNT, 2), 400, np.int32)),
    "sides that overflow": ("sizes", np.full((COUNT, 2), 2**31 - 1, np.int32)),
    "fewer codes": ("codes", np.zeros((2, 7), np.float32)),
    "no numbers": ("landmarks", np.full((COUNT, 468, 2), np.nan, np.float32)),
    "a likeness of everybody": ("looks", np.full((COUNT, 264), 9, np.float32)),
    "no map": ("to_crop", np.zeros((COUNT, 2, 3), np.float32)),
    "times that stand": ("times", np.zeros(COUNT)),
    "no consent": ("consent", np.frombuffer(b'{"person": 7}', np.uint8)),
    "floats for bytes": ("pixels", np.zeros(9)),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_arrays_are_refused(what: str) -> None:
    with pytest.raises(BankError, match="malformed"):
        read_bank(altered(*FORGED[what]))


def test_nothing_unpacks_to_more_than_it_is() -> None:
    with pytest.raises(BankError, match="compressed"):
        read_bank(altered("details", np.zeros(COUNT, np.float32), compressed=True))
    with zipfile.ZipFile(io.BytesIO(DATA[HEAD:-DIGEST])) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_more_than_a_call_keeps_is_refused() -> None:
    bank = enrolled()
    many = [replace(bank.units[0], time_s=float(i)) for i in range(201)]
    with pytest.raises(BankError, match="count"):
        read_bank(write_bank(replace(bank, units=tuple(many))))
