"""Reading a config from a recipe, from ``--set`` on the command line, or from Flower's run config."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedloge.config.keys import TABLES, Config, checked, keys, unknown_key
from fedloge.config.tables import merged, table_of, toml_value, without_left_options
from fedloge.errors import ConfigError, InputError


def from_flat(values: Mapping[str, Any], source: str = "config") -> Config:
    """Build a config from kebab-case keys; tables may be mappings, dotted keys or strings.

    Raises
    ------
    ConfigError
        One line naming the first wrong key or value, what was expected and what came.
    """
    nested: dict[str, Any] = {}
    for key, value in values.items():
        top, *path = key.split(".")
        if top not in keys() or (path and top not in TABLES):
            raise ConfigError(f"{source}: {unknown_key(key)}")
        if path:
            nested[top] = merged(nested.get(top, {}), path, value)
        elif top in TABLES and isinstance(value, str):
            nested[top] = table_of(value, f"{source}: {top}")
        else:
            nested[top] = value
    return checked(nested, source)


def load(path: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe (TOML) and apply ``key=value`` overrides; without a path: the defaults.

    An override by another method, model or partitioner leaves the recipe's options of it behind.

    Raises
    ------
    ConfigError
        The file is missing or not valid TOML, or a key or value is wrong.
    """
    values: dict[str, Any] = read_toml(Path(path)) if path is not None else {}
    given = parse_overrides(overrides)
    if path is not None:
        values = without_left_options(values, given)
    for key, value in given.items():
        top, *rest = key.split(".")
        if rest:
            before = values.get(top, {})
            values[top] = merged(before if isinstance(before, Mapping) else {}, rest, value)
        else:
            values[top] = value
    return from_flat(values, source=str(path) if path else "config")


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Config keys and values from ``key=value`` items; only the keys are checked here.

    A key of a table is dotted, ``method-options.mu=0.1``. Raises `ConfigError` for an item
    of another form or an unknown key.
    """
    values: dict[str, Any] = {}
    for item in overrides:
        key, sep, text = item.partition("=")
        key, text = key.strip(), text.strip()
        if not sep or not key:
            raise ConfigError(f"--set {item!r}: expected key=value, for example --set lr=0.01")
        top, *rest = key.split(".")
        if top not in keys() or (rest and top not in TABLES) or not all([top, *rest]):
            raise ConfigError(f"--set: {unknown_key(key)}")
        if rest:
            values[key] = toml_value(text)
        elif top in TABLES:
            values[key] = table_of(text, f"--set {top}")
        else:
            values[key] = _parse_value(top, text)
    return values


def read_toml(path: Path, what: str = "recipe") -> dict[str, Any]:
    """The content of a TOML file; `ConfigError` in one line where there is none to read."""
    try:
        with path.open("rb") as f:
            return tomllib.load(f)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what}; give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML ({exc})") from None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})") from None


def read_json(path: Path, what: str, expected: str, error: type[InputError]) -> Any:
    """The content of a JSON file that a user names, of any form.

    Parameters
    ----------
    what : the file is, for the message.
    expected : what should be there instead.
    error : is raised, in one line, where there is none to read.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as exc:
        reason = f"cannot be read from {Path.cwd()} ({exc.strerror})"
    except (ValueError, RecursionError) as exc:
        reason = f"is not valid JSON ({exc})"
    raise error(f"{what}: {path} {reason}; expected {expected}")


def _parse_value(key: str, text: str) -> Any:
    field = Config.model_fields[key.replace("-", "_")]
    # The text of a string key is not parsed: a path called "1e3" is no number.
    return text.strip("'\"") if isinstance(field.default, str) else toml_value(text)
