"""Tables of examples as people have them: CSV files whose columns go by many names."""

from __future__ import annotations

import csv
import gzip
import io
import logging
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from fedloge.data.manifest import ROLES, Manifest, column_name
from fedloge.errors import ConfigError, DataError, unknown_name

log = logging.getLogger(__name__)

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "path": (
        *("path", "file_name", "filename", "file", "filepath"),
        *("image_path", "image", "image_name", "img", "image_index"),
    ),
    "id": ("id", "image_id", "id_code", "photo_id"),
    "label": (
        *("label", "class", "target", "y", "category_id", "category"),
        *("species", "taxon_id", "dx", "diagnosis"),
    ),
    "site": (
        *("site", "client", "user_id", "user", "center", "centre", "hospital", "institution"),
        *("location", "location_remapped", "observer_id", "rights_holder"),
    ),
    "split": ("split", "fold", "subset", "partition", "is_valid"),
    "group": (
        *("group", "lesion_id", "patient_id"),
        *("observation_uuid", "sequence_remapped", "seq_id"),
    ),
}
"""For each role the column names that are taken for it; case does not matter, a blank is an underscore."""

# The header of Hsu et al. (2020): `class` numbers the classes 0, 1, ..., `label` is their number at the source.
_HSU = {"image_id", "class", "label"}

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_URL = "image_url"
_LONGEST_LINE = 1 << 20


def parse_columns(text: str) -> dict[str, str]:
    """The column of each role, from ``columns = "site = hospital, label = diagnosis"``.

    >>> parse_columns("site = Hospital, path = Image Index")
    {'site': 'hospital', 'path': 'image_index'}

    Raises
    ------
    ConfigError
        An item has another form, or names no role.
    """
    chosen: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        role, sep, name = (part.strip() for part in item.partition("="))
        if not sep or not role or not name:
            raise ConfigError(f'columns: expected "site = COLUMN, label = COLUMN", got {item!r}')
        if role not in ROLES:
            raise ConfigError(f"columns: {unknown_name('role', role, ROLES)}")
        if role in chosen:
            raise ConfigError(f"columns: {role!r} is given twice; leave one out")
        chosen[role] = column_name(name)
    return chosen


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> Manifest:
    """A CSV file as a manifest (`parsed_table`). `DataError`: it cannot be read, or is not what it should be."""
    try:
        with path.open("rb") as stream:
            return parsed_table(str(path), stream, columns or {})
    except OSError as exc:
        raise DataError(f"{path}: cannot be read as a table ({exc.strerror})") from None


def parsed_table(name: str, stream: IO[bytes], columns: Mapping[str, str]) -> Manifest:
    """A CSV table as a manifest: each column under its own name, and those of a role under the role's too.

    UTF-8 with or without a byte order mark; plain or gzip; comma, semicolon or tab, whichever its
    first line has most of. Between tabs a quote is an ordinary character unless it encloses the
    whole value. Empty lines are passed over. Text is brought into Unicode's composed form (NFC), so
    that two ways to write one name are one. Splits become ``train``, ``validation`` and ``test``.

    Parameters
    ----------
    name : of the table, for messages.
    stream : its bytes, with the names of the columns in the first line.
    columns : for some roles the column to take (`parse_columns`); for the others `SYNONYMS` decide.

    Raises
    ------
    DataError
        The table cannot be read, a line has too few or too many values, a column that `columns`
        names is missing, or several columns could be taken for one role.
    """
    try:
        header, rows = _parsed(name, _text_of(stream))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as exc:
        raise DataError(f"{name}: cannot be read as a table ({_reason(exc)})") from None
    names = [column_name(column) for column in header]
    if twice := {column for column in names if names.count(column) > 1}:
        raise DataError(f"{name}: two columns are called {min(twice)!r}; rename one")
    table = {column: values for column, values in zip(names, rows, strict=True) if column}
    return with_roles(name, table, columns)


def with_roles(
    name: str, table: Mapping[str, Sequence[str]], columns: Mapping[str, str]
) -> Manifest:
    """The manifest of a table's columns, as in `parsed_table`."""
    return Manifest({**table, **_roles(name, table, columns)})


def _text_of(stream: IO[bytes]) -> io.TextIOBase:
    """UTF-8 with or without a byte order mark, plain or gzip."""
    buffered = io.BufferedReader(stream)  # type: ignore[type-var]
    packed = buffered.peek(2)[:2] == b"\x1f\x8b"
    plain = gzip.GzipFile(fileobj=buffered) if packed else buffered
    return io.TextIOWrapper(plain, "utf-8-sig", newline="")


