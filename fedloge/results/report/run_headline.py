"""The figures of a run to quote, in a sentence, as large numbers and in tables, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedloge.results.figure_rows import (
    QUALITY,
    figure_rows,
    new_client_rows,
    notes,
    predictors,
    quality_rows,
    shown_columns,
)
from fedloge.results.number_words import duration, percent, plural
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.run_figures import best_on_test, mean_of_last, total
from fedloge.results.who_was_measured import (
    in_percent,
    interval,
    measured,
    own_tests,
    test_set,
)

SIDES = ("global", "personal")
_PREDICTORS = {
    "fixed": "“fixed” uses the fixed classifier as its head",
    "raw": "“raw” is the head as it was trained",
    "tuned": "“tuned” is the model after a little training on the client’s own images",
    "realigned": "“realigned” is the same head after GLA-FR, which evens out the norms of the "
    "global head’s rows and gives each client’s head the global directions with the "
    "client’s own norms",
}


@dataclass(frozen=True)
class Table:
    """A table: the first `text_columns` columns are text, the others right-aligned figures.

    `marked` are the numbers of the rows to highlight.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    text_columns: int = 1
    marked: Sequence[int] = ()


@dataclass(frozen=True)
class Tile:
    """A figure in large type, with its name and a line below."""

    name: str
    value: str
    below: str


@dataclass(frozen=True)
class Headline:
    """The figures of a run to quote, and the sentences that go with them."""

    warnings: Sequence[str]
    sentence: str
    tiles: Sequence[Tile]
    tables: Sequence[Table]
    best: str
    meaning: str


def headline(run: RecordedRun) -> Headline:
    """The figures of a run to quote."""
    tables = [table for side in SIDES if (table := _figures(run, side))]
    return Headline(
        warnings=notes(run),
        sentence=_in_a_sentence(run) if run.evaluated else "",
        tiles=_tiles(run),
        tables=tables + _quality(run) + _new_clients(run),
        best=_best(run) if run.evaluated else "",
        meaning=meaning([run]) if run.evaluated else "",
    )


def meaning(runs: Sequence[RecordedRun]) -> str:
    """What the figures mean, for a reader who does not know them."""
    said = []
    if any(predictors(run, "global") for run in runs):
        weigh = ", so every class weighs the same" if "balanced" in test_set(runs[0]) else ""
        said.append(f"Global: one model for everybody, judged on {test_set(runs[0])}{weigh}.")
    if any(predictors(run, "personal") for run in runs):
        said.append(
            f"Personal: each client’s own model, judged on {own_tests(runs[0])}; the mean, the spread and "
            "the worst tenth are over the clients that have test images. The 95 % interval is what the mean "
            "would vary by with other clients like these (bootstrap over clients)."
        )
    if any(run.train_counts is not None for run in runs):
        said.append(
            "Many, medium and few split the classes by the training images the whole federation "
            "has of them."
        )
    if any(quality_rows(run) for run in runs):
        said.append(
            "Mean recall is the sensitivity of each class, averaged over the classes with test images; "
            "AUROC the area under the ROC curve of one class against the rest; ECE how far confidence and "
            "accuracy lie apart, which comes out too high where a client has few test images."
        )
    shown = {name for run in runs for side in SIDES for name in predictors(run, side)}
    explained = [text for name, text in _PREDICTORS.items() if name in shown]
    if explained:
        said.append(f"{'; '.join(explained)}.")
    return " ".join(said)


def _in_a_sentence(run: RecordedRun) -> str:
    last = run.evaluated[-1]
    said = []
    if (value := last.get(run.primary.get("global", ""))) is not None:
        said.append(f"the global model is right on {percent(value)} % of {test_set(run)}")
    if (value := last.get(run.primary.get("personal", ""))) is not None:
        said.append(
            f"a client’s own model on {percent(value)} % of its own, on average over "
            f"{_over_clients(run)}"
        )
    if not said:
        return f"Last evaluated after round {last['round']}."
    return f"After round {last['round']} of {run.config.rounds}, {', and '.join(said)}."


