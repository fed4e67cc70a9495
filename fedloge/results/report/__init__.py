"""One or several runs as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from fedloge.results.report import sections
from fedloge.results.report.html import Markup, details, join, tag
from fedloge.results.run import Run
from fedloge.results.terminal_tables import labels

MAX_DETAILED = 6
"""With more runs than these, a page holds their comparison and headlines only."""


def write_report(runs: Sequence[Run], out: Path) -> None:
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


def render(runs: Sequence[Run]) -> str:
    """The page of `runs`; several are compared first, then shown one by one."""
    if not runs:
        raise ValueError("a report needs at least one run")
    if len(runs) == 1:
        title, parts = runs[0].name, sections.single(runs[0])
    else:
        names = labels(runs)
        title = ", ".join(names) if len(names) <= 4 else f"{len(names)} runs"
        folded = [_folded(run, name, len(runs)) for run, name in zip(runs, names, strict=True)]
        parts = [sections.comparison(runs), *folded]
    return "<!DOCTYPE html>\n" + tag("html", _head(title), _body(title, runs, parts), lang="en")


def _folded(run: Run, name: str, count: int) -> Markup:
    inside = sections.single(run)
    if count > MAX_DETAILED:
        inside = [sections.headline(run), sections.what(run)]
    return details(f"{name}: {run.method} on {run.config.dataset}", *inside)


def _head(title: str) -> Markup:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
            "img-src data:",
        ),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title} – fedloge"),
        tag("style", Markup(_resource("style.css"))),
    )


def _body(title: str, runs: Sequence[Run], parts: Sequence[Markup]) -> Markup:
    first = runs[0]
    said = f"{first.method} on {first.config.dataset}" if len(runs) == 1 else "fedloge, compared"
    return tag(
        "body",
        tag(
            "header",
            tag("div", tag("p", said, class_="eyebrow"), tag("h1", title)),
            tag("button", "Theme", id="theme", type="button", aria_label="Switch light and dark"),
        ),
        tag("main", *parts),
        tag("div", id="tip", role="status", hidden=True),
        tag("script", Markup(_resource("script.js"))),
    )


def _resource(name: str) -> str:
    return join([Markup((files(__package__) / name).read_text(encoding="utf-8"))])
