"""One or several runs as one HTML page that needs nothing else: no network, no file, no script.

What the page says is gathered in `run_view`, drawn in the ``*_charts`` modules, and laid out
by the templates in ``templates/``. Every text of a run is escaped there.
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
"""With more runs than these, a page holds their comparison and headlines only."""


def write_report(runs: Sequence[RecordedRun], out: Path) -> None:
    """Write the report of `runs` to `out`, over what is there.

    Raises
    ------
    RunDirError
        A file of a run is damaged.
    ValueError
        There is no run.
    """
    page = render(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


def render(runs: Sequence[RecordedRun]) -> str:
    """The page of `runs`; several are compared first, then shown one by one."""
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
    return _templates().get_template("page.html.j2").render(names=names, tones=TONES, **values)


def render_card(run: RecordedRun) -> str:
    """One run in a few lines of HTML, for a notebook: its name, its final figures, a curve."""
    with drawing_style():
        values = {
            "run": headline(run),
            "chart": final_curve(run),
            "name": run.name,
            "tones": TONES,
        }
    return _templates().get_template("card.html.j2").render(values)


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("fedloge.results.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
