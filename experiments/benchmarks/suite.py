"""Runs the benchmarks one after the other; shows, keeps and compares their results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import result_history
import result_tables
import torch
from catalogue import GROUPS
from interleaved_timing import run_group
from round_profile import where_the_time_goes
from scale import scale

from fedloge.console import stderr, stdout
from fedloge.errors import InputError, unknown_name

PROFILE, SCALE = "profile", "scale"
NAMES = (*GROUPS, PROFILE, SCALE)


def run_suite(
    only: Sequence[str], out: Path | None, *, quick: bool, as_json: bool, compare: bool
) -> dict[str, Any]:
    """Measure the benchmarks named in `only` (empty: all); returns the result as it is kept.

    Raises
    ------
    InputError
        A name is unknown, or the history cannot be read or written.
    """
    for name in only:
        if name not in NAMES:
            raise InputError(f"--only: {unknown_name('benchmark', name, NAMES)}")
    result = _measured(only or NAMES, quick)
    path = out or Path("bench-history.jsonl")
    before = result_history.last(path, result) if compare else None
    if out is not None or compare:
        result_history.append(path, result)
    if as_json:
        changed = {"changes": result_history.changes(before, result)} if before else {}
        sys.stdout.write(json.dumps(result | changed, indent=1) + "\n")
        return result
    _show(result)
    if before:
        changes = result_history.changes(before, result)
        stdout().print(result_tables.comparison(changes, before))
    elif compare:
        stdout().print(f"{path} holds no earlier measurement of this kind on this machine")
    return result


def _measured(chosen: Collection[str], quick: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    load = [os.getloadavg()[0]]
    with stderr().status("") as status:
        for name in GROUPS:
            for group in GROUPS[name](quick) if name in chosen else ():
                results[group.name] = run_group(group, status.update)
                status.console.print(f"{group.name}: {result_tables.in_short(results[group.name])}")
                load.append(os.getloadavg()[0])
        result = result_history.described(results, load, quick=quick)
        if PROFILE in chosen:
            status.update("where the time goes")
            result[PROFILE] = where_the_time_goes(quick)
        if SCALE in chosen:
            result[SCALE] = scale(quick, status.update)
    return result


def _show(result: dict[str, Any]) -> None:
    console = stdout()
    if result["groups"]:
        console.print(result_tables.tables(result))
    if PROFILE in result:
        console.print(result_tables.profile(result[PROFILE]))
    if SCALE in result:
        console.print(result_tables.scale(result[SCALE]))
