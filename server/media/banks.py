"""Files of a person's own mouths: written for their owner's eyes alone, and read again."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

from lipwire.engine import BankError, ConfigError, Consent, EnrolledBank, read_bank, write_bank
from lipwire.engine.units.bank_file import MAX_BYTES
from lipwire.server import __version__


def consent_now(person: str, statement: str) -> Consent:
    """What is agreed to today.

    Raises:
        ConfigError: nothing is.
    """
    if not statement.strip():
        raise ConfigError("consent: say what the person shown has agreed to")
    return Consent(person, statement, datetime.now(UTC).isoformat(timespec="seconds"), __version__)


def save_bank(path: Path, bank: EnrolledBank, key: str | None) -> int:
    """Write a bank for its owner's eyes alone; it appears when it is whole. Returns its bytes.

    Raises:
        BankError: it cannot be written there.
        ConfigError: the key is too short.
    """
    data = write_bank(bank, key)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with os.fdopen(
                os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as file:
                file.write(data)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise BankError(f"{path}: cannot be written ({error.strerror})") from error
    return len(data)


def open_bank(path: Path, key: str | None) -> EnrolledBank:
    """The bank in a file.

    Raises:
        BankError: see `read_bank`; it names the file.
        ConfigError: the key is too short.
    """
    try:
        return read_bank(read_start(path, MAX_BYTES + 1), key)
    except BankError as error:
        raise BankError(f"{path}: {error}") from error


def read_start(path: Path, size: int) -> bytes:
    """The first bytes of a file.

    Raises:
        BankError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise BankError(f"cannot be read ({error.strerror})") from error
