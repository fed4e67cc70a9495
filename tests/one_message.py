"""One message to the real ClientApp, as a server would send it, and its answer."""

from __future__ import annotations

from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedloge import messages as wire
from fedloge.client.client_app import app
from fedloge.config import Config
from fedloge.engines.own_grid import take_identity
from fedloge.federation import open_federation
from fedloge.messages import Stamp
from fedloge.methods.method import Part


def ask(
    config: Config, kind: str, content: RecordDict, by: ClientApp = app, **node_config: Any
) -> RecordDict:
    """What a node answers; without further keys of its node config it is one of a simulation."""
    take_identity()
    node = {"partition-id": 1, "num-partitions": 4, "simulated": True} | node_config
    context = Context(
        run_id=1,
        node_id=7,
        node_config=node,
        state=RecordDict(),
        run_config=dict(config.for_flower()),
    )
    return by(Message(content, dst_node_id=7, message_type=kind), context).content


def work(config: Config, **changes: Any) -> RecordDict:
    federation = open_federation(config)
    values = {"run_id": "run-1", "run_name": "run", "fingerprint": federation.fingerprint}
    stamp = Stamp(**(values | {"bases": (0,), "round": 1, "keep_round": 0} | changes))
    arrays = wire.encode(federation.initial[Part.SHARED])
    return RecordDict({wire.ARRAYS: arrays, wire.STAMP: stamp.to_record()})


def reason(content: RecordDict) -> str:
    said = wire.failure_reason(content)
    assert said is not None and "\n" not in said
    return said
