"""Config keys and their values as a sweep file gives them, and the names of runs made of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedloge.config import TABLES, Config, Scalar, keys
from fedloge.config.keys import unknown_key
from fedloge.config.tables import flattened
from fedloge.digest import digest
from fedloge.errors import ConfigError
from fedloge.sweeps.plan import PlannedRun

# The sweep itself decides where its runs go.
RESERVED = ("name", "runs-dir", "resume", "from-round")


def dotted(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table's options by dotted keys, ``method-options.mu``, so that each may be varied."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        is_table = key in TABLES and isinstance(value, dict)
        flat.update(flattened(value, key) if is_table else {key: value})
    return flat


def checked_values(path: Path, key: str, value: Any) -> list[Scalar]:
    """The values that a key is to have, one or a list of them; `ConfigError` if they cannot be."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{path}: {key}: the list is empty; give it values or leave it out")
    for one in values:
        if not isinstance(one, (str, int, float, bool)):
            raise ConfigError(f"{path}: {key}: expected single values, got {one!r}")
        if values.count(one) > 1:
            raise ConfigError(f"{path}: {key}: {one!r} stands there twice; leave one out")
    return values


def check_key(path: Path, part: str, key: str) -> None:
    """Raise `ConfigError` if a part of the file may not have this config key."""
    if key in RESERVED and not (part == "base" and key == "runs-dir"):
        raise ConfigError(f"{path}: {part}: {key}: a sweep says this itself; leave it out")
    if key.partition(".")[0] not in keys():
        raise ConfigError(f"{path}: {part}: {unknown_key(key)}")


def short_method(flat: Mapping[str, Any]) -> str:
    """The method of a configuration, without the module or file that it comes from."""
    return str(flat.get("method", Config().method)).rpartition(":")[2].rpartition(".")[2]


def run_name(label: str, flat: Mapping[str, Scalar], varied: Mapping[str, Scalar]) -> str:
    """A folder's name from the label or method, and the values that vary, the seed last."""
    parts = [_slug(label or short_method(flat)) or "run"]
    parts += [
        _slug(f"{key.rpartition('.')[2]}{value}")
        for key, value in varied.items()
        if key not in ("method", "seed")
    ]
    parts += [f"seed{varied['seed']}"] if "seed" in varied else []
    name = "-".join(part for part in parts if part)
    return name if len(name) <= 100 else f"{name[:83]}-{digest(name.encode())}"


def check_names(path: Path, runs: Iterable[PlannedRun]) -> None:
    """Raise `ConfigError` if two runs would have one folder."""
    names: set[str] = set()
    for run in runs:
        if run.name in names:
            raise ConfigError(
                f"{path}: two runs would be called {run.name!r}; give the [[method]] tables a "
                "label each"
            )
        names.add(run.name)


def check_distinct(path: Path, runs: Iterable[PlannedRun]) -> None:
    """Raise `ConfigError` if two runs would compute the same."""
    configs: dict[str, str] = {}
    for run in runs:
        same = configs.setdefault(run.config.fingerprint(), run.name)
        if same != run.name:
            raise ConfigError(f"{path}: {same!r} and {run.name!r} are the same run; drop one")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.").lower()
