"""Content Credentials (C2PA 2.x): files that we write say in signed metadata how they came to be.

    credentials = open_credentials()            # made on first use, kept for this user
    credentials.sign(Path("out.mp4"), "out.mp4", "lite 0.1.0")
    read_credentials(Path("out.mp4"))           # the manifest, and whether it still fits the file

The chain is self-signed: it proves that a file was not changed since lipwire wrote it, not who ran
lipwire. Whoever has a certificate that others trust puts the chain and its key in the same place.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lipwire.engine.errors import ConfigError, MediaError
from lipwire.server import __version__

FOLDER = "content-credentials"
CHAIN, KEY = "chain.pem", "key.pem"
LIFE = timedelta(days=3 * 365)
RENEW = timedelta(days=30)  # before the end
# A picture that a camera made, with a part that a trained model made (IPTC's vocabulary).
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
MIME = "video/mp4"


def default_folder() -> Path:
    """Where the user's chain lies: `LIPWIRE_HOME`, or the usual place for settings."""
    home = os.environ.get("LIPWIRE_HOME")
    if home:
        return Path(home) / FOLDER
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "lipwire" / FOLDER


@dataclass(frozen=True, slots=True)
class Credentials:
    """What files are signed with."""

    chain: str  # PEM, the signing certificate first
    key: str  # its private key, PEM

    def sign(self, path: Path, title: str, model: str) -> None:
        """Put a signed manifest into an MP4; the file is replaced when it is whole.

        Raises:
            MediaError: the file cannot be signed; it is as it was.
        """
        import c2pa

        info = c2pa.C2paSignerInfo(b"es256", self.chain.encode(), self.key.encode(), None)
        signed = path.with_name(f".{secrets.token_hex(4)}{path.suffix}")
        try:
            with (
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder(json.dumps(_manifest(title, model))) as builder,
                path.open("rb") as source,
                signed.open("w+b") as target,
            ):
                builder.sign(signer, MIME, source, target)
            os.replace(signed, path)
        except (c2pa.C2paError, OSError) as error:
            signed.unlink(missing_ok=True)
            line = " ".join(str(error).split())
            raise MediaError(f"{title}: Content Credentials cannot be added ({line})") from error


def read_credentials(path: Path) -> dict[str, Any]:
    """The manifest store of a file, as C2PA's reader gives it; `validation_state` is in it.

    Raises:
        MediaError: there is none, or it cannot be read.
    """
    import c2pa

    try:
        with c2pa.Reader(str(path)) as reader:
            store: dict[str, Any] = json.loads(reader.json())
    except (c2pa.C2paError, OSError) as error:
        line = " ".join(str(error).split())
        raise MediaError(f"{path}: no Content Credentials that can be read ({line})") from error
    return store


def open_credentials(folder: Path | None = None) -> Credentials:
    """The user's chain and key, made on first use and renewed before they expire.

    Raises:
        ConfigError: they cannot be read, or not be made there.
    """
    folder = folder or default_folder()
    chain, key = folder / CHAIN, folder / KEY
    try:
        if not (chain.is_file() and key.is_file()) or _expires_soon(chain):
            folder.mkdir(parents=True, exist_ok=True)
            made = make_credentials()
            _write_secret(key, made.key)
            chain.write_text(made.chain)
        return Credentials(chain.read_text(), key.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder}: Content Credentials cannot be kept here ({error}); choose another place by "
            "LIPWIRE_HOME, or go without by --no-credentials"
        ) from error


def _expires_soon(chain: Path) -> bool:
    ends = x509.load_pem_x509_certificate(chain.read_bytes()).not_valid_after_utc
    return datetime.now(UTC) + RENEW > ends


def _write_secret(path: Path, text: str) -> None:
    """Readable by this user alone from the first byte on."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    os.replace(partial, path)


def make_credentials() -> Credentials:
    """A chain of two: C2PA takes no certificate that signed itself (specification, section 14.5).

    The upper key is thrown away at once, so nobody can make more of them.
    """
    upper_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    upper_name = _name("lipwire self-signed root")
    upper = (
        _certificate(upper_name, upper_name, upper_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(upper_key.public_key()), False)
        .sign(upper_key, hashes.SHA256())
    )
    lower = (
        _certificate(_name("lipwire"), upper_name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(upper_key.public_key()), False
        )
        .sign(upper_key, hashes.SHA256())
    )
    chain = b"".join(c.public_bytes(Encoding.PEM) for c in (lower, upper))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Credentials(chain.decode(), pem.decode())


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "lipwire (self-signed)"),
        ]
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks differ
        .not_valid_after(now + LIFE)
    )


def _usage(**granted: bool) -> x509.KeyUsage:
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
    names += ["key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: granted.get(name, False) for name in names})


def _manifest(title: str, model: str) -> dict[str, Any]:
    agent = {"name": "lipwire", "version": __version__}
    return {
        "claim_generator_info": [agent],
        "title": title,
        "format": MIME,
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "digitalSourceType": SOURCE,
                            "softwareAgent": agent,
                            "description": "The lip movement in this video is AI-generated "
                            f"(model {model}).",
                        }
                    ]
                },
            }
        ],
    }
