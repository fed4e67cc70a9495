"""Messages to single clients and their answers, where a server does not wait for all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Message
from flwr.serverapp import Grid

POLL_SECONDS = 0.5


class Deliveries(Protocol):
    """Carries at most one message at a time to each client."""

    def post(self, client: int, message: Message, batch: Hashable) -> None:
        """Send a message; messages of one batch carry the same model."""

    def answer(self, client: int) -> Message | None:
        """The answer of a client, once it has come; None: it has not in time."""

    def first(self) -> tuple[int, Message | None]:
        """Whoever's answer comes first of those that are awaited, or whose time is up; at least one must be."""

    def forget(self, client: int) -> None:
        """Await nothing more of a client."""

    def finish(self) -> None:
        """Have all who were sent a message do what it asks, where that is computed here."""


class Simulated:
    """On engines that compute answers when they are asked for: all that wait, batch by batch.

    So workers train clients side by side, and none before it could have been asked.
    """

    def __init__(self, grid: Grid, timeout: float) -> None:
        self._grid, self._timeout = grid, timeout
        self._waiting: dict[Hashable, dict[int, Message]] = {}
        self._answers: dict[int, Message | None] = {}

    def post(self, client: int, message: Message, batch: Hashable) -> None:
        """Keep the message until an answer is asked for."""
        self._waiting.setdefault(batch, {})[client] = message

    def answer(self, client: int) -> Message | None:
        """The client's answer."""
        if client not in self._answers:
            self.finish()
        return self._answers.pop(client)

    def first(self) -> tuple[int, Message | None]:
        """Not here: a simulated clock says whose answer is next."""
        raise NotImplementedError

    def forget(self, client: int) -> None:
        """Deliver it nothing, and drop its answer."""
        self._answers.pop(client, None)
        for batch in self._waiting.values():
            batch.pop(client, None)

    def finish(self) -> None:
        """Deliver what waits."""
        for batch in filter(None, self._waiting.values()):
            self._answers |= dict.fromkeys(batch)
            replies = list(self._grid.send_and_receive(batch.values(), timeout=self._timeout))
            of = {message.metadata.message_id: client for client, message in batch.items()}
            for reply in replies:
                if (client := of.get(reply.metadata.reply_to_message_id)) is not None:
                    self._answers[client] = reply
        self._waiting = {}


@dataclass(frozen=True)
class _Sent:
    message: str
    until: float


class Posted:
    """On Flower's own engines: pushed at once, and pulled when they have come."""

    def __init__(self, grid: Grid, timeout: float) -> None:
        self._grid, self._timeout = grid, timeout
        self._sent: dict[int, _Sent] = {}
        self._came: dict[int, Message | None] = {}

    def post(self, client: int, message: Message, batch: Hashable) -> None:
        """Push it."""
        pushed = next(iter(self._grid.push_messages([message])), None)
        if pushed is None:
            self._came[client] = None
        else:
            self._sent[client] = _Sent(pushed, time.monotonic() + self._timeout)

    def answer(self, client: int) -> Message | None:
        """Wait for one client's answer."""
        self._poll_until(lambda: client in self._came)
        return self._came.pop(client)

    def first(self) -> tuple[int, Message | None]:
        """Wait for anybody's."""
        self._poll_until(lambda: bool(self._came))
        client = next(iter(self._came))
        return client, self._came.pop(client)

    def forget(self, client: int) -> None:
        """What it still answers is not pulled."""
        self._sent.pop(client, None)
        self._came.pop(client, None)

    def finish(self) -> None:
        """Nothing: they are at it."""

    def _poll_until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._pull()
            if not done():
                time.sleep(POLL_SECONDS)

    def _pull(self) -> None:
        of = {sent.message: client for client, sent in self._sent.items()}
        for reply in self._grid.pull_messages(list(of)):
            client = of.get(reply.metadata.reply_to_message_id, -1)
            if client in self._sent:
                del self._sent[client]
                self._came[client] = reply
        now = time.monotonic()
        for client in [client for client, sent in self._sent.items() if now >= sent.until]:
            del self._sent[client]
            self._came[client] = None
