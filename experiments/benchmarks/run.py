"""`fedloge bench`: measure, show, keep, compare."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import history
import show
import torch
from groups import GROUPS
from measure import run_group
from round_profile import where_the_time_goes
from scale import scale

from fedloge.console import stderr, stdout
from fedloge.errors import InputError, unknown_name

PROFILE, SCALE = "profile", "scale"
NAMES = (*GROUPS, PROFILE, SCALE)


def bench(
    only: Sequence[str], out: Path | None, *, quick: bool, as_json: bool, compare: bool
) -> dict[str, Any]:
    """Measure the groups of the names in `only` (none: all); the result as it is kept.

    Raises
    ------
    InputError
        A name is unknown, or the history cannot be read or written.
    """
    for name in only:
        if name not in NAMES:
            raise InputError(f"--only: {unknown_name('benchmark', name, NAMES)}")
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    load = [os.getloadavg()[0]]
    chosen = only or NAMES
    with stderr().status("") as status:
        for name in GROUPS:
            for group in GROUPS[name](quick) if name in chosen else ():
                results[group.name] = run_group(group, status.update)
                status.console.print(f"{group.name}: {show.in_short(results[group.name])}")
                load.append(os.getloadavg()[0])
        result = history.described(results, load, quick=quick)
        if PROFILE in chosen:
            status.update("where the time goes")
            result["profile"] = where_the_time_goes(quick)
        if SCALE in chosen:
            result["scale"] = scale(quick, status.update)
    path = out or Path("bench-history.jsonl")
    before = history.last(path, result) if compare else None
    if out is not None or compare:
        history.append(path, result)
    if as_json:
        changed = {"changes": history.changes(before, result)} if before else {}
        sys.stdout.write(json.dumps(result | changed, indent=1) + "\n")
        return result
    console = stdout()
    if results:
        console.print(show.tables(result))
    if PROFILE in result:
        console.print(show.profile(result[PROFILE]))
    if SCALE in result:
        console.print(show.scale(result[SCALE]))
    if before:
        console.print(show.comparison(history.changes(before, result), before))
    elif compare:
        console.print(f"{path} holds no earlier measurement of this kind on this machine")
    return result
