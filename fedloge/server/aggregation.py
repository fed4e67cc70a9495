"""How a round's accepted answers become one model: the exact mean, or one of Flower's robust rules."""

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
    """Takes the answers of a round one by one, in any order."""

    def add(self, client: int, reply: Message, weight: int) -> None:
        """Take an answer; `UpdateError` if it cannot be used."""

    def result(self, round: int) -> dict[str, Tensor]:
        """The shared tensors made of all answers taken."""


class ExactMean:
    """The weighted mean, whatever the order of the answers (see `fedloge.messages.averaging`).

    Parameters
    ----------
    template : the tensors' names, shapes and dtypes.
    total_weight : the weight of all clients that were asked.
    partial_sums : whether the engine's workers may have added up their clients' tensors.
    """

    def __init__(
        self, template: Mapping[str, Tensor], total_weight: int, partial_sums: bool
    ) -> None:
        self._template = template
        self._partial_sums = partial_sums
        self._sum = WeightedSum(template, total_weight)
        self._expected = 0

    def add(self, client: int, reply: Message, weight: int) -> None:
        """Add the answer's tensors, or the partial sum that it carries."""
        if PARTIAL in reply.content and not self._partial_sums:
            raise UpdateError(
                "the answer is a partial sum, which only workers of the Ray engine may send"
            )
        self._expected += add_update(reply.content, self._sum, self._template, weight)

    def result(self, round: int) -> dict[str, Tensor]:
        """The mean; `RunError` if the partial sums are not those of the accepted answers."""
        if self._sum.weight != self._expected:
            raise RunError(
                f"round {round}: partial sums weigh {self._sum.weight}, the accepted answers {self._expected}; "
                "a worker lost some of its clients: resume the run"
            )
        return self._sum.mean()


class RobustRule:
    """One of Flower's robust strategies, given the answers in the order of their partition ids."""

    def __init__(self, strategy: Strategy, template: Mapping[str, Tensor]) -> None:
        self._strategy = strategy
        self._template = template
        self._replies: dict[int, Message] = {}

    def add(self, client: int, reply: Message, weight: int) -> None:
        """Check the answer and keep it until all are there."""
        tensors = received_tensors(reply.content, ARRAYS)
        check_update(tensors, self._template)
        reply.content[ARRAYS] = encode(tensors)  # in float32, however it was sent
        self._replies[client] = reply

    def result(self, round: int) -> dict[str, Tensor]:
        """What the rule makes of the answers, in the model's dtypes; `RunError` if it makes nothing."""
        # Flower's rules expect one array record in a reply, and not the sums beside it.
        replies = [only_update(reply) for _, reply in sorted(self._replies.items())]
        arrays, _ = self._strategy.aggregate_train(round, replies)
        if arrays is None:
            raise RunError(f"round {round}: the robust rule made nothing of {len(replies)} answers")
        tensors = decode(arrays)
        return {name: tensors[name].to(t.dtype) for name, t in self._template.items()}


def combination(
    config: Config, template: Mapping[str, Tensor], total_weight: int, partial_sums: bool
) -> Combination:
    """The rule that the config's `aggregation` names, for one round.

    ``mean`` weighs clients by their training images. ``krum`` (Blanchard et al. 2017), ``median``
    and ``trimmed-mean`` (Yin et al. 2018) weigh all clients alike; ``krum`` and ``trimmed-mean``
    tolerate `byzantine-clients` bad answers.

    Parameters
    ----------
    template, total_weight, partial_sums : as for `ExactMean`.
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
