"""The strategy: which clients to ask, which answers to refuse, how to average.

It is a Flower `Strategy`, so that Flower's own wrappers can be put around it. Unlike Flower's
own strategies it draws partition ids from (seed, round), checks every reply, and adds up
exactly, so that the result does not depend on arrival order. A round's result stays tensors
(`RoundStrategy.average`), and becomes records only for a message or a wrapper.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedloge.config import Config
from fedloge.errors import FedlogeError, RunError, printable_line
from fedloge.messages import (
    ARRAYS,
    GIVEN,
    NUM_EXAMPLES,
    PARTIAL,
    PLAN,
    SECOND_PASS,
    STAMP,
    ExactSum,
    Plan,
    Stamp,
    check_update,
    decode,
    encode,
    merge_sums,
    num_bytes,
    received_tensors,
)
from fedloge.messages.cohort import COHORT, Kind
from fedloge.server.aggregation import Combination, combination
from fedloge.server.masked_mean import MaskedMean, SumLost, begin_sum
from fedloge.server.open_roster import OpenRoster
from fedloge.server.replies import Asked, bytes_of, digest_of, read_reply
from fedloge.server.roster import Member, Roster
from fedloge.server.round_outcome import RoundOutcome, check_quorum
from fedloge.server.sampling import drawn_clients
from fedloge.server.weights import Weights


class RoundStrategy(Strategy):
    """Deterministic sampling, checked replies, exact weighted mean, a quorum.

    Parameters
    ----------
    template : names, shapes and dtypes of the tensors that clients send back.
    stamp : of this attempt; each round's stamp is made from it.
    uplinks : for ``train``, ``evaluate`` and `SECOND_PASS`, templates of the further tensors in an answer.
    partial_sums : whether the engine's workers may add up their clients' tensors.
    open_roster : where clients come and go; None: all take part.

    Attributes
    ----------
    present : with an open roster, who is there in this round.
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
        open_roster: OpenRoster | None = None,
    ) -> None:
        self.config = config
        self.roster = roster
        self.template = template
        self.stamp = stamp
        self.uplinks = uplinks
        self.partial_sums = partial_sums
        self.outcome = RoundOutcome()
        self._asked: dict[int, Member] = {}
        at_start = open_roster.at_start().images if open_roster else None
        self._weights = Weights(config, roster, at_start)
        self._open_roster = open_roster
        self.present: list[int] | None = None
        # What the answer of a client takes that a worker has added up: its tensors, if any, and its sums.
        self._answer_bytes = self._sums_bytes = num_bytes(encode(uplinks["train"]))
        self._masked: MaskedMean | None = None
        self._before: dict[str, Tensor] = {}

    def sample(self, round: int) -> list[int]:
        """The partition ids of the clients of a round (`drawn_clients`)."""
        return drawn_clients(self.config, round, self.present)

    def begin(self, round: int) -> None:
        """Before a round: find out who is there; `RunError` if they are too few."""
        if self._open_roster is not None:
            self.present = self._open_roster.of(round)

    @property
    def everybody(self) -> list[int]:
        """The clients that are measured, ascending."""
        return list(range(self.config.num_clients)) if self.present is None else self.present

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each client drawn this round."""
        # Whose updates are summed on workers, or masked, are not compared with what they were sent.
        summed = self.partial_sums or self.config.secure_aggregation
        self._before = decode(arrays) if self.template and not summed else {}
        return self._messages("train", server_round, arrays, self.sample(server_round), grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for every client that is there, since personal figures are over all of them."""
        return self._messages("evaluate", server_round, arrays, self.everybody, grid)

    def configure_second_pass(
        self, round: int, arrays: ArrayRecord, grid: Grid, given: Mapping[str, Tensor]
    ) -> list[Message]:
        """One message for every client, with what probes give them when they ask again."""
        return self._messages(SECOND_PASS, round, arrays, self.everybody, grid, encode(given))

    def second_sums(self, round: int, replies: Iterable[Message]) -> dict[str, Tensor]:
        """The sums over the accepted answers to `configure_second_pass`; `SumLost` as `aggregate_evaluate`."""
        self._collect_measured(SECOND_PASS, round, replies)
        return self.outcome.sums

    def average(
        self, round: int, replies: Iterable[Message]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The mean of the accepted replies' shared tensors, weighted by training examples, and of their figures.

        Raises
        ------
        RunError
            Fewer clients than the quorum answered with something usable.
        SumLost
            With secure aggregation: the sum's masks cannot be taken off.
        """
        weights = {client: self._weights.of(member) for client, member in self._asked.items()}
        masked, total = self._masked, max(1, sum(weights.values()))
        mean = combination(self.config, self.template, total, self._before)
        combined = masked or mean
        self._collect(
            "train",
            round,
            replies,
            lambda client, reply: combined.add(client, reply, weights[client]),
            None if masked else mean,
        )
        if self._masked is not None:
            self._leave_out(self._masked.odd_ones())
        self._check_quorum(round)
        try:
            return combined.result(round), self._mean_figures()
        except SumLost as exc:
            self._leave_out(dict.fromkeys([*self.outcome.replies], f"the sum was lost: {exc}"))
            raise

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """`average` as records, for Flower's wrappers."""
        shared, figures = self.average(server_round, replies)
        return encode(shared), self._as_record(figures)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord:
        """The unweighted mean over clients; each client's own figures are in `outcome`.

        `SumLost`: with secure aggregation, the masks of the probes' sums cannot be taken off.
        """
        self._collect_measured("evaluate", server_round, replies)
        return self._as_record(self._mean_figures())

    def _collect_measured(self, kind: Kind, round: int, replies: Iterable[Message]) -> None:
        masked = self._masked
        add = masked.add if masked else (lambda client, reply, weight: None)
        self._collect(kind, round, replies, lambda client, reply: add(client, reply, 1))
        if masked is not None:
            masked.result(round)
            if masked.read:
                self.outcome.sums = masked.read.sums

    def summary(self) -> None:
        """Nothing: Flower prints this, and the run's record holds it already."""

    def stamp_of(self, round: int) -> Stamp:
        """The stamp of one round of this attempt."""
        return dataclasses.replace(self.stamp, round=round)

    def _messages(
        self,
        kind: Kind,
        round: int,
        arrays: ArrayRecord,
        clients: list[int],
        grid: Grid,
        given: ArrayRecord | None = None,
    ) -> list[Message]:
        members = self.roster.members()
        self._asked = {client: members[client] for client in clients if client in members}
        sent = num_bytes(arrays)
        self._answer_bytes = self._sums_bytes + (sent if self.template else 0)
        self.outcome = RoundOutcome(
            failures={client: "not connected" for client in clients if client not in members},
            bytes_down=(sent + (num_bytes(given) if given else 0)) * len(self._asked),
        )
        stamp = self.stamp_of(round).to_record()
        total = max(1, sum(self._weights.of(member) for member in self._asked.values()))
        cohort = self._secure_sum(kind, round, [arrays, given], grid)
        further = {} if given is None else {GIVEN: given}
        return [
            Message(
                RecordDict(
                    {
                        ARRAYS: arrays,
                        STAMP: stamp,
                        PLAN: Plan(self._weights.of(member), total).to_record(),
                        **cohort,
                        **further,
                    }
                ),
                dst_node_id=member.node_id,
                message_type=kind,
                group_id=str(round),
                ttl=self.config.round_timeout,
            )
            for member in self._asked.values()
        ]

    def _secure_sum(
        self, kind: Kind, round: int, sent: list[ArrayRecord | None], grid: Grid
    ) -> dict[str, ConfigRecord]:
        """Begin the sum of a round's masked answers; returns what goes into its messages."""
        self._masked = None
        sums = self.uplinks[kind]
        if not self.config.secure_aggregation or (kind != "train" and not sums):
            return {}
        asked = {k: (m.node_id, self._weights.of(m)) for k, m in self._asked.items()}
        shared = self.template if kind == "train" else {}
        self._masked = begin_sum(
            self.config, kind, self.stamp_of(round), asked, sent, shared, sums, grid
        )
        return {COHORT: self._masked.cohort.to_record()}

    def check(self, round: int, replies: Iterable[Message]) -> None:
        """Check answers to train messages before others than this strategy read them.

        `RunError`: one is no answer that `average` would take.
        """
        by_node = {member.node_id: client for client, member in self._asked.items()}
        for reply in replies:
            client = by_node.get(reply.metadata.src_node_id)
            if client is None or reply.has_error():
                continue
            if reason := self.verdict(round, client, reply):
                raise RunError(
                    f"round {round}: client {client}: {reason}; under privacy all who are asked must "
                    "answer: see to it, then resume"
                )

    def weight_of(self, member: Member) -> int:
        """How much a client counts in an average."""
        return self._weights.of(member)

    @property
    def asked(self) -> Mapping[int, Member]:
        """Who was asked last, by partition id, in the order of the messages."""
        return self._asked

    def verdict(self, round: int, client: int, reply: Message | None) -> str:
        """Why a client's answer to a train message cannot be used, in a line; empty if it can."""
        if reply is None:
            return self._unanswered
        try:
            read_reply(reply, self._asked_of("train", round, client))
            check_update(received_tensors(reply.content, ARRAYS), self.template)
        except FedlogeError as exc:
            return printable_line(str(exc))
        return ""

    def keep_only(self, clients: Iterable[int], failures: Mapping[int, str]) -> None:
        """Go on as if only these clients had been asked, and those that failed; nobody waits for the others."""
        self._asked = {client: self._asked[client] for client in clients}
        self.outcome.failures |= failures

    @property
    def _unanswered(self) -> str:
        return f"no answer within {self.config.round_timeout:g} s, or its node has gone"

    def _asked_of(self, kind: Kind, round: int, client: int) -> Asked:
        return Asked(
            kind,
            self.stamp_of(round),
            self.uplinks[kind],
            self._asked[client].num_examples,
            self.config.local_epochs,
            masked=self._masked is not None,
            added_up=self.partial_sums and kind == "train",
        )

    def _collect(
        self,
        kind: Kind,
        round: int,
        replies: Iterable[Message],
        use: Callable[[int, Message], int | None],
        combined: Combination | None = None,
    ) -> None:
        """Give each accepted reply to `use`; one that is refused, here or there, is that client's failure.

        What `use` returns is the group of the answer, of which `combined` says at the end whether it counts.
        """
        by_node = {member.node_id: client for client, member in self._asked.items()}
        outcome, answered = self.outcome, set()
        digests: dict[int, str] = {}
        uplink = {} if self._masked else self.uplinks[kind]
        sums: dict[int, ExactSum] = {}
        for reply in replies:
            client = by_node.get(reply.metadata.src_node_id)
            if client is None or client in answered:
                continue  # Flower's own error for a node that has gone, or a second answer
            answered.add(client)
            try:
                answer = read_reply(reply, self._asked_of(kind, round, client))
                if self.roster.audit:
                    digests[client] = digest_of(reply)
                group = use(client, reply) or 0
            except FedlogeError as exc:
                outcome.failures[client] = printable_line(str(exc))
                continue
            own = sums.setdefault(group, ExactSum(uplink))
            if PARTIAL in reply.content:
                merge_sums(reply.content, own)
            else:
                own.add(answer.sums)
            outcome.replies[client] = answer.figures
            outcome.bytes_up += bytes_of(reply, self._answer_bytes)
        late = combined.refused() if combined is not None else {}
        outcome.failures |= late
        outcome.replies = {k: row for k, row in outcome.replies.items() if k not in late}
        total = ExactSum(uplink)
        for group, part in sums.items():
            if combined is None or combined.keeps(group):
                total.merge_partial(part.partial())
        outcome.sums = total.total()
        for client in self._asked.keys() - answered:
            outcome.failures[client] = self._unanswered
        outcome.sort()
        self.roster.ask_again(outcome.failures)
        self._audit(kind, round, digests)

    def _audit(self, kind: Kind, round: int, digests: Mapping[int, str]) -> None:
        audit = self.roster.audit
        if not audit:
            return
        about: dict[str, Any] = {"run": self.stamp.run_id, "attempt": self.stamp.attempt}
        about |= {"round": round, "kind": kind}
        results = [
            {"event": "result", "client": k, "digest": digests[k], "figures": figures, **about}
            for k, figures in self.outcome.replies.items()
        ]
        refused = [
            {"event": "refused", "client": k, "reason": reason, **about}
            for k, reason in self.outcome.failures.items()
        ]
        audit.write(*results, *refused)

    def _leave_out(self, reasons: Mapping[int, str]) -> None:
        """Count clients as failed whose answers had been taken."""
        outcome = self.outcome
        outcome.replies = {k: row for k, row in outcome.replies.items() if k not in reasons}
        outcome.failures = dict(sorted((outcome.failures | dict(reasons)).items()))

    def _check_quorum(self, round: int) -> None:
        check_quorum(self.config, self.outcome, round, self.stamp.keep_round)

    def _mean_figures(self) -> dict[str, float]:
        rows = list(self.outcome.replies.values())
        names = sorted({name for row in rows for name in row} - {NUM_EXAMPLES})
        means = {}
        for name in names:
            values = [row[name] for row in rows if name in row]
            means[name] = math.fsum(values) / len(values)
        if self._masked is not None and (read := self._masked.read):
            self.outcome.sums = read.sums
            means |= {name: total / len(rows) for name, total in read.figures.items()}
        return means

    def _as_record(self, figures: Mapping[str, float]) -> MetricRecord:
        examples = sum(int(row[NUM_EXAMPLES]) for row in self.outcome.replies.values())
        return MetricRecord({**figures, NUM_EXAMPLES: examples})
