"""Certificates by which the gateway knows a site before any call reaches the SuperLink, and their revocation.

Flower's SuperNode cannot show one, so a site that has one runs a door of its own before the
SuperNode (docker-compose.client-certificates.yml). The door's certificate is for both of its sides.

    gateway/client-certificates.conf   tells the gateway to ask; in gateway/ca.crl stand those that are revoked
    client-K/site.crt client-K/site.key
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedloge.commands.certificates import (
    GATEWAY,
    SOON,
    Authority,
    authority,
    leaf_certificate,
    pem,
    unwritable,
    write,
    write_private,
)
from fedloge.errors import InputError

DOOR = "door"
"""The name under which a SuperNode finds its site's own door."""
_CONF = """\
# Only sites with a certificate of this authority that is not revoked; the health check needs none.
ssl_client_certificate /run/gateway/ca.crt;
ssl_crl /run/gateway/ca.crl;
ssl_verify_client optional;
set $certified $ssl_client_verify;
if ($uri = /health) { set $certified SUCCESS; }
if ($certified != SUCCESS) { return 400; }
"""


def ask_for_certificates(out: Path, days: int, owner: int = -1) -> list[str]:
    """Give each client's folder a certificate, and have the gateway ask for one.

    Made are those that are missing, and those that end within `SOON`. Returns the names of their folders.

    Raises
    ------
    InputError
        `out` is not the folder of a deployment, or its authority's key is missing.
    """
    known = authority(out)
    if not (out / GATEWAY).is_dir():
        raise InputError(f"{out / GATEWAY} is not there; --renew-server makes it")
    lacking = [folder for folder in sorted(out.glob("client-*")) if _needs_one(folder)]
    try:
        for folder in lacking:
            _write_site(folder, known, days, owner)
        if not (out / GATEWAY / "ca.crl").exists():
            _write_revoked(out, known, [])
        write(out / GATEWAY / "client-certificates.conf", _CONF.encode())
    except OSError as exc:
        raise unwritable(out, exc) from None
    return [folder.name for folder in lacking]


def revoke(out: Path, client: int) -> None:
    """Put a client's certificate on the list of those that the gateway refuses.

    Raises
    ------
    InputError
        The client has no certificate here, or the list or the authority's key is missing or damaged.
    """
    known = authority(out)
    try:
        own = (out / f"client-{client}" / "site.crt").read_bytes()
        certificate = x509.load_pem_x509_certificate(own)
        old = x509.load_pem_x509_crl((out / GATEWAY / "ca.crl").read_bytes())
    except OSError as exc:
        raise InputError(
            f"{exc.filename} cannot be read ({exc.strerror}); client certificates are made with "
            "--client-certificates"
        ) from None
    except ValueError as exc:
        raise InputError(
            f"{out}: a certificate or the list of revoked ones is damaged ({exc})"
        ) from None
    try:
        _write_revoked(
            out, known, [*(entry.serial_number for entry in old), certificate.serial_number]
        )
    except OSError as exc:
        raise unwritable(out, exc) from None


def _needs_one(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        own = x509.load_pem_x509_certificate((folder / "site.crt").read_bytes())
    except (OSError, ValueError):
        return True
    return own.not_valid_after_utc < datetime.now(UTC) + SOON


def _write_site(folder: Path, known: Authority, days: int, owner: int) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    certificate = leaf_certificate(known, key, folder.name, [DOOR, "localhost"], usages, days)
    write_private(folder / "site.key", pem(key), owner)
    write(folder / "site.crt", certificate.public_bytes(Encoding.PEM))


def _write_revoked(out: Path, known: Authority, serials: list[int]) -> None:
    now = datetime.now(UTC)
    # A list that has ended would shut every site out.
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(known.certificate.subject)
        .last_update(now - timedelta(hours=1))  # the gateway's clock may be behind
        .next_update(known.certificate.not_valid_after_utc)
    )
    for serial in dict.fromkeys(serials):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(revoked.build())
    listed = builder.sign(known.key, SHA384())
    write(out / GATEWAY / "ca.crl", listed.public_bytes(Encoding.PEM))
