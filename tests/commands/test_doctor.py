from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedloge.commands import doctor


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
