"""The local engine: both apps in this process, model and data resident."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator

from flwr.app import Message

from clients.app import app as client_app
from experiments.engines.grid import OwnGrid, client_context, failed_reply, partition_of
from fedloge.config import Config
from server.app import app as server_app

log = logging.getLogger("fedloge.run")


class LocalGrid(OwnGrid):
    """Answers each message by calling the ClientApp, one after the other."""

    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        """Replies in the order of the messages; the time limit is not enforced within one process."""
        for number, message in enumerate(messages, start=1):
            try:
                yield client_app(message, client_context(self.config, partition_of(message)))
            except Exception as exc:
                log.error("client raised:\n%s", traceback.format_exc())
                yield failed_reply(message, f"{type(exc).__name__}: {exc}")
            details = {"kind": message.metadata.message_type, "done": number, "of": len(messages)}
            log.debug("client", extra={"event": "client", "details": details})


def run(config: Config) -> None:
    """Run a federation in this process."""
    grid = LocalGrid(config)
    server_app(grid, grid.server_context())
