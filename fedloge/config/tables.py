"""Tables of options: as a config keeps them, and as the text that Flower transports."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from fedloge.errors import ConfigError

Scalar = str | int | float | bool

OWNERS = {
    "method": "method-options",
    "model": "model-options",
    "train-part": "train-part-options",
    "partitioner": "partitioner-options",
    "long-tail": "long-tail-options",
}
"""Keys that name something with options, and the table of these: another name leaves them behind."""

# Keys of earlier versions, and what has replaced them.
MOVED = {
    "gamma": "method-options.gamma",
    "sparsity": "method-options.sparsity",
    "prototypes": "method-options.prototypes",
    "personal-realignment": "method-options.personal-realignment",
    "local-loss": "method-options.loss",
    "local-loss-options": "method-options.loss-options",
    "post-hoc": "method-options.post-hoc",
    "dirichlet-alpha": "partitioner-options.alpha",
    "classes": "partitioner-options.classes",
    "share-class-counts": "partitioner-options.share-class-counts",
    "cuda-graphs": "fast",
}


def refused_partitioner(name: str) -> str:
    """What to write in place of a partitioner of an earlier version; empty for any other name."""
    if name != "user":
        return ""
    return (
        "partitioner 'user' is 'natural' now, and takes the users from the data set's own table: set "
        "partitioner=natural, and partitioner-options.by=COLUMN where the column is not the site"
    )


def flattened(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a table and the tables in it."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}", value


def merged(table: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """A copy of a table with one value set, by its path of keys."""
    key, *rest = path
    if not rest:
        return {**table, key: value}
    inner = table.get(key)
    return {**table, key: merged(inner if isinstance(inner, Mapping) else {}, rest, value)}


def check_table(table: Mapping[str, Any]) -> None:
    """Raise ValueError, with the key, for a value that TOML or a message cannot represent."""
    for key, value in table.items():
        if not isinstance(key, str) or not key or "." in key:
            raise ValueError(f"expected names without dots for keys, got {key!r}")
        if isinstance(value, Mapping):
            check_table(value)
            continue
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, Scalar):
                kind = type(item).__name__
                raise ValueError(f"{key}: expected text, numbers, true or false, got a {kind}")
            if isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"{key}: expected a finite number, got {item}")


def table_text(table: Mapping[str, Any]) -> str:
    """A table as one JSON string, since Flower transports only scalars; "" for an empty table."""
    return json.dumps(table, sort_keys=True) if table else ""


def table_of(text: str, where: str) -> dict[str, Any]:
    """Read a table from a string: JSON, or ``mu = 0.1, name = "x"`` with or without braces.

    Words need no quotes. Raises `ConfigError` for anything else.
    """
    text = text.strip()
    if not text:
        return {}
    inner = text if text.startswith("{") else f"{{{text}}}"
    try:
        value = json.loads(inner)
    except ValueError:
        try:
            value = tomllib.loads(f"v = {inner}")["v"]
        except tomllib.TOMLDecodeError:
            return _plain_items(text, where)
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected key = value, key = value, got {text!r}")
    return value


def _plain_items(text: str, where: str) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, sep, value = item.partition("=")
        if not sep or not key.strip() or not value.strip():
            raise ConfigError(f'{where}: expected "key = value, key = value", got {item!r}')
        table[key.strip()] = toml_value(value.strip())
    return table


def toml_value(text: str) -> Any:
    """A value as TOML reads it; text that is not valid TOML is taken as a word without quotes."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def without_left_options(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without the options of a method, model or partitioner that `changes` puts another in place of."""
    left = {
        table
        for owner, table in OWNERS.items()
        if owner in changes and owner in values and changes[owner] != values[owner]
    }
    return {k: v for k, v in values.items() if k.partition(".")[0] not in left}
