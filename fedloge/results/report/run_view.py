"""Everything that a page says of a run, part by part, for the templates to lay out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fedloge.config import load
from fedloge.results.figure_rows import QUALITY
from fedloge.results.number_words import duration, percent, plural, size
from fedloge.results.recorded_calibration import last_reliability
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.report import class_charts, client_charts, curve_charts, split_charts
from fedloge.results.report.collapse_charts import collapse_charts, overlaid_collapse
from fedloge.results.report.drawing import Chart
from fedloge.results.report.guess_charts import reliability_chart
from fedloge.results.report.law_notes import collapsed_classes
from fedloge.results.report.run_facts import facts
from fedloge.results.report.run_headline import Headline, Table, headline, meaning
from fedloge.results.run_figures import total
from fedloge.results.settings import settings, written
from fedloge.results.side_by_side import side_by_side

MAX_LISTED = 20
MAX_ROUND_ROWS = 200


@dataclass(frozen=True)
class ChartGroup:
    """Charts under one heading, and sentences on what is not drawn and why."""

    title: str
    charts: Sequence[Chart]
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class RunView:
    """One run on a page; parts that a short view leaves out are empty."""

    method: str
    dataset: str
    headline: Headline
    facts: Sequence[tuple[str, str]]
    groups: Sequence[ChartGroup] = ()
    time: Table | None = None
    time_chart: Chart | None = None
    failure_reasons: Table | None = None
    failures: Table | None = None
    evaluations: Table | None = None
    configuration: Table | None = None
    folded: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """Several runs side by side."""

    warnings: Sequence[str]
    table: Table
    sentence: str
    charts: Sequence[Chart]
    meaning: str


def view(run: RecordedRun, *, detailed: bool = True) -> RunView:
    """Everything on one run; without `detailed` only its headline and what was run."""
    about = RunView(run.method, run.config.dataset, headline(run), facts(run))
    if not detailed:
        return about
    groups = [
        ChartGroup("Curves", _found(curve_charts.run_curves(run))),
        _split(run),
        _clients(run),
        _classes(run),
        _calibration(run),
        ChartGroup("Neural collapse", collapse_charts(run)),
    ]
    reasons, failures = _failures(run)
    evaluations, configuration = _evaluations(run), _configuration(run)
    changed = len(configuration.marked)
    folded = {
        "evaluations": f"Table of {plural(len(run.evaluated), 'evaluation')}, accuracies in %",
        "configuration": f"All {len(configuration.rows)} keys; {changed} differ from the defaults "
        "and are marked",
        "failures": f"The first {MAX_LISTED}"
        if len(run.failure_lines) > MAX_LISTED
        else "Each of them",
    }
    return RunView(
        run.method,
        run.config.dataset,
        about.headline,
        about.facts,
        [group for group in groups if group.charts or group.left_out],
        _time(run),
        curve_charts.time_curve(run),
        reasons,
        failures,
        evaluations,
        configuration,
        folded,
    )


def comparison(runs: Sequence[RecordedRun]) -> Compared:
    """Several runs side by side: their figures, what differs between them, and their curves."""
    compared = side_by_side(runs)
    rows = [
        (
            row.name,
            row.method,
            f"{row.rounds_done:,}",
            percent(row.global_last),
            percent(row.global_mean),
            percent(row.personal_last),
            percent(row.personal_mean),
            percent(row.worst_decile),
        )
        for row in compared.rows
    ]
    headings = ("run", "method", "rounds", "global last", "global mean", "personal last")
    return Compared(
        compared.warnings,
        Table(
            (*headings, "personal mean", "worst 10 %"),
            rows,
            "Accuracy of each method’s own model, %: last evaluated round, and mean of the last "
            "ten evaluations",
            text_columns=2,
        ),
        compared.sentence,
        [*_found(curve_charts.overlay_curves(runs)), *overlaid_collapse(runs)],
        meaning(runs),
    )


def _found(charts: Iterable[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _split(run: RecordedRun) -> ChartGroup:
    charts = [
        split_charts.heat_map(run),
        split_charts.class_sizes(run),
        split_charts.client_sizes(run),
    ]
    left_out = []
    if run.train_counts is None:
        left_out.append(
            "How many images of each class the clients hold is not known here: the images lie "
            "with the clients, who do not share their class counts."
        )
    return ChartGroup("The split", _found(charts), left_out)


def _clients(run: RecordedRun) -> ChartGroup:
    charts = [
        client_charts.client_dots(run),
        client_charts.client_histogram(run),
        client_charts.client_size_scatter(run),
    ]
    left_out = []
    if run.last_client_lines and not any(charts):
        left_out.append("No client has test images, so the personal models were not measured.")
    return ChartGroup("Clients", _found(charts), left_out)


def _classes(run: RecordedRun) -> ChartGroup:
    charts = [
        class_charts.class_accuracy(run),
        *class_charts.head_norms(run),
        class_charts.cosines(run),
    ]
    left_out = []
    if run.evaluated and "global" in run.primary and not sum(run.info.get("test-counts") or [1]):
        left_out.append("The server has no test images, so the global model was not measured.")
    left_out += collapsed_classes(run)
    title = "Classes" if run.prototypes is None else "Classes and the fixed classifier"
    return ChartGroup(title, _found(charts), left_out)


def _calibration(run: RecordedRun) -> ChartGroup:
    found = last_reliability(run)
    name = (run.info.get("primary") or {}).get("global")
    pooled = "probe/calibration/personal"
    titles = {f"global/{name}": f"Global model ({name}), test images"}
    titles[f"probe/calibration/global/{name}"] = f"Global model ({name}), held-out images"
    titles[pooled] = "Personal models, all clients’ test images"
    charts = [reliability_chart(title, found[key]) for key, title in titles.items() if key in found]
    left_out = []
    if found and pooled not in found and "personal" in run.primary:
        left_out.append(
            "How far the personal models’ confidence can be trusted over all clients is measured with "
            "probes = calibration, for which each client sends sums over 15 bins."
        )
    return ChartGroup("Calibration", _found(charts), left_out)


def _time(run: RecordedRun) -> Table | None:
    if not run.timing_lines:
        return None
    count, seconds = len(run.timing_lines), total(run.timing_lines, "seconds")
    rows = [("whole run", duration(seconds)), ("per round", duration(seconds / count))]
    key = "images-per-second"
    rates = [line[key] for line in run.timing_lines if key in line]
    if rates:
        rows.append(("images per second, mean", f"{sum(rates) / len(rates):,.0f}"))
    for key, name in (("bytes-down", "server to clients"), ("bytes-up", "clients to server")):
        sent = total(run.timing_lines, key)
        rows += [(f"{name}, whole run", size(sent)), (f"{name}, per round", size(sent / count))]
    return Table(("what", "how much"), rows)


def _failures(run: RecordedRun) -> tuple[Table | None, Table | None]:
    if not run.failure_lines:
        return None, None
    reasons = Counter(str(line.get("reason", "no reason given")) for line in run.failure_lines)
    by_reason = [(reason, f"{count:,}") for reason, count in reasons.most_common(MAX_LISTED)]
    first = [
        (str(line["round"]), str(line.get("client", "–")), str(line.get("reason", "")))
        for line in run.failure_lines[:MAX_LISTED]
    ]
    return (
        Table(("reason", "times"), by_reason),
        Table(("round", "client", "reason"), first, text_columns=3),
    )


def _evaluations(run: RecordedRun) -> Table | None:
    if not run.evaluated:
        return None
    # The figures beside accuracy stand with the headline; here they would double the page.
    left_out = tuple(f"/{column}" for column in QUALITY)
    names = [
        key
        for key in run.evaluated[-1]
        if key.startswith(("global/", "personal/")) and not key.endswith(left_out)
    ]
    step = -(-len(run.evaluated) // MAX_ROUND_ROWS)
    lines = run.evaluated[::-1][::step][::-1]
    rows = [(str(line["round"]), *(percent(line.get(name)) for name in names)) for line in lines]
    caption = f"Every {step}th evaluation" if step > 1 else ""
    return Table(("round", *names), rows, caption)


def _configuration(run: RecordedRun) -> Table:
    defaults = load(None).flat()
    rows, marked = [], []
    for i, (key, value) in enumerate(settings(run).items()):
        default = defaults.get(key)
        rows.append((key, written(value), written(default)))
        marked += [i] if value != default else []
    return Table(("key", "value", "default"), rows, text_columns=3, marked=marked)
