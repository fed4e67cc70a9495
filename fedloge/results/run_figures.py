"""Figures of a run to quote: means over its last evaluations, its best, a summary."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from fedloge.results.read_files import Line
from fedloge.results.recorded_run import RecordedRun, is_figure

When = Literal["last", "mean"]
"""After the last evaluated round, or the mean over the last `EVALUATIONS` of them."""
EVALUATIONS = 10


def summary(run: RecordedRun) -> dict[str, Any]:
    """Everything to quote of a run, as plain JSON values.

    ``last`` holds the figures of the last evaluated round, ``mean-of-last-ten`` their means
    over the last ten evaluated rounds (``evaluations`` says how many there were), ``chosen`` the round
    that validation examples choose, by which figure, and the figures of that round, and
    ``best-on-test`` the highest primary figures, picked on the test set. Accuracies are
    in [0, 1]. For a run that was not evaluated yet, all are empty.
    """
    keys = ("run-id", "created", "config-fingerprint", "partition", "prototypes", "parts")
    return {
        "name": run.name,
        "path": str(run.path),
        "method": run.method,
        "fingerprint": run.fingerprint,
        **{key: run.info.get(key) for key in keys},
        "primary": run.primary,
        "rounds": run.config.rounds,
        "rounds-done": run.rounds_done,
        "complete": run.complete,
        "last": run.evaluated[-1] if run.evaluated else {},
        "mean-of-last-ten": mean_of_last(run),
        "best-on-test": best_on_test(run),
        "chosen": chosen(run),
        "seconds": total(run.timing_lines, "seconds"),
        "bytes-down": total(run.timing_lines, "bytes-down"),
        "bytes-up": total(run.timing_lines, "bytes-up"),
        "failures": len(run.failure_lines),
        "torn": list(run.torn),
        "config-changed": run.config_changed,
        "versions": run.info.get("versions", {}),
        "config": run.config.flat(),
    }


def mean_of_last(run: RecordedRun, count: int = EVALUATIONS) -> dict[str, float]:
    """Mean of every figure over the last `count` evaluated rounds, and which rounds these are.

    A figure that one of these rounds lacks is left out, since its mean would be over other
    rounds than the rest.
    """
    lines = run.evaluated[-count:]
    if not lines:
        return {}
    names = [key for key in lines[-1] if is_figure(key) and all(key in line for line in lines)]
    return {
        "evaluations": len(lines),
        "first-round": lines[0]["round"],
        "last-round": lines[-1]["round"],
        **{name: statistics.fmean(line[name] for line in lines) for name in names},
    }


def figures_at(run: RecordedRun, when: When) -> Mapping[str, float]:
    """The figures of a run after its last evaluated round, or their means over the last ten; empty without one."""
    if when == "mean":
        return mean_of_last(run)
    return run.evaluated[-1] if run.evaluated else {}


def chosen(run: RecordedRun) -> dict[str, Any]:
    """The round that validation examples choose, with the figures of that round; empty without any."""
    choice = run.choice
    if choice is None:
        return {}
    (line,) = (line for line in run.metric_lines if line["round"] == choice.round)
    figures = {key: value for key, value in line.items() if is_figure(key)}
    return {
        "round": choice.round,
        "figure": choice.figure,
        "value": choice.value,
        "figures": figures,
    }


def best_on_test(run: RecordedRun) -> dict[str, dict[str, float]]:
    """The highest value of each primary figure and the first round that reached it.

    They are picked on the test set, so they do not estimate how good a model is on other data.
    """
    best = {}
    for figure in run.primary.values():
        lines = [line for line in run.evaluated if figure in line]
        if lines:
            top = max(lines, key=lambda line: (line[figure], -line["round"]))
            best[figure] = {"round": top["round"], "value": top[figure]}
    return best


def client_accuracies(run: RecordedRun, evaluations: int = 1) -> dict[int, float]:
    """Accuracy of the personal model that the method is judged by, for each client, in [0, 1].

    Clients that are held out from training are left out, as from the means over clients.

    Parameters
    ----------
    evaluations : take the mean over so many of the last evaluations; a client that is missing in
        one of them is left out.
    """
    name = run.beside_primary("personal", "accuracy")
    rounds = run.evaluated_rounds[-evaluations:]
    if not name or not rounds:
        return {}
    held_out = set(run.info.get("held-out-clients", ()))
    found: dict[int, list[float]] = {}
    for line in run.last_client_lines if evaluations == 1 else run.client_lines(rounds):
        if name in line and line["client"] not in held_out:
            found.setdefault(line["client"], []).append(line[name])
    return {
        client: statistics.fmean(values)
        for client, values in found.items()
        if len(values) == len(rounds)
    }


def total(lines: Iterable[Line], key: str) -> float:
    """Sum of `key` over the lines that have it."""
    return float(sum(line.get(key, 0) for line in lines))