def _reason(exc: Exception) -> str:
    if isinstance(exc, UnicodeDecodeError):
        return f"byte {exc.start} is not UTF-8; save it as UTF-8"
    return (isinstance(exc, OSError) and exc.strerror) or str(exc)


def _parsed(path: str, file: io.TextIOBase) -> tuple[list[str], list[tuple[str, ...]]]:
    """The header, and the values of each column."""
    lines_read = iter(lambda: file.readline(_LONGEST_LINE), "")
    first = next((line for line in lines_read if line.strip()), "")
    if not first:
        raise DataError(f"{path}: an empty table; expected column names in its first line")
    delimiter = max(",;\t", key=first.count)
    if delimiter == "\t":
        lines: Iterator[list[str]] = (
            [_unquoted(value) for value in line.rstrip("\r\n").split("\t")]
            for line in _chained(first, file)
        )
    else:
        lines = csv.reader(_chained(first, file), delimiter=delimiter, strict=True)
    header = next(lines)
    known: dict[str, str] = {}  # one object for each distinct text: most columns repeat few
    columns: list[list[str]] = [[] for _ in header]
    for number, row in enumerate(lines, start=2):
        if not any(row):
            continue
        if len(row) != len(header):
            raise DataError(
                f"{path}: row {number} has {len(row)} values, expected {len(header)} as in its first line"
            )
        for values, text in zip(columns, row, strict=True):
            if (kept := known.get(text)) is None:
                kept = known.setdefault(text, unicodedata.normalize("NFC", text.strip()))
            values.append(kept)
    return header, [tuple(values) for values in columns]


def _chained(first: str, rest: io.TextIOBase) -> Iterator[str]:
    yield first
    while line := rest.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise csv.Error(f"a line of more than {_LONGEST_LINE} characters")
        yield line


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1].replace('""', '"')
    return value


def _roles(
    path: str, table: Mapping[str, Sequence[str]], columns: Mapping[str, str]
) -> dict[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {}
    for role in ROLES:
        name = columns.get(role) or _only_candidate(path, role, table)
        if name is None:
            continue
        if name not in table:
            raise DataError(f"{path}: {unknown_name('column', name, tuple(table))}")
        found[role] = table[name]
        if role == "split":
            found[role] = [split_name(value) for value in table[name]]
            if name == "is_valid":
                found[role] = _from_flags(path, table[name])
    if "path" not in found and _URL in table:
        # As iNaturalist's photos are named: .../photos/NUMBER/medium.jpg
        found["path"] = ["/".join(urlsplit(url).path.split("/")[-3:]) for url in table[_URL]]
    if "label" not in found and (one_hot := _one_hot(table)):
        log.info("%s: labels from the columns %s, one of which is 1", path, ", ".join(one_hot))
        found["label"] = [
            next(name for name, flag in zip(one_hot, row, strict=True) if float(flag))
            for row in zip(*(table[name] for name in one_hot), strict=True)
        ]
    return found


def _only_candidate(path: str, role: str, table: Mapping[str, Sequence[str]]) -> str | None:
    there = [name for name in SYNONYMS[role] if name in table]
    if role == "label" and set(table) in (_HSU, _HSU | {"user_id"}):
        return "class"
    if len(there) > 1:
        raise DataError(
            f"{path}: {' and '.join(map(repr, there))} could each be the {role}; say which with "
            f'columns = "{role} = {there[0]}"'
        )
    return there[0] if there else None


def split_name(value: str) -> str:
    """``train``, ``validation`` or ``test`` for any usual name of these; another name as it is.

    >>> [split_name(name) for name in ("Training", "val", "fold3")]
    ['train', 'validation', 'fold3']
    """
    usual = {name: split for split, names in _SPLITS.items() for name in names}
    return usual.get(value.strip().lower(), value)


def _from_flags(path: str, values: Sequence[str]) -> list[str]:
    flags = {"true": "validation", "1": "validation", "false": "train", "0": "train"}
    unknown = {value for value in values if value.lower() not in flags}
    if unknown:
        raise DataError(f"{path}: is_valid: expected true or false, got {min(unknown)!r}")
    return [flags[value.lower()] for value in values]


def _one_hot(table: Mapping[str, Sequence[str]]) -> list[str]:
    """The columns of 0 and 1 of which in every row exactly one is 1; [] if there are none such."""
    flags = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
    names = [name for name, values in table.items() if set(values) <= flags.keys()]
    sums = (sum(flags[v] for v in row) for row in zip(*(table[n] for n in names), strict=True))
    return names if len(names) > 1 and all(total == 1 for total in sums) else []
