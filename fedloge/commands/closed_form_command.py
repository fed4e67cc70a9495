"""`fedloge closed-form`. Heavy imports are inside it, so that other commands start quickly."""

from __future__ import annotations

from fedloge.commands.arguments import AllowPlugins, Json, RunFolder
from fedloge.console import print_json, stdout


def closed_form(run: RunFolder, allow_plugins: AllowPlugins = False, json_: Json = False) -> None:
    """Solve for heads on a finished simulation's features, beside its own global models."""
    from rich import box
    from rich.table import Table

    from fedloge.results.heads_after_training import closed_form_figures
    from fedloge.results.run import open_run

    figures = closed_form_figures(open_run(run, allow_plugins=allow_plugins))
    if json_:
        print_json(figures)
        return
    columns = ("all", "many", "medium", "few")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Accuracy, %", title_justify="left")
    table.add_column("model")
    for column in columns:
        table.add_column(column, justify="right")
    for name, found in figures.items():
        cells = (f"{found[key]:.1%}".rstrip("%") if key in found else "" for key in columns)
        table.add_row(name, *cells)
    stdout().print(table)
