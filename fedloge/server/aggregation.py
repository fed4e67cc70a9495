"""How a round's good answers become one model: the exact mean, or one of Flower's robust rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from flwr.app import Message
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, Krum, Strategy
from torch import Tensor

from fedloge.config import Config
from fedloge.errors import RunError, UpdateError
from fedloge.messages import (
    ARRAYS,
    PARTIAL,
    WeightedSum,
    add_update,
    check_update,
    decode,
    encode,
    only_update,
    received_tensors,
)


class Combination(Protocol):
    """Takes a round's answers one by one, in any order."""

    def add(self, client: int, reply: Message, weight: int) -> None:
        """Take an answer; `UpdateError` if it cannot be used."""

    def result(self, round: int) -> dict[str, Tensor]:
        """The shared tensors of all that was taken."""


class ExactMean:
    """The weighted mean, free of order (see `fedloge.messages.averaging`).

    Parameters
    ----------
    template : the tensors' names, shapes and dtypes.
    total_weight : the weight of all clients that were asked.
    partial_sums : whether the engine's workers may have added up clients' tensors themselves.
    """

    def __init__(
        self, template: Mapping[str, Tensor], total_weight: int, partial_sums: bool
    ) -> None:
        self._template = template
        self._partial_sums = partial_sums
        self._sum = WeightedSum(template, total_weight)
        self._expected = 0

    def add(self, client: int, reply: Message, weight: int) -> None:
        """Add the answer's tensors, or the partial sum it brings."""
        if PARTIAL in reply.content and not self._partial_sums:
            raise UpdateError(
                "the answer is a partial sum, which only an engine of our own may send"
            )
        self._expected += add_update(reply.content, self._sum, self._template, weight)

    def result(self, round: int) -> dict[str, Tensor]:
        """The mean."""
        if self._sum.weight != self._expected:
            raise RunError(
                f"round {round}: partial sums weigh {self._sum.weight}, the accepted answers {self._expected}; "
                "a worker lost some of its clients: resume the run"
            )
        return self._sum.mean()


class RobustRule:
    """One of Flower's robust strategies over the answers in the order of their partition ids."""

    def __init__(self, strategy: Strategy, template: Mapping[str, Tensor]) -> None:
        self._strategy = strategy
        self._template = template
        self._replies: dict[int, Message] = {}

    def add(self, client: int, reply: Message, weight: int) -> None:
        """Keep the answer until all are there."""
        tensors = received_tensors(reply.content, ARRAYS)
        check_update(tensors, self._template)
        reply.content[ARRAYS] = encode(tensors)  # in float32, however it was sent
        self._replies[client] = reply

    def result(self, round: int) -> dict[str, Tensor]:
        """What the rule makes of them, in the model's own dtypes."""
        # These rules read one array record; whatever else a reply carries is not theirs.
        replies = [only_update(reply) for _, reply in sorted(self._replies.items())]
        arrays, _ = self._strategy.aggregate_train(round, replies)
        if arrays is None:
            raise RunError(f"round {round}: the robust rule made nothing of {len(replies)} answers")
        tensors = decode(arrays)
        return {name: tensors[name].to(t.dtype) for name, t in self._template.items()}


def combination(
    config: Config, template: Mapping[str, Tensor], total_weight: int, partial_sums: bool
) -> Combination:
    """What the config's `aggregation` names, for one round.

    ``krum`` (Blanchard et al. 2017), ``median`` and ``trimmed-mean`` (Yin et al. 2018) count
    every client alike; ``krum`` and ``trimmed-mean`` stand up to `byzantine-clients` of them.
    """
    bad, asked = config.byzantine_clients, config.clients_per_round
    rules: dict[str, Callable[[], Strategy]] = {
        "krum": lambda: Krum(num_malicious_nodes=bad),
        "median": FedMedian,
        "trimmed-mean": lambda: FedTrimmedAvg(beta=bad / asked),
    }
    if config.aggregation == "mean":
        return ExactMean(template, total_weight, partial_sums)
    return RobustRule(rules[config.aggregation](), template)
