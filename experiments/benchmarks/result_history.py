"""Results by commit: one JSON line per measurement, and the change since the last."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fedloge.errors import InputError

FORMAT = 1


def described(groups: dict[str, Any], load: list[float], *, quick: bool) -> dict[str, Any]:
    """A result with where and when it was measured; `load` is the machine's load average over time."""
    return {
        "format": FORMAT,
        "commit": commit(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "torch": torch.__version__,
            "vector-instructions": torch.backends.cpu.get_cpu_capability(),
            "python": platform.python_version(),
        },
        "load": load,
        "groups": groups,
    }


def commit() -> str:
    """The checked-out commit, with ``+`` if the tree differs from it; empty outside of a checkout."""
    here = Path(__file__).parent
    try:
        run = ["git", "-C", str(here)]
        name = subprocess.run(
            [*run, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        changes = subprocess.run(
            [*run, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name.stdout.strip() + ("+" if changes.stdout.strip() else "")


def append(path: Path, result: dict[str, Any]) -> None:
    """Add a line to the history; `InputError` if it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    except OSError as exc:
        raise InputError(
            f"{path} cannot be written ({exc.strerror}); choose another --out"
        ) from None


def last(path: Path, result: dict[str, Any]) -> dict[str, Any] | None:
    """The newest entry of the same machine and the same amount of work as `result`; None without one.

    Raises
    ------
    InputError
        The file holds other things than results of this format.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines]
        alike = [
            entry
            for entry in entries
            if entry["format"] == FORMAT
            and (entry["machine"], entry["quick"]) == (result["machine"], result["quick"])
        ]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no history of benchmarks; choose another --out") from None
    return alike[-1] if alike else None


def changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """For each case and ratio in both: now over before, and whether the middle halves do not overlap."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, group in now["groups"].items():
        earlier = before["groups"].get(name)
        if earlier is None:
            continue
        for kind in ("cases", "ratios"):
            for case, figures in group[kind].items():
                if case not in earlier[kind]:
                    continue
                old = earlier[kind][case]
                apart = figures["low"] > old["high"] or figures["high"] < old["low"]
                found.setdefault(name, {})[case] = {
                    "before": old["median"],
                    "now": figures["median"],
                    "change": figures["median"] / old["median"],
                    "apart": apart,
                }
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
