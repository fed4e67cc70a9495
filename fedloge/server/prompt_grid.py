"""Flower's grid, asked for answers as soon as they may be there.

Its own `send_and_receive` looks every three seconds, which is most of a round where training takes less, and keeps
all answers until the last has come.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

_FIRST_WAIT, _LONGEST_WAIT, _GROWTH = 0.05, 0.5, 1.5
"""In seconds; each wait for an answer is so many times the one before."""


class PromptGrid(Grid):
    """Another grid with a `send_and_receive` that yields answers as they come; all else is that grid's."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def set_run(self, run: Any) -> None:
        """As the grid does."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The grid's run."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """As the grid does."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The grid's nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the grid does."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As the grid does."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Push messages, and yield the answers that come within `timeout` seconds; None: all."""
        waiting = {pushed for pushed in self.push_messages(messages) if pushed is not None}
        began, wait = time.monotonic(), _FIRST_WAIT
        while waiting:
            # Before the look, so that what came while an answer was worked on is not lost.
            over = timeout is not None and time.monotonic() >= began + timeout
            came = list(self.pull_messages(waiting))
            for reply in came:
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            if over:
                return
            wait = _FIRST_WAIT if came else min(wait * _GROWTH, _LONGEST_WAIT)
            if waiting:
                time.sleep(wait)
