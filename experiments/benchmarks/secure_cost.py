"""What a secure sum costs beside a plain one, in processor seconds.

`uv run python experiments/benchmarks/secure_cost.py`
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from flwr.app import ArrayRecord, Message, RecordDict

from fedloge import messages as wire
from fedloge.client.client import Trained
from fedloge.client.masking_keys import simulated_keys
from fedloge.client.secure_sum import SecureSum
from fedloge.config import from_flat
from fedloge.console import print_json, stdout
from fedloge.engines.own_grid import take_identity
from fedloge.messages.cohort import (
    COHORT,
    MASKED,
    UNMASK,
    Cohort,
    MaskedAnswer,
    MaskGraph,
    Unmasking,
)
from fedloge.server.masked_mean import MaskedMean, Sum

RESNET18 = 11_173_962
IMAGES = 350
T = TypeVar("T")


class Clock:
    """Processor seconds of this process, added up by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def of(self, what: str, work: Callable[[], T]) -> T:
        """Do some work and add its seconds to `what`."""
        began = time.process_time()
        result = work()
        self.seconds[what] = self.seconds.get(what, 0.0) + time.process_time() - began
        return result


class SecureRound:
    """The two messages of a round, at clients that all have the same update.

    Parameters
    ----------
    neighbours : with how many others a client masks; 0: with all.
    """

    def __init__(self, folder: Path, parameters: int, clients: int, neighbours: int) -> None:
        flat = {"num-clients": clients, "clients-per-round": clients, "secure-aggregation": True}
        half = {"secure-threshold": "half", "secure-neighbours": neighbours}
        self.config, self.folder, self.clock = from_flat({**flat, **half}), folder, Clock()
        self.shared = {"w": torch.randn(parameters, generator=torch.Generator().manual_seed(0))}
        self.template = {"w": torch.zeros(parameters)}
        self.model = wire.encode(self.template)
        self.cohort = Cohort(tuple(range(clients)), (IMAGES,) * clients)
        self.stamp = wire.Stamp("run-1", "run", "0" * 16, (0,), 1, 0)

    def masked(self, me: int) -> Message:
        """One client's answer under masks."""
        plan = wire.Plan(IMAGES, IMAGES * len(self.cohort.clients)).to_record()
        cohort = self.cohort.to_record()
        asked = RecordDict({wire.ARRAYS: self.model, wire.PLAN: plan, COHORT: cohort})
        client, trained = self._client(me), Trained(self.shared, {}, {})
        content = self.clock.of("mask", lambda: client.answer("train", self.stamp, asked, trained))
        return Message(
            content, reply_to=Message(RecordDict(), dst_node_id=me + 2, message_type="train")
        )

    def summed(self, dropped: int) -> dict[str, torch.Tensor]:
        """The mean over the clients that do not drop out."""
        clients = self.cohort.clients
        graph, nodes = MaskGraph.of(self.config, clients, 1), {k: k + 2 for k in clients}
        what = Sum("train", self.stamp, self.cohort, graph, nodes, [self.model], self.template, {})
        server = MaskedMean(what, self._unmasked, ttl=60)
        for me in clients[dropped:]:
            reply = self.masked(me)
            self.clock.of("server", partial(server.add, me, reply, IMAGES))
        mean = self.clock.of("server", lambda: server.result(1))
        self.clock.seconds["server"] -= self.clock.seconds["unmask"]
        return mean

    def plain(self, dropped: int) -> dict[str, torch.Tensor]:
        """The same mean without masks."""
        total = wire.WeightedSum(self.template, IMAGES * len(self.cohort.clients))
        for _ in self.cohort.clients[dropped:]:
            record = self.clock.of("plain client", lambda: wire.encode(self.shared))
            self.clock.of("plain server", partial(self._add, total, record))
        return self.clock.of("plain server", total.mean)

    def _add(self, total: wire.WeightedSum, record: ArrayRecord) -> None:
        tensors = wire.decode(record)
        wire.check_update(tensors, self.template)
        total.add(tensors, IMAGES)

    def _client(self, me: int) -> SecureSum:
        keys = simulated_keys(self.config.seed, self.config.num_clients, me)
        return SecureSum(self.config, me, IMAGES, keys, self.folder / str(me))

    def _unmasked(self, messages: list[Message]) -> Iterable[Message]:
        for message in messages:
            asked = Unmasking.from_content(message.content)
            client = self._client(message.metadata.dst_node_id - 2)
            opened = self.clock.of("unmask", partial(client.unmask, asked))
            yield Message(RecordDict({UNMASK: opened.to_record()}), reply_to=message)


def measured(parameters: int, clients: int, neighbours: int, dropped: int) -> dict[str, float]:
    """Processor seconds of a round, each client's and the server's, and the bytes that a client sends."""
    with tempfile.TemporaryDirectory() as folder:
        made = SecureRound(Path(folder), parameters, clients, neighbours)
        if dropped < 0:  # one client alone: the others' work is the same
            sent = made.masked(0).content
            figures = {"mask": made.clock.seconds["mask"]}
        else:
            assert torch.equal(made.summed(dropped)["w"], made.plain(dropped)["w"])
            sent, alive = None, clients - dropped
            per_client = ("mask", "unmask", "plain client")
            figures = {
                name: value / (alive if name in per_client else 1)
                for name, value in made.clock.seconds.items()
            }
    row = {"clients": clients, "neighbours": neighbours or clients - 1, "dropped": max(0, dropped)}
    size = {} if sent is None else {"bytes-up": float(_bytes(sent))}
    return {**row, **figures, **size}


def _bytes(content: RecordDict) -> int:
    boxes = MaskedAnswer.from_content(content).boxes.values()
    return wire.num_bytes(content.array_records[MASKED]) + sum(len(box) for box in boxes)


def main(
    parameters: Annotated[int, typer.Option(help="Of the model.")] = RESNET18,
    quick: Annotated[bool, typer.Option("--quick", help="Eight clients only.")] = False,
) -> None:
    """Measure clients and server of secure sums, and of the same plain sums."""
    torch.set_num_threads(1)
    take_identity()
    settings = [(8, 0, -1), (8, 0, 2)]
    if not quick:
        settings += [(40, 0, -1), (100, 0, -1), (100, 16, -1), (40, 0, 4), (100, 16, 10)]
    for clients, neighbours, dropped in settings:
        print_json(measured(parameters, clients, neighbours, dropped))
        stdout().file.flush()


if __name__ == "__main__":
    sys.argv[0] = "secure_cost"
    typer.run(main)
