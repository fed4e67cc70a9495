"""Runs sorted into rows (a method and its settings, over seeds) and sections of rows.

Tables and plots are made of these. Runs that are not like for like are refused unless allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fedloge.config import from_flat
from fedloge.config.tables import toml_value
from fedloge.errors import InputError, RunDirError, unknown_name
from fedloge.results.figure_rows import predictors
from fedloge.results.like_for_like import differences
from fedloge.results.recorded_run import JUDGED, RecordedRun, list_runs
from fedloge.results.settings import (
    Value,
    in_words,
    is_methods_own,
    known_keys,
    must_be_equal,
    settings,
)

SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class Row:
    """One method with its settings, with one run per seed.

    Attributes
    ----------
    label : the row's name, unique in its section.
    runs : in order of their seeds.
    """

    label: str
    runs: tuple[RecordedRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(run.config.seed for run in self.runs)

    @property
    def method(self) -> str:
        """The method's name."""
        return self.runs[0].method


@dataclass(frozen=True)
class Section:
    """Rows that are compared with each other.

    Attributes
    ----------
    setting : the keys by which the sections were split, and their values here.
    unlike : phrases that say in what the runs differ but should not; empty unless allowed.
    """

    setting: Mapping[str, Value | None]
    rows: list[Row]
    unlike: list[str]


def gather(
    paths: Sequence[Path],
    sweep: Path | None = None,
    where: Iterable[str] = (),
    *,
    up_to: int = 0,
) -> tuple[list[RecordedRun], tuple[str, ...]]:
    """Open runs by path, or all runs of a sweep; also returns the keys by which a sweep's tables are split.

    Parameters
    ----------
    paths : run folders.
    sweep : a sweep's folder; runs of it that have not begun are left out.
    where : ``key=value`` conditions that a run must meet.
    up_to : the round after which a longer run is cut; 0: none is.

    Raises
    ------
    InputError
        No run is left, or a condition is not ``key=value``.
    RunDirError
        A run cannot be opened, or was not evaluated after the round `up_to`.
    """
    if bool(paths) == (sweep is not None):
        raise InputError("give either run folders or --sweep FOLDER")
    _sweep_file.cache_clear()
    by: tuple[str, ...] = ()
    if sweep is not None:
        if not sweep.is_dir():
            raise RunDirError(f"{sweep}: no such folder; give the folder of a sweep")
        made = _sweep_file(sweep)
        order, by = list(made.get("runs", {})), tuple(made.get("by", ()))
        found = {path.name: path for path in list_runs(sweep)}
        paths = [
            found[name]
            for name in (*order, *(name for name in found if name not in order))
            if name in found
        ]
    runs = [RecordedRun.open(path) for path in paths]
    runs = [run.up_to(up_to) for run in runs] if up_to else runs
    known = known_keys(runs)
    for condition in where:
        key, value, text = _condition(condition, known)
        runs = [run for run in runs if settings(run).get(key) in (value, text)]
    if not runs:
        raise InputError(f"no run is left to show in {sweep or 'what was given'}")
    return runs, by


def group_runs(
    runs: Sequence[RecordedRun], by: Sequence[str] = (), *, allow_unequal: bool = False
) -> list[Section]:
    """Sort runs into sections (one for each setting of the keys `by`) and rows.

    Raises
    ------
    InputError
        Runs of a section are not like for like and `allow_unequal` is not set, a section
        holds the same run twice, or a key of `by` is unknown.
    """
    known = known_keys(runs)
    for key in by:
        if key not in known:
            raise InputError(f"--by: {unknown_name('key', key, known)}")
    of_setting: dict[tuple[Value | None, ...], list[RecordedRun]] = {}
    for run in runs:
        flat = settings(run)
        of_setting.setdefault(tuple(flat.get(key) for key in by), []).append(run)
    sections = []
    for values in sorted(of_setting, key=lambda values: [(v is not None, v) for v in values]):
        setting, inside = dict(zip(by, values, strict=True)), of_setting[values]
        unlike = differences(inside, over_seeds=True)
        if unlike and not allow_unequal:
            where = f"{setting_in_words(setting)}: " if setting else ""
            raise InputError(
                f"{where}not like for like: the runs differ in {'; '.join(unlike)}. Leave some out, "
                "split them with --by KEY, or show them anyway with --allow-unequal"
            )
        sections.append(Section(setting, _rows(inside), unlike))
    return sections


def find_row(rows: Sequence[Row], name: str) -> Row:
    """The row called `name`: its label, or its method where only one row has it.

    Raises
    ------
    InputError
        There is none, or more than one.
    """
    exact = [row for row in rows if row.label == name]
    alike = exact or [row for row in rows if row.method.lower() == name.lower()]
    if len(alike) > 1:
        several = ", ".join(repr(row.label) for row in alike)
        raise InputError(f"{name!r} is not one row but {several}; give the label of one")
    if not alike:
        raise InputError(unknown_name("row", name, [row.label for row in rows]))
    return alike[0]


def shown_rows(section: Section, texts: Sequence[str]) -> Section:
    """The section with only the rows that are named, in this order (see `shown_row`); with all if none is.

    Raises
    ------
    InputError
        There is no such row, it has no such model, or two rows are called the same.
    """
    rows = [shown_row(section.rows, text) for text in texts]
    labels = [row.label for row in rows]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise InputError(f"--row: two rows are called {twice[0]!r}; call one by =LABEL behind it")
    return replace(section, rows=rows) if rows else section


