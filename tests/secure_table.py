"""Clients and a server at one table: the two messages of a secure sum, with nothing else around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor

from fedloge import messages as wire
from fedloge.client.client import Trained
from fedloge.client.masking_keys import simulated_keys
from fedloge.client.secure_sum import SecureSum
from fedloge.config import Config, from_flat
from fedloge.engines.own_grid import take_identity
from fedloge.errors import FedlogeError
from fedloge.messages.cohort import COHORT, UNMASK, Cohort, MaskGraph, Unmasking
from fedloge.server.masked_mean import MaskedMean, Sum

SHARED = {"weight": torch.zeros(17, 3), "bias": torch.zeros(99)}
SUMS = {"counts": torch.zeros(5)}


class Table:
    """`size` clients with simulated keys, and what each would answer."""

    def __init__(self, folder: Path, size: int, **config: Any) -> None:
        take_identity()
        flat = {"num-clients": size, "clients-per-round": size, "secure-aggregation": True}
        self.config: Config = from_flat(
            flat | {key.replace("_", "-"): value for key, value in config.items()}
        )
        self.folder = folder
        self.stamp = wire.Stamp("run-1", "run", "f" * 16, (0,), 1, 0)
        draw = torch.Generator().manual_seed(size)
        self.weights = {k: 1 + 37 * k % 200 for k in range(size)}
        self.cohort = Cohort(tuple(self.weights), tuple(self.weights.values()))
        self.shared = {k: _drawn(SHARED, draw, 10.0 ** (k % 7 - 4)) for k in range(size)}
        self.sums = {k: _drawn(SUMS, draw, 1e3) for k in range(size)}
        self.losses = {k: 1 / (k + 3) for k in range(size)}
        self.model = wire.encode(SHARED)

    def client(self, me: int, **changes: Any) -> SecureSum:
        """A client as a new process makes it: all that it knows of before is on disk."""
        keys = simulated_keys(self.config.seed, self.config.num_clients, me)
        given = {"images": self.weights[me], "keys": keys, "folder": self.folder / str(me)}
        return SecureSum(self.config, me, **given | changes)

    def message(self, me: int, cohort: Cohort | None = None) -> RecordDict:
        """What the server asks."""
        cohort = cohort or self.cohort
        plan = wire.Plan(self.weights[me], sum(cohort.weights))
        return RecordDict(
            {
                wire.ARRAYS: self.model,
                wire.PLAN: plan.to_record(),
                COHORT: cohort.to_record(),
            }
        )

    def answer(self, me: int, asked: RecordDict | None = None, **changes: Any) -> Message:
        """A client's masked answer; with `stamp` to another."""
        stamp = changes.pop("stamp", self.stamp)
        trained = Trained(self.shared[me], {"train/loss": self.losses[me]}, self.sums[me])
        client = self.client(me, **changes)
        return reply(me, client.answer("train", stamp, asked or self.message(me), trained))

    def server(self, send: Callable[[list[Message]], Iterable[Message]]) -> MaskedMean:
        """The server's part, with its messages given to `send`."""
        graph = MaskGraph.of(self.config, self.cohort.clients, self.stamp.round)
        nodes = {k: k + 2 for k in self.weights}
        what = Sum("train", self.stamp, self.cohort, graph, nodes, [self.model], SHARED, SUMS)
        return MaskedMean(what, send, ttl=10)

    def unmasked(
        self, messages: list[Message], silent: Sequence[int] = (), fewest: int = 3
    ) -> Iterable[Message]:
        """The clients' answers to the second message."""
        for message in messages:
            me = message.metadata.dst_node_id - 2
            if me in silent:
                continue
            try:
                asked = Unmasking.from_content(message.content)
                opened = self.client(me, fewest=fewest).unmask(asked)
                content = RecordDict({UNMASK: opened.to_record()})
            except FedlogeError as exc:
                content = wire.failure_content(str(exc))
            yield Message(content, reply_to=message)

    def plain(self, survivors: Iterable[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The mean and the sums without masks."""
        mean = wire.WeightedSum(SHARED, sum(self.weights.values()))
        sums = wire.ExactSum(SUMS)
        for k in survivors:
            mean.add(self.shared[k], self.weights[k])
            sums.add(self.sums[k])
        return mean.mean(), sums.total()


def _drawn(template: dict[str, Tensor], draw: torch.Generator, scale: float) -> dict[str, Tensor]:
    return {name: torch.randn(t.shape, generator=draw) * scale for name, t in template.items()}


def reply(me: int, content: RecordDict) -> Message:
    """A reply of a node, to a message that is of no interest."""
    asked = Message(RecordDict({"x": ConfigRecord()}), dst_node_id=me + 2, message_type="train")
    return Message(content, reply_to=asked)
