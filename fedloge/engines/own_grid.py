"""A Flower `Grid` without Flower's engine: what the local and the Ray engine share.

Flower builds a message from a process-wide identity, which its engine sets; here
it is set by hand. This is the only module that touches that private part.
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
from fedloge.config import Config, Scalar
from fedloge.errors import in_one_line
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

    Subclasses say how a batch of messages is carried out.
    """

    def __init__(self, config: Config, observers: Iterable[Observer] = ()) -> None:
        self.config = config
        # The ServerApp finds them here.
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
        """Deliver the messages and yield the replies as they come."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Deliver and yield replies; a reply is not kept once it is handed over."""
        return self.carry(self._numbered(messages), timeout)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver at once; the replies wait to be pulled."""
        batch = self._numbered(messages)
        for reply in self.carry(batch, None):
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have come to these messages."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, always."""
        return list(self._nodes)

    def set_run(self, run: Run) -> None:
        """Not needed: a grid of this kind serves one run."""

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
        """Say that a client has answered; of an error, which is logged whole, one line stays."""
        if reply.has_error():
            reason = reply.error.reason or "no reason given"
            log.error("client raised:\n%s", reason)
            reply.error = Error(reply.error.code, reason.splitlines()[0])
        kind = reply.metadata.message_type
        # Who a node is may be asked before the run starts; that is no part of a round.
        if not kind.startswith("query"):
            self.observers.on_client(ClientAnswered(kind, done, of))

    def _numbered(self, messages: Iterable[Message]) -> list[Message]:
        batch = list(messages)
        for message in batch:
            message.metadata.__dict__["_message_id"] = f"{next(self._numbers)}"
        return batch


def rebuilt(metadata: Metadata, content: RecordDict) -> Message:
    """A message from its parts, as they come out of a transport."""
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload]


def partition_of(message: Message) -> int:
    """The partition id of the node a message goes to."""
    return message.metadata.dst_node_id - SERVER_NODE - 1


@lru_cache(maxsize=2)
def _flat(config: Config) -> dict[str, Scalar]:
    return config.for_flower()


def client_context(config: Config, partition_id: int) -> Context:
    """A fresh context for one node: state between messages is on disk, not here."""
    return Context(
        run_id=RUN_ID,
        node_id=partition_id + SERVER_NODE + 1,
        node_config={"partition-id": partition_id, "num-partitions": config.num_clients},
        state=RecordDict(),
        run_config={**_flat(config)},
    )


def at_once(config: Config, messages: Sequence[Message]) -> list[list[Message]]:
    """Messages in batches for `answers`: training messages as many as the config says, others singly.

    Clients of like size go together, since they have most steps in common.
    """
    kinds = {message.metadata.message_type for message in messages}
    size = config.clients_at_once if kinds == {"train"} else 1
    if size > 1:
        messages = sorted(messages, key=lambda message: -training_images(message))
    return [list(messages[start : start + size]) for start in range(0, len(messages), size)]


def answers(config: Config, messages: Sequence[Message]) -> list[Message]:
    """The ClientApp's replies, in this process, to one message or to several training messages.

    For a client that raises, an error whose reason is one line, then the traceback.
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
    """By which a round's work is shared out: of a training plan; 1 for messages without one."""
    return wire.Plan.from_content(message.content).weight if wire.PLAN in message.content else 1


def failed_reply(message: Message, reason: str) -> Message:
    """What Flower's engine answers for a ClientApp that raised."""
    return Message(Error(CLIENT_RAISED, reason), reply_to=message)
