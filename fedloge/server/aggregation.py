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
    DifferenceSum,
    WeightedSum,
    add_update,
    check_update,
    decode,
    encode,
    only_update,
    received_tensors,
)
from fedloge.server.update_sizes import UpdateSizes

_OF_WORKERS = 2**20
"""The group of the answers that workers have added up."""


class Combination(Protocol):
    """Takes the answers of a round one by one, in any order."""

    def add(self, client: int, reply: Message, weight: int) -> int:
        """Take an answer; `UpdateError` if it cannot be used. Returns the group that it is in."""

    def refused(self) -> dict[int, str]:
        """Once all answers are taken: client -> why its answer is left out after all."""

    def keeps(self, group: int) -> bool:
        """Once all answers are taken: whether the answers of a group count."""

    def result(self, round: int) -> dict[str, Tensor]:
        """The shared tensors made of all answers taken."""


class ExactMean:
    """The weighted mean, whatever the order of the answers (see `fedloge.messages.averaging`).

    Parameters
    ----------
    template : the tensors' names, shapes and dtypes.
    total_weight : the weight of all clients that were asked.
    sizes : which updates go too far. Those in a worker's sum are not compared: such a worker is one
        of this run's own processes.
    before : the tensors as they were sent, where only what they moved by is summed (`DifferenceSum`).
    """

    def __init__(
        self,
        template: Mapping[str, Tensor],
        total_weight: int,
        sizes: UpdateSizes,
        before: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._template = template
        self._total_weight = total_weight
        self._sizes = sizes
        self._before = before
        self._sums: dict[int, WeightedSum] = {}
        self._expected = 0

    def add(self, client: int, reply: Message, weight: int) -> int:
        """Add the answer's tensors, or the partial sum that it carries, to the sum of those alike in length."""
        if PARTIAL in reply.content:
            total = self._sum(_OF_WORKERS)
            self._expected += add_update(reply.content, total, self._template, weight)
            return _OF_WORKERS
        tensors = received_tensors(reply.content, ARRAYS)
        check_update(tensors, self._template)
        group = self._sizes.power(client, tensors)
        self._sum(group).add(tensors, weight)
        return group

    def refused(self) -> dict[int, str]:
        """Clients whose updates are too long."""
        return self._sizes.refused()

    def keeps(self, group: int) -> bool:
        """Whether updates of this length count."""
        most = self._sizes.most()
        return group == _OF_WORKERS or most is None or group <= most

    def result(self, round: int) -> dict[str, Tensor]:
        """The mean; `RunError` if the partial sums are not those of the accepted answers."""
        own = self._sums.get(_OF_WORKERS)
        if own is not None and own.weight != self._expected:
            raise RunError(
                f"round {round}: partial sums weigh {own.weight}, the accepted answers {self._expected}; "
                "a worker lost some of its clients: resume the run"
            )
        kept = [total for group, total in self._sums.items() if self.keeps(group)]
        if not kept:
            raise UpdateError("nothing to average: no client gave a usable answer")
        first, *others = kept
        for other in others:
            first.merge_partial(other.partial(), other.weight)
        return first.mean()

    def _sum(self, group: int) -> WeightedSum:
        if group not in self._sums:
            self._sums[group] = (
                WeightedSum(self._template, self._total_weight)
                if self._before is None
                else DifferenceSum(self._before, self._total_weight)
            )
        return self._sums[group]


class RobustRule:
    """One of Flower's robust strategies, given the answers in the order of their partition ids."""

    def __init__(self, strategy: Strategy, template: Mapping[str, Tensor]) -> None:
        self._strategy = strategy
        self._template = template
        self._replies: dict[int, Message] = {}

    def add(self, client: int, reply: Message, weight: int) -> int:
        """Check the answer and keep it until all are there."""
        tensors = received_tensors(reply.content, ARRAYS)
        check_update(tensors, self._template)
        reply.content[ARRAYS] = encode(tensors)  # in float32, however it was sent
        self._replies[client] = reply
        return 0

    def refused(self) -> dict[int, str]:
        """None: the rule itself withstands them."""
        return {}

    def keeps(self, group: int) -> bool:
        """All."""
        return True

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
    config: Config,
    template: Mapping[str, Tensor],
    total_weight: int,
    before: Mapping[str, Tensor],
) -> Combination:
    """The rule that the config's `aggregation` names, for one round.

    ``mean`` weighs clients by their training images. ``krum`` (Blanchard et al. 2017), ``median``
    and ``trimmed-mean`` (Yin et al. 2018) weigh all clients alike; ``krum`` and ``trimmed-mean``
    tolerate `byzantine-clients` bad answers.

    Parameters
    ----------
    template, total_weight : as for `ExactMean`. Of no tensors every rule makes nothing.
    before : the shared tensors as the clients were sent them.
    """
    bad, asked = config.byzantine_clients, config.clients_per_round
    rules: dict[str, Callable[[], Strategy]] = {
        "krum": lambda: Krum(num_malicious_nodes=bad),
        "median": FedMedian,
        "trimmed-mean": lambda: FedTrimmedAvg(beta=bad / asked),
    }
    if config.aggregation == "mean" or not template:
        # Under privacy updates have been clipped, and all who are asked must count.
        sizes = UpdateSizes(before, 0.0 if config.dp_clip else config.max_update_norm)
        moved = before if config.average_bits == 32 else None
        return ExactMean(template, total_weight, sizes, moved)
    return RobustRule(rules[config.aggregation](), template)
