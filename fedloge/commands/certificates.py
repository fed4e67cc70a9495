"""Certificates and keys of a deployment: one folder for the server, one for each client's site.

    ca.crt ca.key            the authority; its key is needed only to renew, keep it off the server
    server.crt server.key    TLS of the SuperLink
    gateway/                 the folder that the gateway sees: the same certificate and key, the authority
    superexec.secret         between the SuperLink and the processes that run the ServerApp
    client-K/ca.crt          the authority again: this folder is all that a site needs
    client-K/supernode.key   the SuperNode's own key; supernode.pub is what the SuperLink registers
    client-K/superexec.secret

Keys are ECDSA P-384; SuperNode keys are in OpenSSH's format, as Flower reads them.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedloge.errors import InputError

# Names that every server certificate holds: loopback, and the services of docker-compose.yml.
NAMES = ("localhost", "127.0.0.1", "::1", "superlink", "gateway")
GATEWAY = "gateway"
"""The folder of what the gateway sees; it is mounted whole, so that a new certificate is seen."""
CA_DAYS = 3650
SERVER_DAYS = 365
SOON = timedelta(days=30)
"""So long before its end a certificate is to be renewed."""
# A site whose clock is a little behind must not refuse a certificate made a moment ago.
_BACKDATED = timedelta(hours=1)


@dataclass(frozen=True)
class Authority:
    """The deployment's own certificate authority."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def create(
    out: Path, clients: int, hosts: Sequence[str] = (), days: int = SERVER_DAYS, owner: int = -1
) -> None:
    """Make the folder of a deployment, with all its files or not at all.

    Parameters
    ----------
    out : folder to make; one that is not empty is refused.
    clients : client folders to make, client-0 .. client-(clients - 1).
    hosts : further names or addresses of the server, besides `NAMES`.
    days : lifetime of the server's certificate, 1 .. `CA_DAYS`.
    owner : user id that will own the private keys (needs root); -1: the caller's.

    Raises
    ------
    InputError
        The folder is not empty, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out} holds something already and keys are not overwritten; add a client with --add-client, "
            "renew the server's certificate with --renew-server, or name another folder"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            made = _new_authority()
            write(folder / "ca.crt", made.certificate.public_bytes(Encoding.PEM))
            write_private(folder / "ca.key", pem(made.key), owner=-1)
            _write_server(folder, made, [*NAMES, *hosts], days, owner)
            write_private(folder / "superexec.secret", secrets.token_bytes(32), owner)
            for client in range(clients):
                _write_client(folder, client, owner)
            folder.rename(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as exc:
        raise unwritable(out, exc) from None


def add_client(out: Path, client: int, *, replace: bool = False, owner: int = -1) -> None:
    """Make the folder of one more client, or with `replace` new keys for a client.

    Raises
    ------
    InputError
        `out` is not the folder of a deployment, or the client's folder exists and `replace` is false.
    """
    if not (out / "ca.crt").is_file():
        raise InputError(f"{out} holds no ca.crt; make the folder first, with --clients N")
    folder = out / f"client-{client}"
    if folder.exists() and not replace:
        raise InputError(
            f"{folder} exists already and keys are not overwritten; to rotate them give --replace too"
        )
    try:
        _write_client(out, client, owner)
    except OSError as exc:
        raise unwritable(folder, exc) from None


def renew_server(
    out: Path, hosts: Sequence[str] = (), days: int = SERVER_DAYS, owner: int = -1
) -> None:
    """Make a new server key and certificate by the same authority, for the old names and `hosts`.

    Raises
    ------
    InputError
        The authority's key or a certificate is missing or damaged.
    """
    known = authority(out)
    try:
        old = x509.load_pem_x509_certificate((out / "server.crt").read_bytes())
    except OSError as exc:
        raise InputError(
            f"{exc.filename} cannot be read ({exc.strerror}); it names the server"
        ) from None
    except ValueError as exc:
        raise InputError(f"{out}/server.crt is damaged ({exc}); restore a backup") from None
    try:
        _write_server(out, known, [*_names(old), *hosts], days, owner)
    except OSError as exc:
        raise unwritable(out, exc) from None


def authority(out: Path) -> Authority:
    """The authority of a deployment's folder.

    Raises
    ------
    InputError
        Its key or certificate is missing or damaged.
    """
    try:
        loaded = load_pem_private_key((out / "ca.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((out / "ca.crt").read_bytes())
    except FileNotFoundError as exc:
        raise InputError(
            f"{exc.filename} is not there; put the authority's key and certificate back for this"
        ) from None
    except OSError as exc:
        raise InputError(f"{exc.filename} cannot be read ({exc.strerror})") from None
    except (ValueError, TypeError) as exc:
        raise InputError(
            f"{out}: a key or certificate is damaged ({exc}); restore a backup"
        ) from None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise InputError(f"{out}/ca.key is no elliptic-curve key; restore a backup")
    return Authority(loaded, certificate)


def next_steps(out: Path, names: Iterable[str]) -> str:
    """What to do with the files that were made, as text for the terminal."""
    sites = "\n".join(
        f"  {out}/{name}: to its site; register {out}/{name}/supernode.pub" for name in names
    )
    return (
        f"{out}: keep ca.key off the server, it is needed only to renew.\n"
        f"{sites}\n"
        "Containers read the keys as user 49999: make them with --owner 49999 as root, or chown them.\n"
        "Next: docs/operator.md, 'First start'."
    )


def _new_authority() -> Authority:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedloge deployment authority")])
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, SHA384())
    )
    return Authority(key, certificate)


def leaf_certificate(
    known: Authority,
    key: ec.EllipticCurvePrivateKey,
    subject: str,
    names: Iterable[str],
    usages: Sequence[x509.ObjectIdentifier],
    days: int,
) -> x509.Certificate:
    """A certificate for a key, by a deployment's authority; it ends with the authority at the latest."""
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    alternatives = x509.SubjectAlternativeName([_general_name(n) for n in dict.fromkeys(names)])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(known.key.public_key())
    until = known.certificate.not_valid_after_utc
    return (
        _builder(named, known.certificate.subject, key.public_key(), days, until=until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(issuer, critical=False)
        .sign(known.key, SHA384())
    )


def _write_server(
    folder: Path, known: Authority, names: Iterable[str], days: int, owner: int
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH]
    certificate = leaf_certificate(known, key, "superlink", names, usages, days)
    (folder / GATEWAY).mkdir(exist_ok=True)
    (folder / GATEWAY).chmod(0o755)  # its only private file is the owner's alone
    for place in (folder, folder / GATEWAY):
        write_private(place / "server.key", pem(key), owner)
        write(place / "server.crt", certificate.public_bytes(Encoding.PEM))
    write(folder / GATEWAY / "ca.crt", (folder / "ca.crt").read_bytes())


def _write_client(out: Path, client: int, owner: int) -> None:
    folder = out / f"client-{client}"
    folder.mkdir(mode=0o700, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_private(folder / "supernode.key", private, owner)
    write(folder / "supernode.pub", public + f" client-{client}\n".encode())
    write_private(folder / "superexec.secret", secrets.token_bytes(32), owner)
    write(folder / "ca.crt", (out / "ca.crt").read_bytes())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    until: datetime | None = None,
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - _BACKDATED
    end = start + _BACKDATED + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(min(end, until) if until else end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(**used: bool) -> x509.KeyUsage:
    unused = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**(unused | used))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise InputError(
            f"--host {name!r}: expected a host name in ASCII or an IP address, without port"
        ) from None


def _names(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in extension.value]


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as text, unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write(path: Path, content: bytes) -> None:
    """Write a file that everybody may read, whole or not at all."""
    _replace(path, content, 0o644, owner=-1)


def write_private(path: Path, content: bytes, owner: int) -> None:
    """Write a file that `owner` alone may read; -1: the caller."""
    _replace(path, content, 0o600, owner)


def _replace(path: Path, content: bytes, mode: int, owner: int) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    # Created with its final mode, so that a key is never readable to others, even for a moment.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as f:
        f.write(content)
        os.fchmod(f.fileno(), mode)
        if owner >= 0:
            os.fchown(f.fileno(), owner, owner)
    temporary.replace(path)


def unwritable(path: Path, exc: OSError) -> InputError:
    """What a person is told where the disk refuses."""
    hint = "; --owner needs root" if isinstance(exc, PermissionError) else ""
    return InputError(f"{path} cannot be written ({exc.strerror}){hint}")
