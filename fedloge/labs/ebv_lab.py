"""Equiangular basis vectors as a fixed head: more classes than features, and no head to train or to average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from fedloge.geometry.basis_vectors import basis_vectors
from fedloge.geometry.certificate import certificate
from fedloge.geometry.collapse_targets import distance
from fedloge.labs.finding import Finding, Lab
from fedloge.labs.toy_classes import (
    SKEWS,
    Classes,
    Loss,
    class_sums,
    gaussian_classes,
    small_network,
    trained,
)

CLASSES, INPUTS, FEATURES, EACH, STEPS = 60, 32, 32, 100, 900
# The paper's temperature and label smoothing.
_TEMPERATURE, _SMOOTHING = 0.07, 0.1
_PAPER_SIZE, _PAPER_COS = (1000, 100), 0.135


def run(seed: int) -> tuple[Sequence[Finding], Figure]:
    """The paper's certificate, and both heads at one place and over clients for each skew."""
    vectors, features = _PAPER_SIZE
    found = certificate(basis_vectors(vectors, features, max_cos=_PAPER_COS, seed=seed))
    of = gaussian_classes([EACH] * CLASSES, INPUTS, 4.5, seed)
    rows = basis_vectors(CLASSES, FEATURES, seed=seed, max_steps=300)
    start = small_network(INPUTS, FEATURES, CLASSES, seed)
    nets: dict[str, dict[str, nn.Module]] = {"basis vectors": {}, "trained head": {}}
    for place, alpha in [("one place", None), *((f"FedAvg, alpha {a:g}", a) for a in SKEWS)]:
        for name, fixed in (("basis vectors", rows), ("trained head", None)):
            nets[name][place] = trained(
                start, of, _loss(fixed), steps=STEPS, alpha=alpha, seed=seed
            )
    right = {
        name: {
            place: _accuracy(net, of, None if name == "trained head" else rows)
            for place, net in each.items()
        }
        for name, each in nets.items()
    }
    bent = {p: distance(class_sums(net, of), rows).cos for p, net in nets["basis vectors"].items()}
    findings = [
        Finding(
            f"largest |cos| of {vectors:,} vectors in {features} dimensions",
            found.abs_cos_max,
            f"at most {_PAPER_COS} (Welch {found.welch:.3f})",
            found.abs_cos_max <= _PAPER_COS,
        ),
        *_of_accuracy(right),
        *(
            Finding(f"distance of the classes' angles to the basis vectors, {place}", figure)
            for place, figure in bent.items()
        ),
    ]
    return findings, _picture(right, bent)


def _of_accuracy(right: Mapping[str, Mapping[str, float]]) -> list[Finding]:
    found = []
    for place in right["trained head"]:
        ahead = right["basis vectors"][place] - right["trained head"][place]
        alone = place == "one place"
        found += [
            Finding(f"accuracy, {name}, {place}", each[place]) for name, each in right.items()
        ]
        found.append(
            Finding(
                f"accuracy that basis vectors gain, {place}",
                ahead,
                "0 or more, within 0.01" if alone else "",
                ahead > -0.01 if alone else None,
            )
        )
    return found


def _loss(rows: Float[Tensor, "classes features"] | None) -> Loss:
    """The paper's loss against fixed rows, or cross-entropy on the network's own head."""

    def loss(net: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        h = net.get_submodule("body")(inputs)
        if rows is None:
            return cross_entropy(net.get_submodule("head")(h), labels)
        logits = normalize(h) @ rows.T / _TEMPERATURE
        return cross_entropy(logits, labels, label_smoothing=_SMOOTHING)

    return loss


@torch.no_grad()
def _accuracy(net: nn.Module, of: Classes, rows: Tensor | None) -> float:
    h = net.get_submodule("body")(of.test_inputs)
    logits = net.get_submodule("head")(h) if rows is None else h @ rows.T
    return float((logits.argmax(dim=1) == of.test_labels).double().mean())


def _picture(right: Mapping[str, Mapping[str, float]], bent: Mapping[str, float]) -> Figure:
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    left, second = figure.subplots(1, 2)
    at = np.arange(len(bent))
    for (name, each), shift, colour in zip(
        right.items(), (-0.2, 0.2), ("#2a6fb0", "#b0b0b0"), strict=True
    ):
        left.bar(at + shift, list(each.values()), 0.38, color=colour, label=name)
    second.bar(at, list(bent.values()), 0.5, color="#2a6fb0")
    left.set_ylabel(f"accuracy, {CLASSES} classes, {FEATURES} features")
    # Above the bars.
    left.set_ylim(0, 1.25 * max(max(each.values()) for each in right.values()))
    left.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    second.set_ylabel("distance of the classes' angles\nto the basis vectors")
    for axes in (left, second):
        axes.set_xticks(at, [place.replace(", ", ",\n") for place in bent], fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


EBV = Lab(
    "ebv",
    "Fixed equiangular basis vectors classify no worse than a trained head, in fewer dimensions than classes (Shen "
    "et al., CVPR 2023).",
    run,
)
