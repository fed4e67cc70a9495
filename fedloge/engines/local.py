"""The local engine: both apps run in this process, which keeps model and data in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flwr.app import Message

from fedloge.config import Config
from fedloge.engines.own_grid import OwnGrid, answers, at_once
from fedloge.observer import Observer
from fedloge.server.server_app import app as server_app


class LocalGrid(OwnGrid):
    """Answers messages by calling the ClientApp, for one client after the other or for some at once."""

    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        """Yield replies as clients finish; `timeout` cannot be enforced within one process."""
        batches = at_once(self.config, messages)
        replies = (reply for batch in batches for reply in answers(self.config, batch))
        for done, reply in enumerate(replies, start=1):
            self.note(reply, done, len(messages))
            yield reply


def run(config: Config, observers: Iterable[Observer] = ()) -> None:
    """Run a federation in this process."""
    grid = LocalGrid(config, observers)
    server_app(grid, grid.server_context())
