"""Where the time of a round goes, from torch's profiler over the local engine's own run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import noise_data
import torch
from torch.profiler import ProfilerActivity, record_function

import fedloge.client.client
import fedloge.messages.protocol
import fedloge.messages.records
import fedloge.server.figures
import fedloge.server.rounds
from fedloge.client.personal_state import PersonalStore
from fedloge.engines import local
from fedloge.federation.feature_bank import FeatureBank
from fedloge.federation.federation import Federation
from fedloge.learning.client_data import ClientData
from fedloge.learning.optimiser import Optimiser, Sgd
from fedloge.messages.averaging import WeightedSum
from fedloge.methods.fedloge import FedLoGe
from fedloge.observer import Observer, RoundDone

# Labels, and the functions of the hot path that they cover, by the object that holds them. The heads'
# label includes the backbone's time, which is subtracted below.
_LABELS: tuple[tuple[str, Any, str], ...] = (
    ("data", ClientData, "batches"),
    ("forward", FedLoGe, "loss"),
    ("backward", torch.Tensor, "backward"),
    ("optimiser", Sgd, "step"),
    ("optimiser", Optimiser, "zero_grad"),
    ("copies", Federation, "load"),
    ("copies", fedloge.server.rounds, "encode"),
    ("copies", fedloge.messages.protocol, "encode"),
    ("copies", fedloge.messages.records, "decode"),
    ("aggregation", WeightedSum, "add"),
    ("aggregation", WeightedSum, "mean"),
    ("personal state", PersonalStore, "load"),
    ("personal state", PersonalStore, "save"),
    ("evaluation, backbone", FeatureBank, "_compute"),
    ("evaluation, heads", fedloge.client.client, "predictor_guesses"),
    ("evaluation, heads", fedloge.server.figures, "predictor_guesses"),
)


def where_the_time_goes(quick: bool) -> dict[str, dict[str, Any]]:
    """For each model: the share of a round's time under each label, and the costliest operators."""
    results = {}
    for model in ("resnet8",) if quick else ("resnet8", "resnet18"):
        images, tests = (40, 100) if quick else (350, 1250)
        data = noise_data.data_set(5 * images, tests)
        settings = {"model": model, "local_epochs": 1, "evaluate_every": 1, "rounds": 1}
        few = {"num_clients": 5, "clients_per_round": 1}
        with noise_data.federation(data, **settings, **few) as fed:
            results[model] = _profiled(fed)
    return results


def _profiled(fed: Federation) -> dict[str, Any]:
    last = _LastRound()
    with (
        _labelled(),
        torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler,
    ):
        local.run(fed.config, [last])
    seconds = last.seconds
    averages = profiler.key_averages()
    names = {name for name, _, _ in _LABELS}
    parts = {name: 0.0 for name, _, _ in _LABELS}
    for event in averages:
        if event.key in names:
            parts[event.key] = event.cpu_time_total / 1e6
    parts["evaluation, heads"] -= parts["evaluation, backbone"]
    parts["other"] = seconds - sum(parts.values())
    operators = sorted(
        (event for event in averages if event.key not in names),
        key=lambda event: -event.self_cpu_time_total,
    )
    return {
        "seconds": seconds,
        "parts": {name: value / seconds for name, value in parts.items()},
        "operators": {
            event.key: {
                "share": event.self_cpu_time_total / 1e6 / seconds,
                "calls": event.count,
            }
            for event in operators[:10]
        },
    }


class _LastRound(Observer):
    """Keeps the seconds of the last round."""

    seconds = 0.0

    def on_round(self, event: RoundDone) -> None:
        """Keep the round's seconds."""
        self.seconds = event.timing["seconds"]


@contextmanager
def _labelled() -> Iterator[None]:
    before = [(holder, name, holder.__dict__[name]) for _, holder, name in _LABELS]
    try:
        for (label, holder, name), (_, _, function) in zip(_LABELS, before, strict=True):
            setattr(holder, name, _under(label, function))
        yield
    finally:
        for holder, name, function in before:
            setattr(holder, name, function)


def _under(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if label == "data":

        @functools.wraps(function)
        def batches(*args: Any, **kwargs: Any) -> Iterator[Any]:
            made = function(*args, **kwargs)
            while True:
                with record_function(label):
                    batch = next(made, None)
                if batch is None:
                    return
                yield batch

        return batches

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    return call
