"""A worker of the Ray engine: a process that keeps model and data in memory and answers for many clients."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, Metadata, RecordDict
from torch import Tensor

from fedloge import messages as wire
from fedloge.client.personal_state import PersonalStore
from fedloge.config import Config
from fedloge.data.examples import DataSet
from fedloge.engines.own_grid import answers, at_once, partition_of, rebuilt
from fedloge.errors import FedlogeError
from fedloge.federation import open_federation
from fedloge.run_files import RunFiles
from fedloge.server.replies import read_figures


@dataclass(frozen=True)
class Parcel:
    """One client's message without the shared tensors, which are sent once for all.

    Attributes
    ----------
    files : the client's personal files if the driver carries them, else None.
    """

    metadata: Metadata
    content: RecordDict
    files: dict[str, bytes] | None = None


class Worker:
    """A process (a Ray actor) that answers the messages of many clients in turn.

    Parameters
    ----------
    token : an empty file in the runs' folder; a worker that sees it can use the folder.
    """

    def __init__(self, config: Config, data: DataSet, token: Path) -> None:
        self._sees_runs_dir = token.exists()
        if config.ray_state == "carried" or not self._sees_runs_dir:
            self._scratch = tempfile.TemporaryDirectory(prefix="fedloge-")
            config = config.replace(runs_dir=self._scratch.name)
        self.config = config
        open_federation(config, data)

    def describe(self) -> dict[str, Any]:
        """Whether the worker sees the runs' folder, its process id, and its torch threads."""
        return {
            "sees-runs-dir": self._sees_runs_dir,
            "pid": os.getpid(),
            "threads": torch.get_num_threads(),
        }

    def work(
        self, parcels: list[Parcel], arrays: ArrayRecord | None, sum_up: bool
    ) -> Iterator[tuple[Message, dict[str, bytes] | None] | RecordDict | None]:
        """Answer the messages one by one.

        Yields, for each, the reply and the client's personal files (None unless carried). At the end
        it yields a `RecordDict` with the partial sum if `sum_up`, else None.
        """
        template, uplink = self._templates(arrays) if sum_up else ({}, {})
        total: wire.WorkerSum | None = None
        messages = {parcel.metadata.message_id: whole(parcel, arrays) for parcel in parcels}
        carried = {p.metadata.message_id: p.files for p in parcels if p.files is not None}
        for batch in at_once(self.config, list(messages.values())):
            for message in batch:
                if message.metadata.message_id in carried:
                    self._store(message).write_files(carried[message.metadata.message_id])
            for reply in answers(self.config, batch):
                message = messages[reply.metadata.reply_to_message_id]
                if sum_up and reply.has_content() and wire.failure_reason(reply.content) is None:
                    plan = wire.Plan.from_content(message.content)
                    total = total or wire.WorkerSum(template, uplink, plan.total_weight)
                    try:
                        # What the server would refuse must not be in the sum.
                        read_figures(reply.content, "train")
                        total.take(reply.content, plan.weight)
                    except FedlogeError as exc:
                        reply = Message(wire.failure_content(str(exc)), reply_to=message)
                keeps = message.metadata.message_id in carried
                yield reply, self._store(message).read_files() if keeps else None
        yield None if total is None else _partial(total)

    def _templates(self, arrays: ArrayRecord | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Of the tensors that clients send back, and of the sums that the method asks for."""
        fed = open_federation(self.config)
        sent = wire.decode(arrays) if arrays is not None and not fed.method.solves else {}
        return sent, fed.method.uplink(fed.net)

    def _store(self, message: Message) -> PersonalStore:
        return store_of(message, self.config)


def store_of(message: Message, config: Config) -> PersonalStore:
    """Where the client that a message goes to keeps its personal state."""
    stamp = wire.Stamp.from_content(message.content)
    run = RunFiles(Path(config.runs_dir) / stamp.run_name)
    return PersonalStore(run.heads, partition_of(message))


def whole(parcel: Parcel, arrays: ArrayRecord | None) -> Message:
    """The message of a parcel, with the shared tensors."""
    content = RecordDict({**parcel.content})
    if arrays is not None:
        content[wire.ARRAYS] = arrays
    return rebuilt(parcel.metadata, content)


def _partial(total: wire.WorkerSum) -> RecordDict:
    partial = RecordDict()
    total.attach(partial)
    return partial
