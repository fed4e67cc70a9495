"""``fedloge table`` and ``fedloge plot``: the table or figure of the runs that the user names."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import cast, get_args

from fedloge.console import stdout
from fedloge.errors import InputError, unknown_name
from fedloge.results.grouping import Section, gather, group_runs, setting_in_words, shown_rows
from fedloge.results.paired_tests import TestOver
from fedloge.results.paper_table import paper_table
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.run_figures import When
from fedloge.results.table_formats import FORMATS, SUFFIXES


def table(
    runs: Sequence[Path],
    sweep: Path | None,
    *,
    form: str,
    out: Path | None,
    when: str,
    models: str,
    test: str,
    against: str,
    by: Sequence[str],
    rows: Sequence[str],
    up_to: int,
    where: Sequence[str],
    allow_unequal: bool,
) -> None:
    """Make the tables and print them, or write them to `out`."""
    form = form or (SUFFIXES.get(out.suffix, "") if out else "text")
    if not form:
        raise InputError(
            f"--out {out}: its suffix names no format; use {', '.join(SUFFIXES)}, or give --format"
        )
    _among("--format", form, FORMATS)
    _among("--when", when, [*get_args(When), "both"])
    _among("--models", models, ["primary", "all"])
    _among("--test", test, get_args(TestOver))
    opened, own = gather(runs, sweep, where, up_to=up_to)
    sections = group_runs(opened, [*by] or own, allow_unequal=allow_unequal)
    whens = get_args(When) if when == "both" else (when,)
    tables = [
        paper_table(
            shown_rows(section, rows),
            cast("When", one),
            all_predictors=models == "all",
            test=cast("TestOver", test),
            against=against,
        )
        for section in sections
        for one in whens
    ]
    made = FORMATS[form](tables)
    if out is None:
        sys.stdout.write(made)
    else:
        _write(out, made)


def plot(
    runs: Sequence[Path],
    sweep: Path | None,
    out: Path,
    *,
    kind: str,
    side: str,
    rows: Sequence[str],
    figures: Sequence[str],
    beside: Path | None,
    up_to: int,
    where: Sequence[str],
    allow_unequal: bool,
) -> None:
    """Draw a figure and write it to `out`."""
    # matplotlib takes a second to import, which a table need not wait for.
    from fedloge.results import plots
    from fedloge.results.curves_beside import read_curves

    _among("--kind", kind, plots.KINDS)
    _among("--side", side, [*plots.SIDES, "both"])
    if out.suffix not in plots.SUFFIXES:
        raise InputError(
            f"--out {out}: expected a file ending in {', '.join(plots.SUFFIXES)}, got {out.suffix!r}"
        )
    if beside is not None and kind != "curves":
        raise InputError(f"--beside: published curves go with --kind curves, got {kind!r}")
    if figures and kind not in plots.OVER_ROUNDS:
        raise InputError(f"--figure: goes with --kind {', '.join(plots.OVER_ROUNDS)}, got {kind!r}")
    published = read_curves(beside) if beside is not None else None
    opened, by = gather(runs, sweep, where, up_to=up_to)
    section = _only(group_runs(opened, by, allow_unequal=allow_unequal))
    shown = shown_rows(section, rows).rows
    for figure in figures:
        _check_measured(figure, opened)
    sides = tuple(figures) or (plots.SIDES if side == "both" else (side,))
    said = plots.draw(kind, shown, sides, out, published)
    stdout().print(f"{out}: {said}", soft_wrap=True, markup=False)


def _only(sections: Sequence[Section]) -> Section:
    if len(sections) > 1:
        settings = "; ".join(setting_in_words(section.setting) for section in sections)
        raise InputError(
            f"a plot shows one setting, these are {len(sections)} ({settings}); "
            f"choose with --where, for example --where {_example(sections[0])}"
        )
    return sections[0]


def _example(section: Section) -> str:
    key, value = next(iter(section.setting.items()))
    return f"{key}={value}"


def _among(option: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise InputError(f"{option}: {unknown_name('value', value, known)}")


def _check_measured(figure: str, runs: Sequence[RecordedRun]) -> None:
    known = {
        name
        for run in runs
        for line in run.evaluated
        for name, value in line.items()
        if not isinstance(value, list)
    }
    if figure not in known:
        near = get_close_matches(figure, known, cutoff=0.4) or sorted(known)[:3]
        raise InputError(
            f"--figure: {figure!r} was not measured in these runs, which have {len(known)} figures; near it: "
            f"{', '.join(near)}"
        )


def _write(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    except OSError as exc:
        raise InputError(
            f"{path}: cannot be written ({exc.strerror}); give another --out"
        ) from None
    stdout().print(str(path), soft_wrap=True, markup=False)
