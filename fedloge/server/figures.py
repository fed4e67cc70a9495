"""The figures of a round: of the global models, measured here, and of the clients' answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedloge.federation.evaluation import predictor_confusion
from fedloge.federation.federation import Federation
from fedloge.learning.metrics import across_clients, per_class_accuracy, summary
from fedloge.messages import NUM_EXAMPLES, Stamp
from fedloge.methods.method import Part


def global_figures(
    federation: Federation, stamp: Stamp, shared: Mapping[str, Tensor], sums: Mapping[str, Tensor]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measure each global model on the balanced test set, and let the probes finish.

    Returns figures of the round (accuracies in [0, 1]), and lists with one number per class.

    Parameters
    ----------
    sums : what the probes asked for, summed over clients; each named ``PROBE/NAME``.
    """
    fed = federation
    # If norm layers stay with the clients, there is no global network to measure or to probe.
    if not fed.has_global_network:
        return {}, {}
    net = fed.load(shared, fed.initial[Part.PERSONAL]).eval()
    predictors = fed.method.global_predictors(net)
    figures: dict[str, float] = {}
    by_class: dict[str, Any] = {}
    for probe in fed.probes:
        prefix = f"{probe.name}/"
        own = {k.removeprefix(prefix): v for k, v in sums.items() if k.startswith(prefix)}
        findings = probe.finish(net, own)
        predictors |= findings.predictors
        figures |= {f"probe/{prefix}{key}": value for key, value in findings.figures.items()}
        by_class |= {
            f"probe/{prefix}{key}": [None if math.isnan(v) else v for v in values]
            for key, values in findings.by_class.items()
        }
    # If the images lie with the clients, the server may have none to measure on.
    if not len(fed.test):
        return figures, by_class
    everything = torch.arange(len(fed.test), device=fed.device)
    version = stamp.version if fed.backbone_is_shared else None
    for name, predictor in predictors.items():
        confusion = predictor_confusion(
            fed.method, net, predictor, fed.bank, version, everything
        ).cpu()
        figures |= {
            f"global/{name}/{key}": value for key, value in summary(confusion, fed.groups).items()
        }
        by_class[f"global/{name}/accuracy"] = [
            None if math.isnan(value) else value for value in per_class_accuracy(confusion).tolist()
        ]
    for name, norms in fed.method.head_norms(net).items():
        by_class[f"norms/{name}"] = norms.tolist()
    return figures, by_class


def personal_figures(replies: Mapping[int, Mapping[str, float | int]]) -> dict[str, float]:
    """Figures over clients: mean, deviation and worst decile of each accuracy, and means of the rest."""
    names = sorted({key for row in replies.values() for key in row if key.startswith("personal/")})
    figures: dict[str, float] = {}
    for name in names:
        values = [float(row[name]) for row in replies.values() if name in row]
        model, _, figure = name.rpartition("/")
        if figure == "accuracy":
            figures |= {f"{model}/{key}": value for key, value in across_clients(values).items()}
        else:
            figures[name] = sum(values) / len(values)
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
