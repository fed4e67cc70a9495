"""``fedloge lab``: a paper's claim tried here, and what a federation does to it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

from fedloge.commands.arguments import Json
from fedloge.console import print_json, stdout
from fedloge.errors import InputError, unknown_name


def lab(
    name: Annotated[str, typer.Argument(help="frame, collapse, mixup, ebv or language.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The picture (.png, .svg or .pdf); default: NAME.png.")
    ] = None,
    json_: Json = False,
) -> None:
    """Try a claim of one of the papers behind fedloge, at one place and over clients."""
    # For start-up time.
    from rich.table import Table

    from fedloge.labs import LABS

    if name not in LABS:
        raise InputError(unknown_name("lab", name, LABS))
    began, chosen = time.perf_counter(), LABS[name]
    found, figure = chosen.run(seed)
    picture = out or Path(f"{name}.png")
    try:
        figure.savefig(picture, dpi=150)
    except (OSError, ValueError) as exc:
        raise InputError(f"{picture}: the picture cannot be written ({exc})") from None
    seconds = time.perf_counter() - began
    if json_:
        findings = [dataclasses.asdict(finding) for finding in found]
        print_json(
            {
                "lab": name,
                "claim": chosen.claim,
                "findings": findings,
                "picture": str(picture),
                "seconds": seconds,
            }
        )
        return
    stdout().print(chosen.claim, markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("here", justify="right")
    table.add_column("expected")
    table.add_column("")
    for finding in found:
        mark = {True: "holds", False: "does not hold", None: ""}[finding.holds]
        table.add_row(finding.what, f"{finding.measured:.4g}", finding.expected, mark)
    stdout().print(table)
    stdout().print(f"{picture}, {seconds:.0f} s", markup=False)
