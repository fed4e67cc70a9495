"""Heads in closed form on the features of a finished run, in a simulation: nothing is trained."""

from __future__ import annotations

from functools import partial

import torch

from fedloge.errors import InputError
from fedloge.federation import Federation
from fedloge.federation.evaluation import predictor_guesses
from fedloge.geometry.closed_form import FeatureSums, balanced_weights
from fedloge.learning.metrics import summary
from fedloge.learning.probes.closed_form_heads import balanced_model, closed_form_models
from fedloge.methods.method import Part, Predictor
from fedloge.results.export import opened
from fedloge.results.recorded_run import RecordedRun
from fedloge.server.made_heads import global_models


def closed_form_figures(run: RecordedRun) -> dict[str, dict[str, float]]:
    """Accuracy of each head, and of the run's own global models, on the test set, in [0, 1].

    The heads are those of `fedloge.geometry.closed_form`, from the features of all clients' training
    examples under the newest checkpoint: ``fed3r``, ``fed3r-normalised``, ``fed3r-balanced`` and
    ``fedcof``. Each has ``all`` and, where there are such classes, ``many``, ``medium`` and ``few``.

    Raises
    ------
    InputError
        The clients hold their own images, or the run has no global network or no test images.
    """
    if run.config.on_node:
        raise InputError(
            "closed-form: the images of this run lie with its clients; use probes=closed-form in a run of theirs"
        )
    fed, checkpoint = opened(run)
    if not fed.has_global_network or not len(fed.test):
        raise InputError("closed-form: this run has no global network, or no test images")
    net = fed.load(checkpoint.shared, fed.initial[Part.PERSONAL]).eval()
    models = global_models(fed, net, checkpoint.made) | _solved(fed)
    everything = torch.arange(len(fed.test), device=fed.device)
    figures = {}
    for name, predictor in models.items():
        guesses = predictor_guesses(fed.method, net, predictor, fed.bank, "newest", everything)
        figures[name] = summary(guesses.tally, fed.groups)
    return figures


@torch.no_grad()
def _solved(fed: Federation) -> dict[str, Predictor]:
    """The heads of the network as it is loaded."""
    features, labels, classes = [], [], fed.data.num_classes
    for client, held in enumerate(fed.partition.train):
        if len(held):
            data = fed.client_data(client, 0, {})
            own, labels_of = data.plain_features(partial(fed.method.features, fed.net))
            features.append(own)
            labels.append(labels_of)
    h, y = torch.cat(features), torch.cat(labels)
    known = FeatureSums.of(h, y, classes)
    weighted = FeatureSums.of(h, y, classes, balanced_weights(known.counts))
    return closed_form_models(known) | balanced_model(weighted)
