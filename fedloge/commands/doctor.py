"""Checks of this machine and installation, for what would stop a run."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from cryptography import x509

from fedloge.commands.certificates import SOON
from fedloge.errors import in_one_line
from fedloge.folders import cache_folder

TESTED_FLOWER = "1.41"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    state: Literal["ok", "warn", "bad"]
    found: str


def examine(secrets: Path | None = None) -> list[Finding]:
    """Check interpreter, packages, processors, Flower, cache and disk.

    Parameters
    ----------
    secrets : folder of a deployment's keys, or of a site's part of it; its certificates and the modes
        of its keys are checked. None: none are.
    """
    findings = [_python(), *_packages(), _torch(), _gpu(), _flower(), _cache(), _disk()]
    return findings if secrets is None else findings + _certificates(secrets) + _keys(secrets)


def _certificates(secrets: Path) -> list[Finding]:
    """When each certificate ends; a warning where it is within `SOON`."""
    paths = sorted(secrets.rglob("*.crt"))
    if not paths:
        return [Finding("certificates", "bad", f"no *.crt in {secrets}; is it the folder of keys?")]
    findings = []
    for path in paths:
        name = str(path.relative_to(secrets))
        try:
            end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
        except (OSError, ValueError) as exc:
            findings.append(Finding(name, "bad", f"cannot be read ({in_one_line(exc)})"))
            continue
        left = end - datetime.now(UTC)
        if left < timedelta(0):
            findings.append(Finding(name, "bad", f"ended on {end:%Y-%m-%d}; {_renewal(path)}"))
        elif left < SOON:
            days = f"in {left.days} days, on {end:%Y-%m-%d}"
            findings.append(Finding(name, "warn", f"ends {days}; {_renewal(path)}"))
        else:
            findings.append(Finding(name, "ok", f"until {end:%Y-%m-%d}"))
    return findings


def _renewal(path: Path) -> str:
    option = {"server.crt": "--renew-server", "site.crt": "--client-certificates"}.get(path.name)
    how = (
        f"fedloge certs {option}" if option else "a new authority means a new folder for everybody"
    )
    return f"{how} (docs/operator.md, 'Rotating keys')"


def _keys(secrets: Path) -> list[Finding]:
    """Private keys that others than their owner may read."""
    private = [path for end in ("*.key", "*.secret") for path in secrets.rglob(end)]
    open_to_others = [path for path in sorted(private) if path.stat().st_mode & 0o077]
    return [
        Finding(str(path.relative_to(secrets)), "bad", f"others may read it; chmod 600 {path}")
        for path in open_to_others
    ]


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    return Finding(
        "python", "ok" if good else "bad", f"{platform.python_version()} (needs 3.11 or newer)"
    )


def _packages() -> list[Finding]:
    findings = []
    for name in ("fedloge", "torch", "torchvision", "numpy", "ray", "safetensors"):
        try:
            findings.append(Finding(name, "ok", version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, "bad", f"not installed; pip install {name}"))
    return findings


def _torch() -> Finding:
    # torch takes seconds to import, and may itself be broken.
    import torch

    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    capability = torch.backends.cpu.get_cpu_capability()
    return Finding("processor", "ok", f"{cores} cores usable, {capability} kernels")


def _gpu() -> Finding:
    # For start-up time.
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", "ok", "none; runs use the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("gpu", "ok", ", ".join(names))


def _flower() -> Finding:
    installed = version("flwr")
    good = installed.startswith(f"{TESTED_FLOWER}.")
    return Finding("flwr", "ok" if good else "warn", f"{installed} (tested with {TESTED_FLOWER})")


def _cache() -> Finding:

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as exc:
        return Finding(
            "cache",
            "warn",
            f"{folder} is not writable ({exc.strerror}); archives are decoded each time",
        )
    return Finding("cache", "ok", str(folder))


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding("disk", "ok" if free > 2 else "warn", f"{free:.1f} GiB free here")
