"""Runs put side by side: a row a method and its settings, over seeds; unequal ones refused.

What tables and plots share. A comparison says something of methods only where data,
partition and budget are the same, so any key that is not a method's own must be equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fedloge.config import OPERATIONAL, Scalar, from_flat, keys
from fedloge.config import differences as config_differences
from fedloge.config.tables import toml_value
from fedloge.errors import InputError, RunDirError, unknown_name
from fedloge.results.run import Run, list_runs, open_run

# Keys that are a method's own or its tuning: they may differ, and then tell the rows apart.
METHOD_KEYS = ("method", "method-options", "norm-sharing", "lr", "momentum", "weight-decay")
# Last bits and fault tolerance: no reason to tell runs apart.
_WITHOUT_WEIGHT = (OPERATIONAL - {"rounds"}) | {"seed", "threads", "min-fraction"}
EQUAL_KEYS = tuple(k for k in keys() if k not in METHOD_KEYS and k not in _WITHOUT_WEIGHT)


def is_method_key(key: str) -> bool:
    """Whether a dotted key is a method's own."""
    return key.partition(".")[0] in METHOD_KEYS


def _is_equal_key(key: str) -> bool:
    return key.partition(".")[0] in EQUAL_KEYS


SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class Row:
    """One method with its settings, a run a seed.

    Attributes
    ----------
    label : what the row is called; unique in its section.
    runs : by rising seed.
    """

    label: str
    runs: tuple[Run, ...]

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
    """Rows that stand side by side.

    Attributes
    ----------
    setting : the keys by which the sections were told apart, and their values here.
    unlike : in what the runs differ that should be equal, a phrase each; empty unless allowed.
    """

    setting: Mapping[str, Scalar]
    rows: list[Row]
    unlike: list[str]


