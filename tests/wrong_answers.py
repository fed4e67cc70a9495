"""Clients whose answers are changed on their way to the server, in the real apps of the in-process engine."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
from flwr.app import Context, Message, RecordDict

from fedloge import messages as wire
from fedloge.config import Config
from fedloge.engines import own_grid
from fedloge.rng import rng

Change = Callable[[RecordDict], None]


def change_answers(
    patch: pytest.MonkeyPatch,
    change: Change,
    clients: Collection[int],
    *,
    kind: str = "train",
    rounds: Collection[int] | None = None,
) -> None:
    """Let these clients' answers of one kind be changed by `change`; `rounds`: None for all."""
    honest = own_grid.client_app

    def app(message: Message, context: Context) -> Message:
        reply = honest(message, context)
        if message.metadata.message_type != kind:
            return reply
        round = None
        if wire.STAMP in message.content:
            round = wire.Stamp.from_content(message.content).round
        if context.node_config["partition-id"] in clients and (rounds is None or round in rounds):
            change(reply.content)
        return reply

    patch.setattr(own_grid, "client_app", app)


def drawn(config: Config, round: int) -> list[int]:
    """The clients that are asked in a round."""
    chosen = rng(config.seed, "sample-clients", round).choice(
        config.num_clients, size=config.clients_per_round, replace=False
    )
    return sorted(chosen.tolist())
