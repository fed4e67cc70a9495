"""Charts of neural collapse by round, as the collapse probes record it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedloge.results.figure_rows import labels
from fedloge.results.recorded_run import GROUPS, RecordedRun
from fedloge.results.report.curve_charts import (
    GROUP_STYLES,
    Series,
    curves,
    predictor_style,
    run_style,
)
from fedloge.results.report.drawing import Chart
from fedloge.results.report.styles import Style

_PROBES: Mapping[str, str] = {
    "probe/collapse": "",
    "probe/collapse-on-test": ", test examples",
}
_SCOPES: Mapping[str, Style] = {"all": Style("blue", 3), **GROUP_STYLES}
_BY_SCOPE: Mapping[str, tuple[str, str]] = {
    "cdnv": ("NC1, spread within over between classes", "CDNV, 0 collapsed"),
    "target-cos": ("NC2, angles of the class means", "distance to the target"),
    "norm-cov": ("NC2, lengths of the class means", "deviation over mean"),
}
_BY_MODEL: Mapping[str, tuple[str, str]] = {
    "alignment": ("NC3, heads along the class means", "mean cosine, 1 collapsed"),
    "agreement": ("NC4, heads decide as the nearest mean", "share, 1 collapsed"),
}
_OVERLAID: Mapping[str, tuple[str, str]] = {
    "cdnv": _BY_SCOPE["cdnv"],
    "target-cos": _BY_SCOPE["target-cos"],
    "log-kernel-variance": ("NC2, uniformity of the class means", "variance of the log-kernel"),
}


def collapse_charts(run: RecordedRun) -> list[Chart]:
    """The measures of one run by round; none without a collapse probe."""
    charts: list[Chart | None] = []
    for probe, end in _PROBES.items():
        for measure, (title, label) in _BY_SCOPE.items():
            series = [
                _series(run, scope, f"{probe}/{scope}/{measure}", style)
                for scope, style in _SCOPES.items()
                if scope == "all" or run.train_counts is not None
            ]
            charts.append(_chart(f"{title}{end}", label, series))
        for measure, (title, label) in _BY_MODEL.items():
            names = _models(run, f"{probe}/all/", f"/{measure}")
            series = [
                _series(run, name, f"{probe}/all/{name}/{measure}", predictor_style(name, i))
                for i, name in enumerate(names)
            ]
            charts.append(_chart(f"{title}{end}", label, series))
        sides = {"has": "classes that it has", "lacks": "classes that it lacks"}
        series = [
            _series(
                run, f"{name}, {text}", f"{probe}/personal/{name}/alignment-{side}", run_style(i)
            )
            for i, (name, side, text) in enumerate(
                (name, side, text)
                for name in _models(run, f"{probe}/personal/", "/alignment-has")
                for side, text in sides.items()
            )
        ]
        title = f"NC3, a client’s own head{end}"
        charts.append(_chart(title, "mean cosine with the means of all", series))
    return [chart for chart in charts if chart is not None]


def overlaid_collapse(runs: Sequence[RecordedRun]) -> list[Chart]:
    """The measures of several runs, one line per run; none where no run has a collapse probe."""
    charts = []
    for probe, end in _PROBES.items():
        for measure, (title, label) in _OVERLAID.items():
            series = [
                _series(run, name, f"{probe}/all/{measure}", run_style(i))
                for i, (run, name) in enumerate(zip(runs, labels(runs), strict=True))
            ]
            charts.append(_chart(f"{title}{end}", label, series))
        for measure, (title, label) in _BY_MODEL.items():
            series = [
                _series(run, name, f"{probe}/all/{_primary(run)}/{measure}", run_style(i))
                for i, (run, name) in enumerate(zip(runs, labels(runs), strict=True))
            ]
            charts.append(_chart(f"{title}{end}", label, series))
    return [chart for chart in charts if chart is not None]


def _chart(title: str, label: str, series: Sequence[Series]) -> Chart | None:
    return curves(title, label, series, lambda value: f"{value:.3g}")


def _series(run: RecordedRun, name: str, figure: str, style: Style) -> Series:
    return Series(
        name, style, {line["round"]: line[figure] for line in run.evaluated if figure in line}
    )


def _models(run: RecordedRun, before: str, after: str) -> list[str]:
    found = {
        key.removeprefix(before).removesuffix(after): None
        for line in run.evaluated
        for key in line
        if key.startswith(before) and key.endswith(after)
    }
    return [name for name in found if "/" not in name and name not in GROUPS]


def _primary(run: RecordedRun) -> str:
    return run.primary.get("global", "global/raw/all").split("/")[1]
