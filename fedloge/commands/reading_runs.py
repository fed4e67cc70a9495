"""Commands that read runs. Heavy imports are inside them, so that others start quickly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from fedloge.commands.arguments import (
    AllowUnequal,
    AnyRunFolders,
    By,
    Json,
    Rows,
    RunFolder,
    RunFolders,
    SweepFolder,
    UpTo,
    Where,
)
from fedloge.console import print_json, stdout


def show(run: RunFolder, json_: Json = False) -> None:
    """Show what a run was, and its figures."""
    from fedloge.results import terminal_tables as tables
    from fedloge.results.run import open_run
    from fedloge.results.run_figures import summary

    opened = open_run(run)
    if json_:
        print_json(summary(opened))
    else:
        stdout().print(tables.show(opened))


def compare(runs: RunFolders, json_: Json = False) -> None:
    """Show runs side by side, and what differs between them."""
    from fedloge.results import terminal_tables as tables
    from fedloge.results.run import open_run
    from fedloge.results.run_figures import summary
    from fedloge.results.side_by_side import side_by_side

    opened = [open_run(path) for path in runs]
    if json_:
        compared = dataclasses.asdict(side_by_side(opened))
        print_json({"runs": [summary(r) for r in opened], **compared})
    else:
        stdout().print(tables.compare(opened))


def report(
    runs: RunFolders,
    out: Annotated[
        Path | None, typer.Option(help="The page to write; default: in the first run's folder.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about one run, or several."""
    from fedloge.results.report import write_report
    from fedloge.results.run import open_run

    opened = [open_run(path) for path in runs]
    files = opened[0].files
    page = out or (files.report if len(opened) == 1 else files.comparison)
    write_report(opened, page)
    stdout().print(str(page), soft_wrap=True)


def table(
    runs: AnyRunFolders = None,
    sweep: SweepFolder = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="text, md, latex, csv or json; default: by the suffix of --out."
        ),
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    when: Annotated[
        str,
        typer.Option(help="last (evaluated round), mean (of the last ten evaluations) or both."),
    ] = "both",
    models: Annotated[
        str,
        typer.Option(help="primary: the model a method is judged by; all: one row for each model."),
    ] = "primary",
    test: Annotated[
        str, typer.Option(help="What the paired test pairs: auto, seeds, clients or none.")
    ] = "auto",
    against: Annotated[
        str, typer.Option(help="The row that others are tested against; default: FedLoGe.")
    ] = "",
    by: By = None,
    rows: Rows = None,
    up_to: UpTo = 0,
    where: Where = None,
    allow_unequal: AllowUnequal = False,
) -> None:
    """Make the table of a paper from runs: over seeds, best in bold, with paired tests."""
    from fedloge.commands import table_and_plot

    table_and_plot.table(
        runs or [],
        sweep,
        form=format_,
        out=out,
        when=when,
        models=models,
        test=test,
        against=against,
        by=by or [],
        rows=rows or [],
        up_to=up_to,
        where=where or [],
        allow_unequal=allow_unequal,
    )


def plot(
    out: Annotated[Path, typer.Option(help="A .pdf, .png or .svg file.")],
    kind: Annotated[str, typer.Option(help="curves, per-class, clients, bytes or seconds")],
    runs: AnyRunFolders = None,
    sweep: SweepFolder = None,
    side: Annotated[str, typer.Option(help="global, personal or both")] = "both",
    rows: Rows = None,
    figures: Annotated[
        list[str] | None,
        typer.Option(
            "--figure",
            help="Any figure of metrics.jsonl in the place of accuracies, such as probe/collapse/all/cdnv; repeatable.",
        ),
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(
            help="Published curves to dash beside: CSV with label, round, global, personal."
        ),
    ] = None,
    up_to: UpTo = 0,
    where: Where = None,
    allow_unequal: AllowUnequal = False,
) -> None:
    """Draw a figure for a paper: curves, accuracy by class size, client against client, bytes, seconds."""
    from fedloge.commands import table_and_plot

    table_and_plot.plot(
        runs or [],
        sweep,
        out,
        kind=kind,
        side=side,
        rows=rows or [],
        figures=figures or [],
        beside=beside,
        up_to=up_to,
        where=where or [],
        allow_unequal=allow_unequal,
    )
