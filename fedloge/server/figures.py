"""The figures of a round: of the global models, measured here, and of the clients' answers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedloge.federation.evaluation import predictor_guesses
from fedloge.federation.federation import Federation
from fedloge.learning.calibration import Reliability
from fedloge.learning.metrics import (
    across_clients,
    interval_over_clients,
    per_class_accuracy,
    summary,
)
from fedloge.learning.probes import of_probe
from fedloge.messages import NUM_EXAMPLES, Stamp
from fedloge.methods.method import Part, Predictor
from fedloge.rng import rng


@dataclass
class Measured:
    """What is found of the models in one evaluation.

    Attributes
    ----------
    figures : for the round's line of metrics.
    by_class : lists with one number per class, None where there is none.
    reliability : bins of confidence, by the name of what they are of.
    made : the global models that probes made, by name.
    """

    figures: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, Any] = field(default_factory=dict)
    reliability: dict[str, Reliability] = field(default_factory=dict)
    made: dict[str, Predictor] = field(default_factory=dict)

    def add_classes(self, name: str, values: Iterable[float]) -> None:
        """Add a list over the classes."""
        self.by_class[name] = [None if math.isnan(value) else value for value in values]


def measured(
    federation: Federation,
    stamp: Stamp,
    shared: Mapping[str, Tensor],
    sums: Mapping[str, Tensor] | None,
) -> Measured:
    """Let the probes finish, and measure each global model on the server's test set.

    Figures are accuracies and the like, in [0, 1]: ``global/NAME/all``, ``many``, ``medium`` and ``few``,
    and those of `Guesses.quality`.

    Parameters
    ----------
    sums : what the probes asked for, summed over clients; each named ``PROBE/NAME``. None: that was lost, so
        that no probe can finish.
    """
    fed, found = federation, Measured()
    net = fed.load(shared, fed.initial[Part.PERSONAL]).eval()
    # If norm layers stay with the clients, there is no global network to measure.
    whole = fed.has_global_network
    predictors = fed.method.global_predictors(net) if whole else {}
    for probe in fed.probes:
        if sums is None:
            break
        prefix = f"{probe.name}/"
        findings = probe.finish(net, of_probe(probe, sums))
        found.made |= findings.predictors
        found.figures |= {f"probe/{prefix}{key}": value for key, value in findings.figures.items()}
        for key, values in findings.by_class.items():
            found.add_classes(f"probe/{prefix}{key}", values)
        found.reliability |= {f"probe/{prefix}{k}": v for k, v in findings.reliability.items()}
    # If the images lie with the clients, the server may have none to measure on.
    everything = fed.global_test
    if not (whole and len(everything)):
        return found
    version = fed.features_version(stamp.version)
    for name, predictor in (predictors | found.made).items():
        guesses = predictor_guesses(fed.method, net, predictor, fed.bank, version, everything)
        own_figures = summary(guesses.tally, fed.groups) | guesses.quality()
        found.figures |= {f"global/{name}/{key}": value for key, value in own_figures.items()}
        shares = per_class_accuracy(guesses.tally)
        found.add_classes(f"global/{name}/accuracy", shares.tolist())
        if guesses.reliability is not None:
            found.reliability[f"global/{name}"] = guesses.reliability
    for name, norms in fed.method.head_norms(net).items():
        found.by_class[f"norms/{name}"] = norms.tolist()
    for name, each in fed.method.class_figures(net).items():
        found.by_class[f"method/{name}"] = each.tolist()
    return found


def reliability_lines(round: int, reliability: Mapping[str, Reliability]) -> list[dict[str, Any]]:
    """One line per model for the record of calibration: a list over the bins for each sum."""
    names = ("examples", "confidence", "right")
    return [
        {"round": round, "model": model, **dict(zip(names, each.sums.tolist(), strict=True))}
        for model, each in reliability.items()
    ]


def personal_figures(
    replies: Mapping[int, Mapping[str, float | int]], seed: int, held_out: Collection[int] = ()
) -> dict[str, Any]:
    """Figures over clients: mean, deviation and worst decile of each accuracy, and means of the rest.

    ``measured-clients`` and ``measured-images`` say over how many clients and test images; a client
    without test images counts in neither. ``interval/personal/MODEL/mean`` is the 95 % bootstrap
    interval of a mean over clients, as two numbers, from two clients on.

    Clients that are held out from training stand apart: theirs are ``held-out/MODEL/...``,
    ``interval/held-out/MODEL/mean``, ``measured-held-out-clients`` and ``measured-held-out-images``.
    ``new-clients/STAGE/...`` are theirs as clients that join after this round: under the shared model,
    with their own before it has trained, and after one local step
    (`fedloge.federation.new_clients.STAGES`).

    Parameters
    ----------
    seed : of the run, from which the bootstrap draws.
    held_out : the clients that never train.
    """
    trained = {k: row for k, row in replies.items() if k not in held_out}
    figures = _over_clients(trained, "personal", seed)
    figures |= _measured(trained, "measured")
    if held_out:
        apart = {k: row for k, row in replies.items() if k in held_out}
        figures |= _over_clients(apart, "held-out", seed)
        figures |= _over_clients(apart, "new-clients", seed, said="new")
        figures |= _measured(apart, "measured-held-out")
    return figures


def _measured(replies: Mapping[int, Mapping[str, float | int]], name: str) -> dict[str, int]:
    images = [int(row.get("num-test", 0)) for row in replies.values()]
    return {f"{name}-clients": sum(n > 0 for n in images), f"{name}-images": sum(images)}


def _over_clients(
    replies: Mapping[int, Mapping[str, float | int]], side: str, seed: int, said: str = "personal"
) -> dict[str, Any]:
    """The figures that clients give as ``SAID/MODEL/...``, as ``SIDE/MODEL/...`` over them."""
    names = sorted({key for row in replies.values() for key in row if key.startswith(f"{said}/")})
    figures: dict[str, Any] = {}
    for name in names:
        values = [float(row[name]) for row in replies.values() if name in row]
        shown = f"{side}/{name.removeprefix(f'{said}/')}"
        model, _, figure = shown.rpartition("/")
        if figure == "accuracy":
            figures |= {f"{model}/{key}": value for key, value in across_clients(values).items()}
            interval = interval_over_clients(values, rng(seed, "interval-over-clients"))
            if interval:
                figures[f"interval/{model}/mean"] = list(interval)
        else:
            figures[shown] = sum(values) / len(values)
    return figures


def client_rows(
    round: int, replies: Mapping[int, Mapping[str, float | int]]
) -> list[dict[str, Any]]:
    """One line per client for the record; what a client says does not replace the record's own keys."""
    rows = []
    for client, row in replies.items():
        own = {"round": round, "client": client, "num-train": row[NUM_EXAMPLES]}
        said = {key: value for key, value in sorted(row.items()) if key != NUM_EXAMPLES}
        rows.append({**own, **said, **own})
    return rows
