"""Rows of a table joined to files: by relative path or by name, never by position."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import splitext

from fedloge.data.images.file_tree import composed
from fedloge.data.manifest import Manifest
from fedloge.errors import DataError

log = logging.getLogger(__name__)


@dataclass
class LeftOut:
    """What does not fit together: for each kind of misfit the examples of it."""

    kinds: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """One more of a kind."""
        self.kinds.setdefault(kind, []).append(example)

    def said(self) -> str:
        """Counts and examples in a line."""
        return "; ".join(
            f"{len(found):,} {kind} ({', '.join(map(repr, found[:3]))}{', ...' if len(found) > 3 else ''})"
            for kind, found in self.kinds.items()
        )

    def settle(self, where: object, missing: str) -> None:
        """Raise `DataError` for what was found, or warn of it with ``missing = "skip"``."""
        if not self.kinds:
            return
        if missing != "skip":
            raise DataError(
                f'{where}: {self.said()}; mend the data, or leave these out with missing = "skip"'
            )
        log.warning("%s: left out: %s", where, self.said())


@dataclass(frozen=True)
class Table:
    """A table, and where its paths begin.

    Parameters
    ----------
    name : for messages.
    base : the folder within the tree that its paths are relative to, "" or with ``/`` at its end.
    rows : its columns.
    beside : whether it speaks only of images under `base`.
    """

    name: str
    base: str
    rows: Manifest
    beside: bool = False


class Names:
    """The files of a tree, found by what tables call them.

    Parameters
    ----------
    names : the files' names in the tree.
    root : the folder that all images lie in.
    """

    def __init__(self, names: Sequence[str], root: str) -> None:
        self._root = root
        self._all = set(names)
        self._by_last: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            last = name.rpartition("/")[2]
            self._by_last[last].append(name)
            self._by_stem[splitext(last)[0]].append(name)

    def find(self, key: str, base: str = "") -> Sequence[str]:
        """The files that a row may mean; one, if all is well.

        Tried in this order: the path from the table's own folder, from the images' folder, the end
        of a file's path, its name, its name without the suffix.
        """
        key = composed(key).replace("\\", "/").removeprefix("./").lstrip("/")
        for start in (base, self._root, ""):
            if start + key in self._all:
                return [start + key]
        last = key.rpartition("/")[2]
        named = self._by_last.get(last, ())
        if len(named) > 1 and "/" in key:
            return [name for name in named if name.endswith(f"/{key}")] or named
        return named or self._by_stem.get(last, ())


def joined(tables: Sequence[Table], names: Names, left: LeftOut) -> dict[str, Mapping[str, str]]:
    """For each file that a row speaks of, the row's columns; what does not fit goes to `left`."""
    rows: dict[str, Mapping[str, str]] = {}
    torn: set[str] = set()
    for table in tables:
        keys = _keys(table)
        columns = table.rows.columns
        for i, key in enumerate(keys):
            found = names.find(key, table.base)
            if len(found) != 1:
                kind = "rows that several files fit" if found else "rows without an image"
                left.add(kind, key)
                continue
            row = {name: values[i] for name, values in columns.items()}
            if found[0] not in rows:
                rows[found[0]] = row
                continue
            left.add("rows of an image that has a row already", key)
            if rows[found[0]] != row:
                torn.add(found[0])
    # Rows that contradict each other say nothing.
    return {name: row for name, row in rows.items() if name not in torn}


def fits(table: Table, names: Names) -> bool:
    """Whether any row speaks of a file."""
    if "path" not in table.rows and "id" not in table.rows:
        return False
    return any(names.find(key, table.base) for key in _keys(table))


def _keys(table: Table) -> Sequence[str]:
    for role in ("path", "id"):
        if role in table.rows:
            return table.rows.column(role)
    raise DataError(
        f"{table.name}: no column says which image a row is of, only {', '.join(table.rows.names)}; name it "
        'with columns = "path = COLUMN"'
    )
