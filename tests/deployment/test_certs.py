"""Certificates and keys: the chain holds, names and lifetimes are right, nothing is overwritten."""

from __future__ import annotations

import ipaddress
import os
import shutil
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fedloge.commands import certificates as certs
from fedloge.commands import client_certificates as of_clients
from fedloge.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "secrets"
    certs.create(out, clients=2, hosts=["fl.example.org", "10.0.0.7"])
    return out


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def verify(folder: Path, name: x509.DNSName | x509.IPAddress, at: datetime | None = None) -> None:
    """The web's rules for a server certificate, as cryptography's own verifier has them."""
    policy = PolicyBuilder().store(Store([certificate(folder / "ca.crt")]))
    if at:
        policy = policy.time(at)
    policy.build_server_verifier(name).verify(certificate(folder / "server.crt"), [])


@pytest.mark.parametrize("name", ["localhost", "superlink", "gateway", "fl.example.org"])
def test_the_server_is_trusted_under_every_name(folder: Path, name: str) -> None:
    verify(folder, x509.DNSName(name))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.7"])
def test_the_server_is_trusted_under_every_address(folder: Path, address: str) -> None:
    verify(folder, x509.IPAddress(ipaddress.ip_address(address)))


def test_another_name_is_refused(folder: Path) -> None:
    with pytest.raises(VerificationError):
        verify(folder, x509.DNSName("elsewhere.example.org"))


def test_another_authority_does_not_vouch_for_the_server(folder: Path, tmp_path: Path) -> None:
    certs.create(tmp_path / "other", clients=1)
    (folder / "ca.crt").write_bytes((tmp_path / "other" / "ca.crt").read_bytes())
    with pytest.raises(VerificationError):
        verify(folder, x509.DNSName("localhost"))


def test_lifetimes(folder: Path) -> None:
    now = datetime.now(UTC)
    server, ca = certificate(folder / "server.crt"), certificate(folder / "ca.crt")
    assert abs(server.not_valid_after_utc - now - timedelta(days=365)) < timedelta(minutes=5)
    assert abs(ca.not_valid_after_utc - now - timedelta(days=3650)) < timedelta(minutes=5)
    assert timedelta(minutes=30) < now - server.not_valid_before_utc < timedelta(hours=2)
    verify(folder, x509.DNSName("localhost"), at=now + timedelta(days=364))
    with pytest.raises(VerificationError):
        verify(folder, x509.DNSName("localhost"), at=now + timedelta(days=366))


def test_the_server_cannot_sign_certificates(folder: Path) -> None:
    server, ca = certificate(folder / "server.crt"), certificate(folder / "ca.crt")
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value == (
        x509.BasicConstraints(ca=True, path_length=0)
    )


def test_python_loads_them_for_tls(folder: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cafile=str(folder / "client-1" / "ca.crt"))
    assert client.get_ca_certs()[0]["notAfter"]


def test_keys_are_p384_and_each_is_its_own(folder: Path) -> None:
    keys = [
        load_pem_private_key((folder / f"{n}.key").read_bytes(), None) for n in ("ca", "server")
    ]
    keys += [
        load_ssh_private_key((folder / f"client-{k}" / "supernode.key").read_bytes(), None)
        for k in range(2)
    ]
    assert all(isinstance(key, ec.EllipticCurvePrivateKey) for key in keys)
    assert {key.curve.name for key in keys} == {"secp384r1"}
    assert len({key.private_numbers().private_value for key in keys}) == 4
    secrets = [folder / "superexec.secret", *folder.glob("client-*/superexec.secret")]
    assert len({path.read_bytes() for path in secrets}) == 3
    assert {path.stat().st_size for path in secrets} == {32}


def test_the_public_key_belongs_to_the_private_one(folder: Path) -> None:
    for k in range(2):
        private = load_ssh_private_key((folder / f"client-{k}/supernode.key").read_bytes(), None)
        line = (folder / f"client-{k}/supernode.pub").read_bytes()
        assert load_ssh_public_key(line) == private.public_key()
        assert line.startswith(b"ecdsa-sha2-nistp384 ") and line.endswith(f" client-{k}\n".encode())