def _over_clients(run: RecordedRun) -> str:
    """Over which clients and images a mean is, and its interval."""
    found, spread = measured(run), interval(run)
    if found is None:  # the lines of the clients are missing
        last, clients = run.evaluated[-1], run.config.num_clients
        return plural(int(last.get("measured-clients", clients)), "client")
    return str(found) + (f" (95 % interval over clients {in_percent(spread)})" if spread else "")


def _tiles(run: RecordedRun) -> list[Tile]:
    last = run.evaluated[-1] if run.evaluated else {}
    mean = mean_of_last(run)
    wanted = {
        "Global model": run.primary.get("global", ""),
        "… on few-shot classes": run.beside_primary("global", "few"),
        "Personal models": run.primary.get("personal", ""),
        "… worst tenth of clients": run.beside_primary("personal", "worst-decile"),
    }
    tiles = [
        Tile(
            name,
            f"{percent(last[figure])} %",
            f"mean of last {mean['evaluations']}: {percent(mean.get(figure))}",
        )
        for name, figure in wanted.items()
        if figure in last
    ]
    tiles.append(Tile("Rounds", f"{run.rounds_done:,}", f"of {run.config.rounds:,}"))
    if run.timing_lines:
        seconds = total(run.timing_lines, "seconds")
        below = f"{duration(seconds / len(run.timing_lines))} per round"
        tiles.append(Tile("Time", duration(seconds), below))
    return tiles


def _figures(run: RecordedRun, side: str) -> Table | None:
    found = figure_rows(run, side)
    if not found:
        return None
    columns = shown_columns(side, found)
    count = min(10, len(run.evaluated))
    rows = []
    for row in found:
        name = f"{row.predictor}{' ★' if row.primary else ''}"
        for label, when, figures in (
            (name, f"round {run.evaluated_rounds[-1]}", row.last),
            ("", f"mean of {count}", row.mean),
        ):
            rows.append((label, when, *(percent(figures.get(column)) for column in columns)))
    captions = {
        "global": f"Global model on {test_set(run)}, %",
        "personal": "Personal models, each on its own client’s test images, %",
    }
    marked = [i for i in range(len(rows)) if found[i // 2].primary]
    return Table(("model", "when", *columns.values()), rows, captions[side], 2, marked)


def _quality(run: RecordedRun) -> list[Table]:
    found = quality_rows(run)
    if not found:
        return []
    rows = [
        (f"{name} ★" if primary else name, *(percent(figures.get(column)) for column in QUALITY))
        for name, primary, figures in found
    ]
    marked = [i for i, (_, primary, _) in enumerate(found) if primary]
    caption = f"Beside accuracy, round {run.evaluated_rounds[-1]}, %"
    return [Table(("model", *QUALITY.values()), rows, caption, marked=marked)]


def _new_clients(run: RecordedRun) -> list[Table]:
    found = new_client_rows(run)
    if not found:
        return []
    columns = {
        "mean": "mean",
        "std": "std",
        "worst-decile": "worst 10\N{NO-BREAK SPACE}%",
        **QUALITY,
    }
    rows = [
        (name, *(percent(figures.get(column)) for column in columns)) for name, figures in found
    ]
    held_out = plural(len(run.info.get("held-out-clients") or []), "client")
    caption = f"New clients: {held_out} held out from training, each on its own test images, %"
    return [Table(("model", *columns.values()), rows, caption)]


def _best(run: RecordedRun) -> str:
    said = [
        f"{figure} {percent(at['value'])} % in round {at['round']:.0f}"
        for figure, at in best_on_test(run).items()
    ]
    best = (
        f" Best on test (picked on the test set, so no estimate): {', '.join(said)}."
        if said
        else ""
    )
    return f"★ the model the method is judged by.{best}"
