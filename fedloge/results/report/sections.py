"""The parts of a report, from the headline to the configuration, each a `section` of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from fedloge.config import Config, load
from fedloge.results.report import classes, curves, federation
from fedloge.results.report.html import Child, Markup, details, join, table, tag
from fedloge.results.run import Run, best_on_test, mean_of_last, total
from fedloge.results.terminal_tables import (
    COLUMNS,
    compare_runs,
    duration,
    figure_rows,
    notes,
    percent,
    plural,
    predictors,
    size,
)

_SIDES = {
    "global": "Global model on the balanced test set, %",
    "personal": "Personal models, each on its own client’s test images, %",
}
_PREDICTORS = {
    "fixed": "“fixed” reads the features with the classifier that never moved",
    "raw": "“raw” is the head as it was trained",
    "tuned": "“tuned” is the model after a little training on the client’s own images",
    "realigned": "“realigned” is the same head after GLA-FR, which evens out the norms of the "
    "global head’s rows and gives each client’s head the global directions with the "
    "client’s own norms",
}
MAX_LISTED = 20
MAX_ROUND_ROWS = 200


def single(run: Run) -> list[Markup]:
    """All sections on one run."""
    return [part for part in (headline(run), *body(run)) if part is not None]


def body(run: Run) -> list[Markup]:
    """The sections on one run below its headline."""
    parts = [
        what(run),
        _charts("Curves", curves.run_curves(run)),
        _split(run),
        _clients(run),
        _classes(run),
        _time(run),
        _failures(run),
        _rounds(run),
        _config(run),
    ]
    return [part for part in parts if part is not None]


def warnings(said: Iterable[str]) -> Markup | None:
    """Sentences that a reader must not miss; None when there are none."""
    lines = [tag("li", sentence) for sentence in said]
    return tag("ul", *lines, class_="warnings", role="note") if lines else None


def headline(run: Run) -> Markup:
    """The figures that one would quote."""
    return _section(
        "Figures",
        warnings(notes(run)),
        tag("p", _in_a_sentence(run), class_="lead") if run.evaluated else None,
        tag("div", *_tiles(run), class_="tiles"),
        tag("div", *(_figures(run, side) for side in _SIDES), class_="pair"),
        tag("p", _best(run), class_="note") if run.evaluated else None,
        tag("p", meaning([run]), class_="note") if run.evaluated else None,
    )


def comparison(runs: Sequence[Run]) -> Markup:
    """Several runs side by side: what they reached, what sets them apart, their curves."""
    compared = compare_runs(runs)
    headings = ("run", "method", "rounds", "global last", "global mean", "personal last")
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
    found = [chart for chart in curves.overlay_curves(runs) if chart is not None]
    return _section(
        "Comparison",
        warnings(compared.warnings),
        table(
            (*headings, "personal mean", "worst 10 %"),
            rows,
            text_columns=2,
            caption="Accuracy of each method’s own model, %: last evaluated round, and mean of the "
            "last ten evaluations",
        ),
        tag("p", compared.sentence),
        tag("div", *found, class_="charts") if found else None,
        tag("p", meaning(runs), class_="note"),
    )


def meaning(runs: Sequence[Run]) -> str:
    """What the figures say, for a reader who has not met them."""
    said = []
    if any("global" in run.primary for run in runs):
        said.append(
            "Global: one model for everybody, judged on the balanced test set, so every class "
            "weighs the same."
        )
    if any("personal" in run.primary for run in runs):
        said.append(
            "Personal: each client’s own model, judged on test images that follow the "
            "client’s own class counts; the mean, the spread and the worst tenth are over "
            "all clients."
        )
    said.append(
        "Many, medium and few split the classes by the training images the whole federation has of "
        "them."
    )
    shown = {name for run in runs for side in _SIDES for name in predictors(run, side)}
    explained = [text for name, text in _PREDICTORS.items() if name in shown]
    if explained:
        said.append(f"{'; '.join(explained)}.")
    return " ".join(said)


def what(run: Run) -> Markup:
    """What was run: method, data, split, budget, and the hashes that tell runs apart."""
    config, info = run.config, run.info
    parts = info.get("parts") or {}
    kinds = {
        "shared": "averaged by the server",
        "personal": "stays on its client",
        "fixed": "never moves",
    }
    lives = [
        f"{', '.join(name.replace('_', ' ') for name, kind in parts.items() if kind == wanted)}: "
        f"{text}"
        for wanted, text in kinds.items()
        if wanted in parts.values()
    ]
    counts = info["train-counts"]
    fixed = info.get("prototype-info") or {}
    versions = info.get("versions") or {}
    parameters = info.get("parameters")
    facts: list[tuple[str, str | None]] = [
        ("Method", f"{run.method}{f' ({config.method_options})' if config.method_options else ''}"),
        ("Parts", "; ".join(lives) or None),
        ("Model", config.model + (f", {parameters:,} shared numbers" if parameters else "")),
        ("Fixed classifier", _fixed_in_words(run) if fixed else "none"),
        (
            "Data",
            f"{config.dataset}, {plural(len(counts), 'class', 'classes')}, "
            f"{plural(sum(counts), 'training image')}, from {max(counts):,} to {min(counts):,} a "
            f"class ({config.long_tail} tail, imbalance factor {config.imbalance_factor:g})",
        ),
        (
            "Split",
            f"{config.partitioner} over {plural(config.num_clients, 'client')}{_alpha(config)}",
        ),
        (
            "Budget",
            f"{plural(config.rounds, 'round')}, {config.clients_per_round} clients a round, "
            f"{plural(config.local_epochs, 'local epoch')}, batch {config.batch_size}, "
            f"learning rate {config.lr:g}, seed {config.seed}",
        ),
        ("Started", str(info["created"]) if info.get("created") else None),
        ("Fingerprint", run.fingerprint),
        ("Partition", info.get("partition") or None),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or None),
    ]
    listed = [join([tag("dt", name), tag("dd", text)]) for name, text in facts if text]
    return _section("What was run", tag("dl", *listed))


def _section(title: str, *children: Child) -> Markup:
    return tag("section", tag("h2", title), *children)


def _charts(title: str, charts: Iterable[Markup | None], *before: Child) -> Markup | None:
    found = [chart for chart in charts if chart is not None]
    return _section(title, *before, tag("div", *found, class_="charts")) if found else None


def _in_a_sentence(run: Run) -> str:
    last = run.evaluated[-1]
    said = []
    if (value := last.get(run.primary.get("global", ""))) is not None:
        said.append(f"the global model is right on {percent(value)} % of the balanced test images")
    if (value := last.get(run.primary.get("personal", ""))) is not None:
        clients = last.get("evaluated-clients", run.config.num_clients)
        said.append(
            f"a client’s own model on {percent(value)} % of its own, on average over "
            f"{plural(int(clients), 'client')}"
        )
    if not said:
        return f"Last evaluated after round {last['round']}."
    return f"After round {last['round']} of {run.config.rounds}, {', and '.join(said)}."


def _tiles(run: Run) -> list[Markup]:
    last = run.evaluated[-1] if run.evaluated else {}
    mean = mean_of_last(run, 10)
    tiles = []
    wanted = {
        "Global model": run.primary.get("global", ""),
        "… on few-shot classes": _sibling(run, "global", "few"),
        "Personal models": run.primary.get("personal", ""),
        "… worst tenth of clients": _sibling(run, "personal", "worst-decile"),
    }
    for name, figure in wanted.items():
        if figure in last:
            count = mean["evaluations"]
            below = f"mean of last {count}: {percent(mean.get(figure))}"
            tiles.append(_tile(name, f"{percent(last[figure])} %", below))
    tiles.append(_tile("Rounds", f"{run.rounds_done:,}", f"of {run.config.rounds:,}"))
    seconds = total(run.timing, "seconds")
    if run.timing:
        below = f"{duration(seconds / len(run.timing))} a round"
        tiles.append(_tile("Time", duration(seconds), below))
    return tiles


def _tile(name: str, value: str, below: str) -> Markup:
    return tag(
        "div",
        tag("span", name, class_="name"),
        tag("strong", value),
        tag("span", below, class_="below"),
        class_="tile",
    )


def _sibling(run: Run, side: str, end: str) -> str:
    return f"{run.primary[side].rpartition('/')[0]}/{end}" if side in run.primary else ""


def _figures(run: Run, side: str) -> Markup | None:
    found = figure_rows(run, side)
    if not found:
        return None
    count = min(10, len(run.evaluated))
    rows = []
    for row in found:
        name = f"{row.predictor}{' ★' if row.primary else ''}"
        for label, when, figures in (
            (name, f"round {run.evaluated_rounds[-1]}", row.last),
            ("", f"mean of {count}", row.mean),
        ):
            cells = [percent(figures.get(column)) for column in COLUMNS[side]]
            rows.append((label, when, *cells))
    marked = [i for i in range(len(rows)) if found[i // 2].primary]
    return table(
        ("model", "when", *COLUMNS[side].values()),
        rows,
        text_columns=2,
        caption=_SIDES[side],
        marked=marked,
    )


def _best(run: Run) -> str:
    said = [
        f"{figure} {percent(at['value'])} % in round {at['round']:.0f}"
        for figure, at in best_on_test(run).items()
    ]
    best = (
        f" best-on-test (picked on the test set, so no estimate): {', '.join(said)}."
        if said
        else ""
    )
    return f"★ the model the method is judged by.{best}"


def _alpha(config: Config) -> str:
    return (
        f", α = {config.partitioner_options.get('alpha', 0.5):g}"
        if "dirichlet" in config.partitioner
        else ""
    )


def _fixed_in_words(run: Run) -> str:
    info = run.info["prototype-info"]
    said = [str(info.get("kind", "")).replace("-", " ")]
    if run.prototypes is not None:
        said.append(f"{run.prototypes.shape[1]} features")
    for key, name in (("sparsity", "sparsity"), ("gamma", "row norm")):
        if isinstance(info.get(key), int | float):
            said.append(f"{name} {info[key]:g}")
    reason = f" ({info['reason']})" if info.get("reason") else ""
    return ", ".join(said) + reason


def _split(run: Run) -> Markup | None:
    charts = [federation.heat_map(run), federation.class_sizes(run), federation.client_sizes(run)]
    return _charts("The split", charts)


def _clients(run: Run) -> Markup | None:
    charts = [
        federation.client_dots(run),
        federation.client_histogram(run),
        federation.client_size_scatter(run),
    ]
    return _charts("Clients", charts)


def _classes(run: Run) -> Markup | None:
    charts = [classes.class_accuracy(run), *classes.head_norms(run), classes.cosines(run)]
    title = "Classes" if run.prototypes is None else "Classes and the fixed classifier"
    return _charts(title, charts)


def _time(run: Run) -> Markup | None:
    if not run.timing:
        return None
    count = len(run.timing)
    rows = [
        ("whole run", duration(total(run.timing, "seconds"))),
        ("a round", duration(total(run.timing, "seconds") / count)),
    ]
    rates = [line["images-per-second"] for line in run.timing if "images-per-second" in line]
    if rates:
        rows.append(("images a second, mean", f"{sum(rates) / len(rates):,.0f}"))
    for key, name in (("bytes-down", "server to clients"), ("bytes-up", "clients to server")):
        sent = total(run.timing, key)
        rows += [(f"{name}, whole run", size(sent)), (f"{name}, a round", size(sent / count))]
    listed = table(("what", "how much"), rows)
    return _section("Time and traffic", tag("div", curves.time_curve(run), listed, class_="charts"))


def _failures(run: Run) -> Markup | None:
    if not run.failures:
        return None
    reasons = Counter(str(line.get("reason", "no reason given")) for line in run.failures)
    by_reason = [(reason, f"{count:,}") for reason, count in reasons.most_common(MAX_LISTED)]
    first = [
        (str(line["round"]), str(line.get("client", "–")), str(line.get("reason", "")))
        for line in run.failures[:MAX_LISTED]
    ]
    return _section(
        "Failures",
        table(("reason", "times"), by_reason),
        details(
            f"The first {len(first)}" if len(first) < len(run.failures) else "Each of them",
            table(("round", "client", "reason"), first, text_columns=3),
        ),
    )


def _rounds(run: Run) -> Markup | None:
    if not run.evaluated:
        return None
    names = [key for key in run.evaluated[-1] if key.startswith(("global/", "personal/"))]
    step = -(-len(run.evaluated) // MAX_ROUND_ROWS)
    lines = run.evaluated[::-1][::step][::-1]
    rows = [(str(line["round"]), *(percent(line.get(name)) for name in names)) for line in lines]
    note = f"every {step}th evaluation; " if step > 1 else ""
    return _section(
        "Every evaluation",
        details(
            f"Table of {plural(len(rows), 'evaluation')} ({note}accuracies in %)",
            table(("round", *names), rows),
        ),
    )


def _config(run: Run) -> Markup:
    defaults = load(None).flat()
    flat = run.config.flat()
    changed = [key for key, value in flat.items() if value != defaults[key]]
    rows = [(key, _written(flat[key]), _written(defaults[key])) for key in flat]
    marked = [i for i, key in enumerate(flat) if key in changed]
    summary = f"All {len(flat)} keys; {len(changed)} differ from the defaults and are marked"
    listed = table(("key", "value", "default"), rows, text_columns=3, marked=marked)
    return _section("Configuration", details(summary, listed))


def _written(value: object) -> str:
    return '""' if value == "" else str(value)