def test_only_the_owner_reads_private_keys(tmp_path: Path) -> None:
    before = os.umask(0)  # the modes must not hang on the caller's umask
    try:
        certs.create(tmp_path / "s", clients=1)
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path / "s")): stat.S_IMODE(path.stat().st_mode)
        for path in [tmp_path / "s", *(tmp_path / "s").rglob("*")]
    }
    assert modes == {
        ".": 0o700,
        "ca.crt": 0o644,
        "ca.key": 0o600,
        "server.crt": 0o644,
        "server.key": 0o600,
        "gateway": 0o755,
        "gateway/ca.crt": 0o644,
        "gateway/server.crt": 0o644,
        "gateway/server.key": 0o600,
        "superexec.secret": 0o600,
        "client-0": 0o700,
        "client-0/ca.crt": 0o644,
        "client-0/supernode.key": 0o600,
        "client-0/supernode.pub": 0o644,
        "client-0/superexec.secret": 0o600,
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_keys_that_containers_read_go_to_their_user(tmp_path: Path) -> None:
    certs.create(tmp_path / "s", clients=1, owner=49999)
    owned = {str(p.relative_to(tmp_path / "s")) for p in (tmp_path / "s").rglob("*")}
    owned = {name for name in owned if (tmp_path / "s" / name).stat().st_uid == 49999}
    assert owned == {
        "server.key",
        "gateway/server.key",
        "superexec.secret",
        "client-0/supernode.key",
        "client-0/superexec.secret",
    }


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_keys_are_not_overwritten(folder: Path) -> None:
    before = snapshot(folder)
    with pytest.raises(InputError, match="not overwritten"):
        certs.create(folder, clients=2)
    with pytest.raises(InputError, match="client-1 exists already"):
        certs.add_client(folder, 1)
    assert snapshot(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_client_is_added_beside_the_others(folder: Path) -> None:
    before = snapshot(folder)
    certs.add_client(folder, 2)
    after = snapshot(folder)
    new = {name for name in after if name.startswith("client-2/")}
    assert len(new) == 4 and after["client-2/ca.crt"] == after["ca.crt"]
    assert {name: after[name] for name in after.keys() - new} == before


def test_a_clients_keys_are_rotated_when_told(folder: Path) -> None:
    before = snapshot(folder)
    certs.add_client(folder, 1, replace=True)
    after = snapshot(folder)
    changed = {name for name in after if before[name] != after[name]}
    assert changed == {
        f"client-1/{n}" for n in ("supernode.key", "supernode.pub", "superexec.secret")
    }


def test_renewal_keeps_names_and_authority(folder: Path) -> None:
    before = snapshot(folder)
    certs.renew_server(folder, hosts=["new.example.org"], days=30)
    after = snapshot(folder)
    renewed = {"server.key", "server.crt", "gateway/server.key", "gateway/server.crt"}
    assert {n for n in after if before[n] != after[n]} == renewed
    assert after["gateway/server.crt"] == after["server.crt"]
    for name in ("fl.example.org", "new.example.org", "superlink"):
        verify(folder, x509.DNSName(name))
    left = certificate(folder / "server.crt").not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)


def test_no_certificate_outlives_its_authority(folder: Path) -> None:
    certs.renew_server(folder, days=9999)
    server, ca = certificate(folder / "server.crt"), certificate(folder / "ca.crt")
    assert server.not_valid_after_utc == ca.not_valid_after_utc


def test_renewal_without_the_authoritys_key_says_so(folder: Path) -> None:
    (folder / "ca.key").unlink()
    with pytest.raises(InputError, match=r"ca\.key is not there"):
        certs.renew_server(folder)


def test_a_damaged_authority_is_named(folder: Path) -> None:
    (folder / "ca.key").write_bytes(
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )
    with pytest.raises(InputError, match="damaged"):
        certs.renew_server(folder)


def test_every_site_gets_a_certificate_and_only_those_that_need_one_a_new_one(folder: Path) -> None:
    assert of_clients.ask_for_certificates(folder, days=365) == ["client-0", "client-1"]
    before = snapshot(folder)
    site, key = (folder / "client-1" / name for name in ("site.crt", "site.key"))
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    certificate(site).verify_directly_issued_by(certificate(folder / "ca.crt"))
    usages = certificate(site).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    # It vouches for a site's own door, and for no name of the server.
    names = certificate(site).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["door", "localhost"]

    assert of_clients.ask_for_certificates(folder, days=365) == []
    assert snapshot(folder) == before
    certs.add_client(folder, 2)
    site.unlink()
    assert of_clients.ask_for_certificates(folder, days=20) == ["client-1", "client-2"]
    # Those that end soon are renewed.
    assert of_clients.ask_for_certificates(folder, days=365) == ["client-1", "client-2"]


def test_revoked_certificates_stay_revoked(folder: Path) -> None:
    of_clients.ask_for_certificates(folder, days=365)
    serials = []
    for k in (1, 0):
        serials.append(certificate(folder / f"client-{k}/site.crt").serial_number)
        of_clients.revoke(folder, k)
    revoked = x509.load_pem_x509_crl((folder / "gateway/ca.crl").read_bytes())
    key = certificate(folder / "ca.crt").public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and revoked.is_signature_valid(key)
    assert [entry.serial_number for entry in revoked] == serials
    # A list that has ended would shut everybody out.
    assert revoked.next_update_utc == certificate(folder / "ca.crt").not_valid_after_utc
    of_clients.ask_for_certificates(folder, days=365)
    assert len(list(x509.load_pem_x509_crl((folder / "gateway/ca.crl").read_bytes()))) == 2


def test_what_is_missing_for_client_certificates_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--client-certificates"):
        of_clients.revoke(folder, 0)
    shutil.rmtree(folder / "gateway")
    with pytest.raises(InputError, match="--renew-server makes it"):
        of_clients.ask_for_certificates(folder, days=1)
    certs.renew_server(folder)
    of_clients.ask_for_certificates(folder, days=1)
    (folder / "ca.key").unlink()
    with pytest.raises(InputError, match=r"ca\.key is not there"):
        of_clients.revoke(folder, 0)


def test_a_host_that_is_no_name_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--host"):
        certs.create(tmp_path / "s", clients=1, hosts=["bücher.example"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_authority_takes_no_client(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no ca\.crt"):
        certs.add_client(tmp_path, 0)
