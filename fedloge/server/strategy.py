"""The strategy: whom to ask, what to refuse, how to average.

A Flower `Strategy`, so that Flower's own wrappers compose with it. Unlike the
stock ones it draws partition ids from (seed, round), checks every reply, and
adds up exactly, so that the result does not hang on arrival order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedloge.config import Config
from fedloge.errors import FedlogeError, RunError, UpdateError
from fedloge.messages import wire
from fedloge.messages.averaging import ExactSum, check_update
from fedloge.messages.wire import Stamp
from fedloge.rng import rng
from fedloge.server.aggregation import combination
from fedloge.server.roster import Member, Roster


@dataclass
class RoundOutcome:
    """What became of one round's messages."""

    failures: dict[int, str] = field(default_factory=dict)
    """Partition id -> why its answer was not used."""
    replies: dict[int, dict[str, float | int]] = field(default_factory=dict)
    """Partition id -> the metrics of its answer."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """What the method's clients sent besides, summed."""
    bytes_down: int = 0
    bytes_up: int = 0


class RoundStrategy(Strategy):
    """Deterministic sampling, checked replies, exact weighted mean, a quorum.

    Parameters
    ----------
    template : the shared tensors' names, shapes and dtypes.
    stamp : of the attempt; each round's stamp is made from it.
    uplinks : templates of the further tensors of train and of evaluate answers.
    partial_sums : whether the engine's workers may add up clients' tensors themselves.
    """

    def __init__(
        self,
        config: Config,
        roster: Roster,
        template: Mapping[str, Tensor],
        stamp: Stamp,
        uplinks: Mapping[str, Mapping[str, Tensor]],
        *,
        partial_sums: bool = False,
    ) -> None:
        self.config = config
        self.roster = roster
        self.template = template
        self.stamp = stamp
        self.uplinks = uplinks
        self.partial_sums = partial_sums
        self.outcome = RoundOutcome()
        self._asked: dict[int, Member] = {}
        self._model_bytes = 0

    def sample(self, round: int) -> list[int]:
        """The partition ids of a round, ascending: from (seed, round) alone."""
        drawn = rng(self.config.seed, "sample-clients", round).choice(
            self.config.num_clients, size=self.config.clients_per_round, replace=False
        )
        return sorted(drawn.tolist())

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each client drawn this round."""
        return self._messages("train", server_round, arrays, self.sample(server_round))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for every client: personal figures are over all of them."""
        return self._messages(
            "evaluate", server_round, arrays, list(range(self.config.num_clients))
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """The mean of the good replies, weighted by training images.

        Raises
        ------
        RunError
            Fewer clients than the quorum answered with something usable.
        """
        weights = {client: self._weight(member) for client, member in self._asked.items()}
        combined = combination(
            self.config, self.template, max(1, sum(weights.values())), self.partial_sums
        )
        self._collect(
            "train",
            server_round,
            replies,
            lambda client, reply: combined.add(client, reply, weights[client]),
        )
        self._check_quorum(server_round)
        return combined.result(server_round), self._mean_metrics()

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord:
        """The mean over clients, each counting once; the figures one by one are in `outcome`."""
        self._collect("evaluate", server_round, replies, lambda client, reply: None)
        return self._mean_metrics()

    def summary(self) -> None:
        """Nothing to say: the run's record says it."""

    def _messages(
        self, kind: str, round: int, arrays: ArrayRecord, clients: list[int]
    ) -> list[Message]:
        members = self.roster.members()
        self.outcome = RoundOutcome()
        self._asked = {client: members[client] for client in clients if client in members}
        for client in clients:
            if client not in members:
                self.outcome.failures[client] = "not connected"
        stamp = self.stamp_of(round).to_record()
        total = max(1, sum(self._weight(member) for member in self._asked.values()))
        self._model_bytes = _num_bytes(arrays)
        self.outcome.bytes_down = self._model_bytes * len(self._asked)
        return [
            Message(
                RecordDict(
                    {
                        wire.ARRAYS: arrays,
                        wire.STAMP: stamp,
                        wire.PLAN: wire.Plan(self._weight(member), total).to_record(),
                    }
                ),
                dst_node_id=member.node_id,
                message_type=kind,
                group_id=str(round),
                ttl=self.config.round_timeout,
            )
            for member in self._asked.values()
        ]

    def _weight(self, member: Member) -> int:
        # Under privacy every client counts alike: the noise is made for a mean of equal parts.
        return 1 if self.config.dp_clip else member.num_examples

    def stamp_of(self, round: int) -> Stamp:
        """The stamp of one round of this attempt."""
        values = {**self.stamp.__dict__, "round": round}
        return Stamp(**values)

    def _collect(
        self,
        kind: str,
        round: int,
        replies: Iterable[Message],
        use: Callable[[int, Message], None],
    ) -> None:
        """Hand each good reply to `use`; what is refused there or before becomes that client's failure."""
        by_node = {member.node_id: client for client, member in self._asked.items()}
        outcome, answered = self.outcome, set()
        uplink = self.uplinks[kind]
        sums = ExactSum(uplink)
        for reply in replies:
            client = by_node.get(reply.metadata.src_node_id)
            if client is None or client in answered:
                continue  # an error that Flower itself raised for a node that has gone, or a second answer
            answered.add(client)
            try:
                self._check(round, client, reply)
                further = wire.received_tensors(reply.content, wire.SUMS) if uplink else {}
                check_update(further, uplink, limit=2**40)
                use(client, reply)
                sums.add(further)
            except FedlogeError as exc:
                outcome.failures[client] = str(exc)
                continue
            outcome.replies[client] = wire.metrics_of(reply.content)
            outcome.bytes_up += self._bytes_of(reply.content)
        outcome.sums = sums.total()
        for client in self._asked.keys() - answered:
            outcome.failures[client] = (
                f"no answer within {self.config.round_timeout:g} s, or its node has gone"
            )
        outcome.failures = dict(sorted(outcome.failures.items()))
        outcome.replies = dict(sorted(outcome.replies.items()))

    def _check(self, round: int, client: int, reply: Message) -> None:
        if reply.has_error():
            raise UpdateError(f"error {reply.error.code}: {reply.error.reason}")
        if reason := wire.failure_reason(reply.content):
            raise UpdateError(reason)
        stamp = Stamp.from_content(reply.content)
        if stamp != self.stamp_of(round):
            raise UpdateError(
                f"the answer belongs to round {stamp.round}, attempt {stamp.attempt} of run {stamp.run_id} "
                f"({stamp.fingerprint}), expected round {round}, attempt {self.stamp.attempt} of "
                f"{self.stamp.run_id} ({self.stamp.fingerprint})"
            )
        metrics = wire.metrics_of(reply.content)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise UpdateError(f"its figure {name!r} is {value}, expected a finite number")
        weight = metrics.get(wire.NUM_EXAMPLES)
        expected = self._asked[client].num_examples
        if weight != expected or expected < 1:
            raise UpdateError(
                f"weight {weight!r}, expected the {expected} images it registered with (at least 1)"
            )

    def _bytes_of(self, content: RecordDict) -> int:
        # What a worker of our own engine has added up already, its client would have sent.
        records = (wire.record_of(content, name, ArrayRecord) for name in (wire.ARRAYS, wire.SUMS))
        own = sum(_num_bytes(record) for record in records if record is not None)
        return own + (self._model_bytes if wire.PARTIAL in content else 0)

    def _check_quorum(self, round: int) -> None:
        good, asked = (
            len(self.outcome.replies),
            len(self.outcome.replies) + len(self.outcome.failures),
        )
        # The noise is made for a mean over all who were asked.
        needed = asked if self.config.dp_clip else math.ceil(self.config.min_fraction * asked)
        if good < max(1, needed):
            first = [
                f"client {client}: {reason}"
                for client, reason in list(self.outcome.failures.items())[:3]
            ]
            raise RunError(
                f"round {round}: {good} of {asked} clients answered well, the quorum is {needed} "
                f"(min-fraction {self.config.min_fraction:g}); {'; '.join(first)}"
            )

    def _mean_metrics(self) -> MetricRecord:
        rows = list(self.outcome.replies.values())
        names = sorted({name for row in rows for name in row} - {wire.NUM_EXAMPLES})
        means = {}
        for name in names:
            values = [row[name] for row in rows if name in row]
            means[name] = math.fsum(values) / len(values)
        images = sum(int(row[wire.NUM_EXAMPLES]) for row in rows)
        return MetricRecord({**means, wire.NUM_EXAMPLES: images})


def _num_bytes(arrays: ArrayRecord) -> int:
    return sum(len(array.data) for array in arrays.values())