def shown_row(rows: Sequence[Row], text: str) -> Row:
    """The row that ``NAME``, ``NAME (MODEL)`` or either with ``=LABEL`` behind it means.

    With a model the row is judged by that one, on the sides that have it; two are the global and the personal
    one. With a label it is called so.

    Raises
    ------
    InputError
        There is no such row, or it has no such model.
    """
    if any(row.label == text for row in rows):
        return find_row(rows, text)
    given, _, label = text.partition("=")
    named = re.fullmatch(r"(.+) \(([^()]+)\)", given)
    if named is None or any(row.label == given for row in rows):
        row = find_row(rows, given)
        return replace(row, label=label or row.label)
    row, wanted = find_row(rows, named[1]), [name.strip() for name in named[2].split(",")]
    known = {side: {m for run in row.runs for m in predictors(run, side)} for side in JUDGED}
    if len(wanted) == 1:
        models = {side: wanted[0] for side, found in known.items() if wanted[0] in found}
    elif len(wanted) == len(JUDGED):
        models = dict(zip(JUDGED, wanted, strict=True))
    else:
        raise InputError(
            f"--row {text!r}: expected one model, or two, global and personal; got {len(wanted)}"
        )
    for side, model in models.items():
        if model not in known[side]:
            raise InputError(
                f"--row {text!r}: {unknown_name(f'{side} model', model, sorted(known[side]))}"
            )
    if not models:
        every = sorted(set().union(*known.values()))
        raise InputError(f"--row {text!r}: {unknown_name('model', wanted[0], every)}")
    runs = tuple(run.judged_by(models) for run in row.runs)
    return replace(row, label=label or given, runs=runs)


def setting_in_words(setting: Mapping[str, Value | None]) -> str:
    """Keys and their values, for a heading."""
    return ", ".join(in_words(key, value) for key, value in setting.items())


@cache
def display_name(method: str) -> str:
    """A method's name as papers write it; a user's own method by its own name.

    >>> display_name("fedloge"), display_name("my-method")
    ('FedLoGe', 'my-method')
    """
    # Methods need torch, which takes a second to import.
    from fedloge.methods import METHODS

    return METHODS[method].__name__ if method in METHODS else method


def _rows(runs: Sequence[RecordedRun]) -> list[Row]:
    """Runs that differ only in their seed make a row; rows keep the order in which they first came."""
    found: dict[tuple[object, ...], list[RecordedRun]] = {}
    for run in runs:
        found.setdefault(_identity(run), []).append(run)
    for alike in found.values():
        seeds = [run.config.seed for run in alike]
        twice = [run for run in alike if seeds.count(run.config.seed) > 1]
        if twice:
            raise InputError(
                f"{twice[0].path} and {twice[1].path} are the same run twice (seed "
                f"{twice[0].config.seed}); leave one out"
            )
    labels = _labels([alike[0] for alike in found.values()])
    return [
        Row(label, tuple(sorted(alike, key=lambda run: run.config.seed)))
        for label, alike in zip(labels, found.values(), strict=True)
    ]


def _identity(run: RecordedRun) -> tuple[object, ...]:
    flat = settings(run)
    weighty = ((k, v) for k, v in flat.items() if is_methods_own(k) or must_be_equal(k))
    return (_given_label(run), *weighty)


def _labels(runs: Sequence[RecordedRun]) -> list[str]:
    """A label for each row's first run: the sweep's label or the method, and the settings that set it apart."""
    default = from_flat({}).flat()
    stems = [_given_label(run) or display_name(run.method) for run in runs]
    flats = [settings(run) for run in runs]
    known = known_keys(runs)
    # The method's own keys first: they are what one compares.
    keys = [key for key in known if is_methods_own(key) and key != "method"]
    keys += [key for key in known if must_be_equal(key)]
    labels = []
    for flat, stem in zip(flats, stems, strict=True):
        alike = [other for other, name in zip(flats, stems, strict=True) if name == stem]
        own = [
            in_words(key, flat[key])
            for key in keys
            if key in flat
            and flat[key] != default.get(key)
            and any(other.get(key) != flat[key] for other in alike)
        ]
        labels.append(", ".join([stem, *own]))
    # Rows that no key tells apart (two methods of one name) get the name of their first run.
    return [
        label if labels.count(label) == 1 else f"{label} ({run.name})"
        for label, run in zip(labels, runs, strict=True)
    ]


def _given_label(run: RecordedRun) -> str:
    planned = _sweep_file(run.path.parent).get("runs", {}).get(run.path.name, {})
    return str(planned.get("label", ""))


@cache
def _sweep_file(folder: Path) -> dict[str, Any]:
    path = folder / SWEEP_FILE
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
        return content
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise RunDirError(f"{path}: damaged ({exc}); run the sweep again to mend it") from None


def _condition(text: str, known: Sequence[str]) -> tuple[str, Any, str]:
    """Key, value as TOML reads it, and value as written, of ``key=value``."""
    key, sep, value = (part.strip() for part in text.partition("="))
    if not sep or not value:
        raise InputError(f"--where {text!r}: expected key=value, for example --where seed=0")
    if key not in known:
        raise InputError(f"--where: {unknown_name('key', key, known)}")
    return key, toml_value(value), value
