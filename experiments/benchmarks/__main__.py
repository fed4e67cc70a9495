"""Measure what an engine costs beside the bare arithmetic: `uv run python experiments/benchmarks`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from suite import run_suite

from fedloge.console import fail
from fedloge.errors import FedlogeError


def benchmarks(
    quick: Annotated[bool, typer.Option("--quick", help="Small work, few repeats.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Measure only this; repeatable.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Compare with the last result in the history, and keep this one."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="History to add to (default: bench-history.jsonl).")
    ] = None,
) -> None:
    """Measure what an engine costs beside the bare arithmetic."""
    run_suite(only or (), out, quick=quick, as_json=json_, compare=compare)


if __name__ == "__main__":
    sys.argv[0] = "benchmarks"
    try:
        typer.run(benchmarks)
    except FedlogeError as exc:
        fail(str(exc), exc.exit_code)
