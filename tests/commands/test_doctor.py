from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from fedloge.commands import certificates as certs
from fedloge.commands import client_certificates, doctor


def findings() -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.examine()}


def test_a_working_installation_has_nothing_bad(tmp_path: Path) -> None:
    found = findings()
    assert {"python", "torch", "flwr", "processor", "gpu", "cache", "disk"} <= found.keys()
    assert [f for f in found.values() if f.state == "bad"] == []
    assert found["cache"].found == os.environ["FEDLOGE_CACHE"]


def test_a_missing_package_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.version

    def version(name: str) -> str:
        if name == "ray":
            raise doctor.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    assert findings()["ray"] == doctor.Finding("ray", "bad", "not installed; pip install ray")


def test_another_flower_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "1.50.0")
    assert findings()["flwr"].state == "warn"


def test_a_cache_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDLOGE_CACHE", str(tmp_path / "file/cache"))
    cache = findings()["cache"]
    assert cache.state == "warn" and "not writable" in cache.found


def of(secrets: Path) -> dict[str, doctor.Finding]:
    return {f.what: f for f in [*doctor._certificates(secrets), *doctor._keys(secrets)]}


def test_certificates_are_warned_of_thirty_days_before_they_end(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    certs.create(folder, clients=1, days=29)
    client_certificates.ask_for_certificates(folder, days=31)
    found = of(folder)
    assert {name: f.state for name, f in found.items()} == {
        "ca.crt": "ok",
        "server.crt": "warn",
        "gateway/ca.crt": "ok",
        "gateway/server.crt": "warn",
        "client-0/ca.crt": "ok",
        "client-0/site.crt": "ok",
    }
    said = found["server.crt"].found
    assert "ends in 28 days" in said and "fedloge certs --renew-server" in said
    # What a site has is its own folder.
    assert of(folder / "client-0").keys() == {"ca.crt", "site.crt"}


def test_certificates_that_have_ended_or_are_damaged_and_open_keys_are_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "secrets"
    with monkeypatch.context() as past:
        past.setattr(certs, "_BACKDATED", timedelta(days=3))
        past.setattr(certs, "SERVER_DAYS", -1)
        certs.create(folder, clients=1, days=-1)
    (folder / "client-0" / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    (folder / "server.key").chmod(0o640)
    found = of(folder)
    assert found["server.crt"].state == "bad" and "ended on" in found["server.crt"].found
    assert found["client-0/ca.crt"].state == "bad"
    assert found["server.key"].state == "bad" and "chmod 600" in found["server.key"].found
    assert found["ca.crt"].state == "ok"
    (nothing,) = of(tmp_path / "elsewhere").values()
    assert nothing.state == "bad" and "is it the folder of keys?" in nothing.found
