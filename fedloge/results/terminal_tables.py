"""One run, or several, as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedloge.results.figure_rows import (
    QUALITY,
    FigureRow,
    figure_rows,
    new_client_rows,
    notes,
    progress,
    quality_rows,
    shown_columns,
)
from fedloge.results.number_words import duration, percent
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.run_figures import total
from fedloge.results.side_by_side import side_by_side
from fedloge.results.who_was_measured import in_percent, interval, measured, test_set


def show(run: RecordedRun) -> RenderableType:
    """One run for the terminal: what it was, its figures, and notes on them."""
    head = Text(f"{run.name}  ", style="bold")
    head.append(
        f"{run.method} on {run.config.dataset}, {run.config.num_clients} clients, {progress(run)}, "
        f"{duration(total(run.timing_lines, 'seconds'))}",
        style="not bold",
    )
    parts: list[RenderableType] = [head, Text(f"fingerprint {run.fingerprint}", style="dim")]
    titles = {
        "global": f"Global model, accuracy in % on {test_set(run)}",
        "personal": "Personal models, each on its client's own test images, %",
    }
    for side, title in titles.items():
        rows = figure_rows(run, side)
        if rows:
            parts += [Text(f"\n{title}"), _figure_table(run, side, rows)]
            parts += [Text(_over_whom(run))] if side == "personal" else []
    if quality := quality_rows(run):
        title = f"Beside accuracy, round {run.evaluated_rounds[-1]}, %"
        parts += [Text(f"\n{title}"), _quality_table(quality)]
    if new := new_client_rows(run):
        held_out = len(run.info.get("held-out-clients") or [])
        title = f"New clients ({held_out} held out from training), each on its own test images, %"
        parts += [Text(f"\n{title}"), _new_client_table(new)]
    if run.evaluated:
        parts.append(Text("* the model the method is judged by", style="dim"))
    parts += [Text(note, style="yellow") for note in notes(run)]
    return Group(*parts)


def _over_whom(run: RecordedRun) -> str:
    """Over which clients and images the personal figures are, and the interval of the primary mean."""
    found, spread = measured(run), interval(run)
    said = f"Over {found}." if found else ""
    if found and found.held_out:
        said += f" {found.held_out} that never train are not among them."
    if spread:
        said += f" 95 % interval of the mean over clients (*): {in_percent(spread)}."
    return said.strip()


def compare(runs: Sequence[RecordedRun]) -> RenderableType:
    """Several runs for the terminal: primary figures, what differs, and warnings."""
    comparison = side_by_side(runs)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("run", overflow="fold", ratio=1)
    table.add_column("method", overflow="fold")
    headings = (
        "round",
        "global\nlast",
        "global\nmean",
        "personal\nlast",
        "personal\nmean",
        "worst\n10 %",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        figures = (
            row.global_last,
            row.global_mean,
            row.personal_last,
            row.personal_mean,
            row.worst_decile,
        )
        table.add_row(
            Text(row.name),
            Text(row.method),
            str(row.rounds_done),
            *(percent(figure) for figure in figures),
        )
    return Group(
        Text("Accuracy, %: last evaluated round, and mean of the last ten evaluations"),
        table,
        Text(comparison.sentence),
        *(Text(warning, style="bold yellow") for warning in comparison.warnings),
    )


def _quality_table(rows: Sequence[tuple[str, bool, dict[str, float]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    for heading in QUALITY.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name, primary, figures in rows:
        cells = (percent(figures.get(column)) for column in QUALITY)
        table.add_row(
            Text(f"{name} *" if primary else name), *cells, style="bold" if primary else ""
        )
    return table


def _new_client_table(rows: Sequence[tuple[str, dict[str, float]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    columns = {"mean": "mean", "worst-decile": "worst 10\N{NO-BREAK SPACE}%", **QUALITY}
    for heading in columns.values():
        table.add_column(heading.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for name, figures in rows:
        table.add_row(Text(name), *(percent(figures.get(column)) for column in columns))
    return table


def _figure_table(run: RecordedRun, side: str, rows: Sequence[FigureRow]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("when", no_wrap=True)
    columns = shown_columns(side, rows)
    for heading in columns.values():
        table.add_column(heading.replace(" ", "\n", 1), justify="right", no_wrap=True)
    count = min(10, len(run.evaluated))
    for row in rows:
        whens = ((f"round {run.evaluated_rounds[-1]}", row.last), (f"mean of {count}", row.mean))
        for index, (when, figures) in enumerate(whens):
            label = f"{row.predictor}{' *' if row.primary else ''}" if index == 0 else ""
            table.add_row(
                Text(label),
                when,
                *(percent(figures.get(column)) for column in columns),
                style="bold" if row.primary else "",
            )
    return table
