"""A Flower `Grid` without Flower's engine; the local and the Ray engine are made of it.

Flower takes a message's sender from a process-wide identity, which its own engine sets.
Here it is set by hand. No other module touches this private part of Flower.
"""

from __future__ import annotations

import itertools
import logging
import traceback
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from flwr.app import Context, Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedloge import messages as wire
from fedloge.client.client_app import app as client_app
from fedloge.client.client_app import train_together
from fedloge.client.own_site import SIMULATED
from fedloge.config import Config, Scalar
from fedloge.errors import in_one_line, printable_line
from fedloge.observer import ClientAnswered, Observer, Observers

log = logging.getLogger(__name__)
SERVER_NODE = 1
RUN_ID = 1
CLIENT_RAISED = 2
"""Flower's error code for a ClientApp that raised."""


def take_identity() -> None:
    """Give this process the identity under which Flower builds messages."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SERVER_NODE


class OwnGrid(Grid):
    """A grid over nodes that this process knows: node id = partition id + 2.

    Subclasses deliver the messages (`carry`).

    Parameters
    ----------
    observers : are told of the run; the ServerApp reads them from here.
    """

    nodes_are_fixed = True
    """No node comes or goes, so the server waits for none."""

    def __init__(self, config: Config, observers: Iterable[Observer] = ()) -> None:
        self.config = config
        self.observers = Observers(observers)
        self._nodes = [partition + SERVER_NODE + 1 for partition in range(config.num_clients)]
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        take_identity()

    def server_context(self) -> Context:
        """The context of the ServerApp."""
        return Context(
            run_id=RUN_ID,
            node_id=SERVER_NODE,
            node_config={},
            state=RecordDict(),
            run_config=dict(self.config.for_flower()),
        )

    @abstractmethod
    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        """Deliver messages, and yield the replies as they come.

        `timeout` is in seconds; None: no limit.
        """

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver messages, and yield the replies as they come; none is kept."""
        return self.carry(self._numbered(messages), timeout)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver now and keep the replies for `pull_messages`; returns the messages' ids."""
        batch = self._numbered(messages)
        for reply in self.carry(batch, None):
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages that have come."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; none ever leaves."""
        return list(self._nodes)

    def set_run(self, run: Run) -> None:
        """Do nothing: a grid of this kind serves one run."""

    @property
    def run(self) -> Run:
        """The one run."""
        return Run.create_empty(RUN_ID)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def note(self, reply: Message, done: int, of: int) -> None:
        """Tell the observers that a client has answered. An error is logged, and cut to its first line."""
        if reply.has_error():
            reason = reply.error.reason or "no reason given"
            # Indented, so that no line of it looks like a line of the log.
            lines = [printable_line(line) for line in reason.splitlines() or [""]]
            log.error("client raised:\n%s", "\n".join(f"  {line}" for line in lines))
            reply.error = Error(reply.error.code, lines[0])
        kind = reply.metadata.message_type
        # Nodes are asked who they are before the run starts; that is not part of a round.
        if not kind.startswith("query"):
            self.observers.on_client(ClientAnswered(kind, done, of))

    def _numbered(self, messages: Iterable[Message]) -> list[Message]:
        batch = list(messages)
        for message in batch:
            message.metadata.__dict__["_message_id"] = f"{next(self._numbers)}"
        return batch


def rebuilt(metadata: Metadata, content: RecordDict) -> Message:
    """A message made of its parts, after they were sent to another process."""
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload]


def partition_of(message: Message) -> int:
    """The partition id of the node that a message goes to."""
    return message.metadata.dst_node_id - SERVER_NODE - 1


@lru_cache(maxsize=2)
def _flat(config: Config) -> dict[str, Scalar]:
    return config.for_flower()


def client_context(config: Config, partition_id: int) -> Context:
    """A new context for one node. It holds no state: between messages, that is on disk."""
    return Context(
        run_id=RUN_ID,
        node_id=partition_id + SERVER_NODE + 1,
        node_config={
            "partition-id": partition_id,
            "num-partitions": config.num_clients,
            SIMULATED: True,
        },
        state=RecordDict(),
        run_config={**_flat(config)},
    )


def at_once(config: Config, messages: Sequence[Message]) -> list[list[Message]]:
    """Messages in batches for `answers`.

    Training messages come ``clients-at-once`` in a batch, others alone. Clients of similar size share a
    batch, since they have the most steps in common.
    """
    kinds = {message.metadata.message_type for message in messages}
    size = config.clients_at_once if kinds == {"train"} else 1
    if size > 1:
        messages = sorted(messages, key=lambda message: -training_images(message))
    return [list(messages[start : start + size]) for start in range(0, len(messages), size)]


def answers(config: Config, messages: Sequence[Message]) -> list[Message]:
    """The ClientApp's replies to one message, or to several training messages, made in this process.

    For a client that raises, the reply is an error; its reason is one line, and below it the traceback.
    """
    exchanges = [(message, client_context(config, partition_of(message))) for message in messages]
    together = train_together(exchanges) if len(exchanges) > 1 else []
    answered = {reply.metadata.reply_to_message_id for reply in together}
    left = [e for e in exchanges if e[0].metadata.message_id not in answered]
    return [*together, *(_answer(message, context) for message, context in left)]


def _answer(message: Message, context: Context) -> Message:
    try:
        return client_app(message, context)
    except Exception as exc:
        return failed_reply(message, f"{in_one_line(exc)}\n{traceback.format_exc()}")


def training_images(message: Message) -> int:
    """Training images of the message's client, by which work is shared out; 1 for a message without a plan."""
    return wire.Plan.from_content(message.content).weight if wire.PLAN in message.content else 1


def failed_reply(message: Message, reason: str) -> Message:
    """The reply that Flower's own engine makes for a ClientApp that raised."""
    return Message(Error(CLIENT_RAISED, reason), reply_to=message)
