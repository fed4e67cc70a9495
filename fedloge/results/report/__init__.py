"""One or several runs as one HTML page that needs no network, no other file and no script.

`run_view` collects what the page says, the ``*_charts`` modules draw it, and the templates in
``templates/`` lay it out. They escape every text of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fedloge.results.figure_rows import labels
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.report import run_view
from fedloge.results.report.curve_charts import final_curve
from fedloge.results.report.drawing import drawing_style
from fedloge.results.report.printable_text import printable
from fedloge.results.report.run_headline import headline
from fedloge.results.report.styles import TONES

MAX_DETAILED = 6
"""With more runs than this, a page shows only their comparison and their headlines."""


def write_report(runs: Sequence[RecordedRun], out: Path) -> None:
    """Write the report of `runs` to the file `out`, which is replaced if it exists.

    Raises
    ------
    RunDirError
        A file of a run is damaged.
    ValueError
        `runs` is empty.
    """
    page = render(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


def render(runs: Sequence[RecordedRun]) -> str:
    """The HTML page of `runs`; several are compared first, then shown one by one."""
    if not runs:
        raise ValueError("a report needs at least one run")
    names = labels(runs)
    with drawing_style():
        if len(runs) == 1:
            run = runs[0]
            values: dict[str, Any] = {
                "title": run.name,
                "subtitle": f"{run.method} on {run.config.dataset}",
                "runs": [run_view.view(run)],
                "comparison": None,
            }
        else:
            detailed = len(runs) <= MAX_DETAILED
            values = {
                "title": ", ".join(names) if len(names) <= 4 else f"{len(names)} runs",
                "subtitle": "fedloge, compared",
                "runs": [run_view.view(run, detailed=detailed) for run in runs],
                "comparison": run_view.comparison(runs),
            }
    return templates().get_template("page.html.j2").render(names=names, tones=TONES, **values)


def render_card(run: RecordedRun) -> str:
    """One run in a few lines of HTML, for a notebook: its name, its final figures, a curve."""
    with drawing_style():
        values = {
            "run": headline(run),
            "chart": final_curve(run),
            "name": run.name,
            "tones": TONES,
        }
    return templates().get_template("card.html.j2").render(values)


@cache
def templates() -> jinja2.Environment:
    """The page templates; whatever they are given is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("fedloge.results.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
