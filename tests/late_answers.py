"""A federation on the real clock in this process: each node answers when it has had its time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Message

from fedloge.engines.local import LocalGrid
from fedloge.engines.own_grid import partition_of


class LateAnswers(LocalGrid):
    """Nodes answer to what is pushed after `delays` seconds, one thing after the other; by default at once.

    Those in `mute` never do.
    """

    nodes_are_fixed = False

    def __init__(
        self, config: Any, delays: Mapping[int, float] | None = None, mute: Iterable[int] = ()
    ) -> None:
        super().__init__(config)
        self.delays, self.mute = delays or {}, set(mute)
        self.pushed: list[tuple[str, int]] = []
        self._due: dict[str, float] = {}
        self._free: dict[int, float] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        batch = list(messages)
        ids = list(super().push_messages(batch))
        for message, number in zip(batch, ids, strict=True):
            client, kind = partition_of(message), message.metadata.message_type
            self.pushed.append((kind, client))
            if kind == "train":
                begins = max(time.monotonic(), self._free.get(client, 0.0))
                self._free[client] = begins + self.delays.get(client, 0.0)
                self._due[number] = self._free[client]
                if client in self.mute:
                    self._due[number] = float("inf")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        now = time.monotonic()
        return list(super().pull_messages([i for i in message_ids if self._due.get(i, 0.0) <= now]))
