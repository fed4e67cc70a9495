"""The server's part in a secure sum: it adds up masked vectors, has the masks taken off, and reads the sum.

It learns which clients answered, their weights, and the sums over all of them: of the shared tensors,
of what the method or a probe asked for, and of the figures of training. What it can still check it
does: shapes, names, the range of every sum, and that each self-mask is the one that its client
committed to.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedloge.config import Config
from fedloge.errors import FedlogeError, UpdateError, printable_line
from fedloge.messages import STAMP, Stamp, failure_reason
from fedloge.messages.cohort import (
    UNMASK,
    UNMASK_MESSAGE,
    Cohort,
    Kind,
    MaskedAnswer,
    MaskGraph,
    Unmasked,
    Unmasking,
    context_of,
    subject_of,
)
from fedloge.messages.masked_vector import VectorLayout, VectorSums, model_before
from fedloge.messages.masks import MaskStream, combined, commitment
from fedloge.server.replies import check_masked_figures

log = logging.getLogger(__name__)
_TRIES = 200
"""So many sets of shares are tried, where some are wrong."""

Send = Callable[[list[Message]], Iterable[Message]]


class SumLost(UpdateError):
    """Too little came back to take the masks off; nothing of the sum is known to anybody."""


@dataclass(frozen=True)
class Sum:
    """What is summed: of whom, in which round, with which parts.

    Attributes
    ----------
    nodes : Flower's node id of each client of the cohort.
    sent : the records of tensors in the messages.
    shared, sums : templates of what the vectors hold.
    before : as of `VectorLayout`.
    """

    kind: Kind
    stamp: Stamp
    cohort: Cohort
    graph: MaskGraph
    nodes: Mapping[int, int]
    sent: Sequence[ArrayRecord | None]
    shared: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    before: Mapping[str, Tensor] | None = None


@dataclass
class _Group:
    """Clients whose vectors end in the same figures; one group, unless a client is a liar."""

    total: np.ndarray
    boxes: dict[int, dict[int, bytes]] = field(default_factory=dict)
    commitments: dict[int, bytes] = field(default_factory=dict)


class MaskedMean:
    """Takes the masked answers of a round one by one, in any order.

    Parameters
    ----------
    send : delivers messages to the clients and brings their answers.
    ttl : seconds that a message may take.
    """

    def __init__(self, what: Sum, send: Send, ttl: float) -> None:
        self._what, self._send, self._ttl = what, send, ttl
        self._groups: dict[tuple[str, ...], _Group] = {}
        self.read: VectorSums | None = None
        self.cohort = what.cohort
        subject = subject_of(what.kind, what.stamp, *what.sent)
        self._context = context_of(subject, what.stamp, what.cohort)

    def add(self, client: int, reply: Message, weight: int) -> None:
        """Take an answer; `UpdateError` if it cannot be used."""
        answer = MaskedAnswer.from_content(reply.content)
        check_masked_figures(answer.figures)
        if (words := self._layout(answer.figures).words) != len(answer.words):
            raise UpdateError(f"its masked vector has {len(answer.words)} words, expected {words}")
        if answer.boxes.keys() != set(self._what.graph.holders(client)):
            raise UpdateError("its shares are not for the clients that it masks with, and itself")
        group = self._groups.setdefault(answer.figures, _Group(np.zeros(words, dtype=np.uint64)))
        group.total += answer.words
        group.boxes[client], group.commitments[client] = answer.boxes, answer.commitment

    def odd_ones(self) -> dict[int, str]:
        """Clients whose vectors hold other figures than most; they are left out of the sum."""
        sizes = Counter({names: len(group.boxes) for names, group in self._groups.items()})
        if not sizes:
            return {}
        most = max(sizes, key=lambda names: (sizes[names], names))
        left_out = [
            k for names, group in self._groups.items() if names != most for k in group.boxes
        ]
        self._groups = {most: self._groups[most]}
        return dict.fromkeys(left_out, "its masked figures are not those of the other clients")

    def result(self, round: int) -> dict[str, Tensor]:
        """The mean, once the masks are off; `SumLost` if they cannot be taken off."""
        ((names, group),) = self._groups.items()
        self._take_masks_off(group)
        weights = dict(zip(self._what.cohort.clients, self._what.cohort.weights, strict=True))
        try:
            self.read = self._layout(names).unpack(
                group.total, sum(weights[k] for k in group.boxes), len(group.boxes)
            )
        except UpdateError as exc:
            raise SumLost(f"{exc}; behind masks nobody can say which client it was") from None
        return self.read.shared.mean() if self.read.shared is not None else {}

    def _layout(self, figures: tuple[str, ...]) -> VectorLayout:
        what = self._what
        weights = sum(what.cohort.weights)
        return VectorLayout(what.shared, what.sums, figures, weights, what.before)

    def _take_masks_off(self, group: _Group) -> None:
        survivors = sorted(group.boxes)
        dropped = [k for k in self._what.cohort.clients if k not in group.boxes]
        shares, seeds = self._unmasked(group, survivors, dropped)
        for client in survivors:
            seed = self._self_seed(client, shares[client], group.commitments[client])
            MaskStream(seed).into(group.total, -1)
        for client in survivors:
            for other in set(self._what.graph.neighbours(client)) & set(dropped):
                if (client, other) not in seeds:
                    raise SumLost(
                        f"client {client} has gone before it could give the masks that it had in common with "
                        f"client {other}, which had gone before"
                    )
                MaskStream(seeds[client, other]).into(group.total, -1 if client < other else 1)

    def _unmasked(
        self, group: _Group, survivors: list[int], dropped: list[int]
    ) -> tuple[dict[int, dict[int, bytes]], dict[tuple[int, int], bytes]]:
        """Ask the survivors: shares by whose self-mask they are of and who gave them, and seeds of pairs."""
        messages = [self._question(client, group, survivors, dropped) for client in survivors]
        by_node = {self._what.nodes[client]: client for client in survivors}
        shares: dict[int, dict[int, bytes]] = {client: {} for client in survivors}
        seeds: dict[tuple[int, int], bytes] = {}
        refused: list[str] = []
        for reply in self._send(messages):
            client = by_node.pop(reply.metadata.src_node_id, None)
            if client is None:
                continue
            try:
                given = _read(reply)
            except FedlogeError as exc:
                refused.append(f"client {client}: {printable_line(str(exc))}")
                continue
            for of, share in given.shares.items():
                if of in shares and client in self._what.graph.holders(of):
                    shares[of][client] = share
            seeds |= {(client, other): seed for other, seed in given.seeds.items()}
        refused += [f"client {client} did not answer" for client in by_node.values()]
        for line in sorted(refused):
            log.warning("round %d: unmasking: %s", self._what.stamp.round, line)
        return shares, seeds

    def _question(
        self, client: int, group: _Group, survivors: list[int], dropped: list[int]
    ) -> Message:
        for_it = {of: boxes[client] for of, boxes in group.boxes.items() if client in boxes}
        what = self._what
        asked = Unmasking(what.kind, self._context, tuple(survivors), tuple(dropped), for_it)
        return Message(
            RecordDict({STAMP: what.stamp.to_record(), UNMASK: asked.to_record()}),
            dst_node_id=what.nodes[client],
            message_type=UNMASK_MESSAGE,
            group_id=str(what.stamp.round),
            ttl=self._ttl,
        )

    def _self_seed(self, client: int, shares: Mapping[int, bytes], bound: bytes) -> bytes:
        threshold = self._what.graph.threshold(client)
        if len(shares) < threshold:
            raise SumLost(
                f"{len(shares)} shares of client {client}'s mask came, {threshold} are needed"
            )
        # Usually the first are right. Where a client lies, others among them are.
        for holders in itertools.islice(itertools.combinations(sorted(shares), threshold), _TRIES):
            seed = combined({k: shares[k] for k in holders}, threshold)
            if seed is not None and commitment(seed, self._context) == bound:
                return seed
        raise SumLost(f"the shares of client {client}'s mask do not fit together")


def begin_sum(
    config: Config,
    kind: Kind,
    stamp: Stamp,
    asked: Mapping[int, tuple[int, int]],
    sent: Sequence[ArrayRecord | None],
    shared: Mapping[str, Tensor],
    sums: Mapping[str, Tensor],
    grid: Grid,
) -> MaskedMean:
    """A sum over the clients that are asked and have a weight; `UpdateError` if they are fewer than three.

    Parameters
    ----------
    asked : node id and weight of each client.
    sent, shared, sums : as in `Sum`.
    """
    weighing = {k: pair for k, pair in sorted(asked.items()) if pair[1]}
    cohort = Cohort(tuple(weighing), tuple(weight for _, weight in weighing.values()))
    nodes = {k: node for k, (node, _) in weighing.items()}
    graph = MaskGraph.of(config, cohort.clients, stamp.round)
    return MaskedMean(
        Sum(
            kind,
            stamp,
            cohort,
            graph,
            nodes,
            sent,
            shared,
            sums,
            model_before(config, kind, sent[0]),
        ),
        lambda messages: grid.send_and_receive(messages, timeout=config.round_timeout),
        config.round_timeout,
    )


def _read(reply: Message) -> Unmasked:
    if reply.has_error():
        raise UpdateError(f"error {reply.error.code}: {reply.error.reason}")
    if reason := failure_reason(reply.content):
        raise UpdateError(reason)
    return Unmasked.from_content(reply.content)