def gather(
    paths: Sequence[Path], sweep: Path | None = None, where: Iterable[str] = ()
) -> tuple[list[Run], tuple[str, ...]]:
    """Open runs by path or all of a sweep's; and the keys by which the sweep's settings differ.

    Parameters
    ----------
    paths : run folders.
    sweep : a sweep's folder; runs of it that have not begun are left out.
    where : ``key=value`` conditions that a run must meet.

    Raises
    ------
    InputError
        No run is left, or a condition is no ``key=value``.
    RunDirError
        A run cannot be opened.
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
    runs = [open_run(path) for path in paths]
    for condition in where:
        key, value, text = _condition(condition)
        runs = [run for run in runs if run.config.flat().get(key) in (value, text)]
    if not runs:
        raise InputError(f"no run is left to show in {sweep or 'what was given'}")
    return runs, by


def line_up(
    runs: Sequence[Run], by: Sequence[str] = (), *, allow_unequal: bool = False
) -> list[Section]:
    """Sort runs into sections (one for each setting of the keys `by`) and rows.

    Raises
    ------
    InputError
        Runs of a section differ in data, partition, budget or progress and `allow_unequal`
        is not set; one stands there twice; or a key of `by` is unknown.
    """
    for key in by:
        if key.partition(".")[0] not in keys():
            raise InputError(f"--by: {unknown_name('key', key, keys())}")
    settings: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        flat = run.config.flat()
        settings.setdefault(tuple(flat.get(key) for key in by), []).append(run)
    sections = []
    for values, inside in sorted(settings.items(), key=lambda item: item[0]):
        setting = dict(zip(by, values, strict=True))
        unlike = differences(inside)
        if unlike and not allow_unequal:
            where = f"{in_words(setting)}: " if setting else ""
            raise InputError(
                f"{where}not like for like: the runs differ in {'; '.join(unlike)}. Leave some out, "
                "split them with --by KEY, or show them all the same with --allow-unequal"
            )
        sections.append(Section(setting, _rows(inside), unlike))
    return sections


def differences(runs: Sequence[Run]) -> list[str]:
    """In what runs differ that must be equal for their figures to say something of their methods."""
    found = [
        f"{key} ({_who_has(runs, values)})"
        for key, values in config_differences([run.config for run in runs]).items()
        if _is_equal_key(key)
    ]
    progress = _who_has(runs, [run.rounds_done for run in runs])
    unfinished = [run for run in runs if not run.complete]
    if progress and not any(phrase.startswith("rounds (") for phrase in found):
        found.append(f"rounds done ({progress})")
    elif unfinished:
        first = unfinished[0]
        found.append(f"rounds done ({first.name}: {first.rounds_done} of {first.config.rounds})")
    for seed in sorted({run.config.seed for run in runs}):
        same = [run for run in runs if run.config.seed == seed]
        split = _who_has(same, [str(run.info.get("partition")) for run in same])
        if split:
            found.append(f"the partition of seed {seed}, so which images lie where ({split})")
    return found


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


def _rows(runs: Sequence[Run]) -> list[Row]:
    """Runs that differ in nothing but their seed make a row; rows stand as they first came."""
    found: dict[tuple[str, str], list[Run]] = {}
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


def _identity(run: Run) -> tuple[str, str]:
    flat = run.config.flat()
    told = {k: v for k, v in flat.items() if is_method_key(k) or _is_equal_key(k)}
    return (_given_label(run), json.dumps(told, sort_keys=True))


def _labels(runs: Sequence[Run]) -> list[str]:
    """A label for each row's first run: the sweep's or the method, and in what it stands out."""
    default = from_flat({}).flat()
    stems = [_given_label(run) or display_name(run.method) for run in runs]
    labels = []
    for run, stem in zip(runs, stems, strict=True):
        flat = run.config.flat()
        alike = [r.config.flat() for r, s in zip(runs, stems, strict=True) if s == stem]
        own = [
            f"{key.rpartition('.')[2]} = {value}"
            for key, value in sorted(flat.items(), key=lambda item: not is_method_key(item[0]))
            if key != "method" and (is_method_key(key) or _is_equal_key(key))
            if value != default.get(key) and any(other.get(key) != value for other in alike)
        ]
        labels.append(", ".join([stem, *own]))
    # What no key tells apart (two methods of one name) is told apart by its first run.
    return [
        label if labels.count(label) == 1 else f"{label} ({run.name})"
        for label, run in zip(labels, runs, strict=True)
    ]


def in_words(setting: Mapping[str, Scalar]) -> str:
    """Keys and their values, as a heading says them."""
    return ", ".join(f"{key} = {value}" for key, value in setting.items())


@cache
def display_name(method: str) -> str:
    """A method's name as papers write it; a user's own as it calls itself.

    >>> display_name("fedloge"), display_name("my-method")
    ('FedLoGe', 'my-method')
    """
    from fedloge.methods import METHODS

    return METHODS[method].__name__ if method in METHODS else method


def _given_label(run: Run) -> str:
    planned = _sweep_file(run.path.parent).get("runs", {}).get(run.path.name, {})
    return str(planned.get("label", ""))


@cache
def _sweep_file(folder: Path) -> dict[str, Any]:
    path = folder / SWEEP_FILE
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise RunDirError(f"{path}: damaged ({exc}); run the sweep again to mend it") from None


def _who_has(runs: Sequence[Run], values: Sequence[Scalar]) -> str:
    """Each value and the runs that have it, in words; empty when all have the same."""
    names: dict[Scalar, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        names.setdefault(value, []).append(run.name)
    if len(names) == 1:
        return ""
    return ", ".join(
        f"{value!r}: {some[0]}" + (f" and {len(some) - 1} more" if len(some) > 1 else "")
        for value, some in names.items()
    )


def _condition(text: str) -> tuple[str, Scalar, str]:
    key, sep, value = (part.strip() for part in text.partition("="))
    if not sep or not value:
        raise InputError(f"--where {text!r}: expected key=value, for example --where seed=0")
    if key.partition(".")[0] not in keys():
        raise InputError(f"--where: {unknown_name('key', key, keys())}")
    return key, toml_value(value), value
