"""Checks of this machine and installation, for what would stop a run."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from fedloge.folders import cache_folder

TESTED_FLOWER = "1.41"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    state: Literal["ok", "warn", "bad"]
    found: str


def examine() -> list[Finding]:
    """Check interpreter, packages, processors, Flower, cache and disk."""
    return [_python(), *_packages(), _torch(), _gpu(), _flower(), _cache(), _disk()]


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
