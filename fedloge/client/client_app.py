"""The Flower ClientApp: decodes a message, lets the client work, encodes the answer."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from fedloge.client import client as work
from fedloge.client.class_sums import allowed_counts
from fedloge.client.client import Client, Trained, personal_folder
from fedloge.client.guard import GuardedApp
from fedloge.client.masking_keys import simulated_keys, site_keys
from fedloge.client.own_site import config_of, own_site
from fedloge.client.privacy_ledger import PrivacyLedger
from fedloge.client.same_data import check_same_data
from fedloge.client.secure_sum import SecureSum, check_length
from fedloge.errors import FedlogeError, UpdateError, in_one_line
from fedloge.federation import Federation, open_federation, open_site
from fedloge.messages import (
    ARRAYS,
    CLASS_COUNTS,
    GIVEN,
    METRICS,
    NUM_EXAMPLES,
    SECOND_PASS,
    STAMP,
    Downlink,
    Stamp,
    failure_content,
    received_tensors,
    reply_content,
)
from fedloge.messages.cohort import FEWEST, UNMASK, Kind, Unmasking
from fedloge.methods.method import Part

app = GuardedApp()
log = logging.getLogger(__name__)
_downlink = Downlink()


@app.query("whoami")
def whoami(message: Message, context: Context) -> Message:
    """Answer which partition this node holds, and how many images; Flower's node ids are random."""
    try:
        federation = _federation(context)
        index = _partition_id(context, federation.config.num_clients)
        metrics: dict[str, int | float | list[int] | list[float]] = {
            "partition-id": index,
            NUM_EXAMPLES: len(federation.partition.train[index]),
        }
        if federation.config.shares_class_counts:
            counts = federation.partition.train_counts[index].tolist()
            site = own_site(context.node_config)
            metrics[CLASS_COUNTS] = allowed_counts(counts, site.policy if site else None)
        content = RecordDict({METRICS: MetricRecord(metrics)})
        content["identity"] = ConfigRecord({"fingerprint": federation.fingerprint})
    except FedlogeError as exc:
        content = failure_content(str(exc))
    return Message(content, reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this client's images; the personal tensors stay here."""
    try:
        client, stamp = _client(message, context)
        trained = client.train(stamp, _shared(client, message))
        content = _trained(client, stamp, trained, message, context)
    except FedlogeError as exc:
        content = failure_content(str(exc))
    return Message(content, reply_to=message)


def train_together(exchanges: Sequence[tuple[Message, Context]]) -> list[Message]:
    """What `train` answers to several messages of one round, whose clients train at once.

    For engines with many clients in a process (config ``clients-at-once``). The replies come in any
    order. A client without one has to be trained alone: it has no images, or its step cannot be stacked.
    """
    replies: list[Message] = []
    # A site's guard sees each message alone.
    if any(own_site(context.node_config) is not None for _, context in exchanges):
        return replies
    asked: dict[int, tuple[Message, Context]] = {}
    clients: list[Client] = []
    for message, context in exchanges:
        try:
            client, stamp = _client(message, context)
            shared = _shared(client, message)
            asked[client.index] = message, context
            clients.append(client)
        except FedlogeError as exc:
            replies.append(Message(failure_content(str(exc)), reply_to=message))
    if len(asked) < 2:
        return replies
    federation = clients[0].federation
    try:
        if federation.stacked is None:
            return replies
        for client, done in work.train_together(clients, stamp, shared, federation.stacked):
            message, context = asked[client.index]
            try:
                if isinstance(done, FedlogeError):
                    raise done
                content = _trained(client, stamp, done, message, context)
            except FedlogeError as exc:
                content = failure_content(str(exc))
            replies.append(Message(content, reply_to=message))
    except Exception as exc:  # whatever it is, the clients can still be trained one by one
        federation.stop_stacking(in_one_line(exc))
    return replies


def _trained(
    client: Client, stamp: Stamp, trained: Trained, message: Message, context: Context
) -> RecordDict:
    config = client.federation.config
    if config.secure_aggregation:
        if most := config.secure_update_norm:
            check_length(_shared(client, message), trained.shared, most)
        return _secure_sum(client, context).answer("train", stamp, message.content, trained)
    return reply_content(stamp, trained.metrics, trained.shared, trained.sums, config.wire_dtype)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure this client's personal models on its own test images."""
    try:
        client, stamp = _client(message, context)
        figures, sums = client.evaluate(stamp, _shared(client, message))
        content = _measured(client, stamp, Trained({}, figures, sums), message, context)
    except FedlogeError as exc:
        content = failure_content(str(exc))
    return Message(content, reply_to=message)


@app.evaluate("second_pass")
def second_pass(message: Message, context: Context) -> Message:
    """Answer the probes that ask again, with what the server gives them."""
    try:
        client, stamp = _client(message, context)
        given = received_tensors(message.content, GIVEN)
        sums = client.measure_again(stamp, _shared(client, message), given)
        figures: dict[str, float] = {NUM_EXAMPLES: client.num_train}
        content = _measured(client, stamp, Trained({}, figures, sums), message, context)
    except FedlogeError as exc:
        content = failure_content(str(exc))
    return Message(content, reply_to=message)


def _measured(
    client: Client, stamp: Stamp, found: Trained, message: Message, context: Context
) -> RecordDict:
    if found.sums and client.federation.config.secure_aggregation:
        kind: Kind = SECOND_PASS if GIVEN in message.content else "evaluate"
        return _secure_sum(client, context).answer(kind, stamp, message.content, found)
    return reply_content(stamp, found.metrics, sums=found.sums)


def _shared(client: Client, message: Message) -> dict[str, Tensor]:
    template = client.federation.initial[Part.SHARED]
    return _downlink.tensors(message.content, ARRAYS, template)


@app.query(UNMASK)
def unmask(message: Message, context: Context) -> Message:
    """Help to take the masks off a sum of this client's and others' answers."""
    try:
        client, stamp = _client(message, context)
        opened = _secure_sum(client, context).unmask(Unmasking.from_content(message.content))
        content = RecordDict({STAMP: stamp.to_record(), UNMASK: opened.to_record()})
    except FedlogeError as exc:
        content = failure_content(str(exc))
    return Message(content, reply_to=message)


def _secure_sum(client: Client, context: Context) -> SecureSum:
    config = client.federation.config
    site = own_site(context.node_config)
    keys = (
        site_keys(context.node_config, site.state, client.index)
        if site
        else simulated_keys(config.seed, config.num_clients, client.index)
    )
    fewest = site.policy.min_cohort if site else FEWEST
    return SecureSum(config, client.index, client.num_train, keys, client.store.folder, fewest)


def _client(message: Message, context: Context) -> tuple[Client, Stamp]:
    stamp = Stamp.from_content(message.content)
    # These names become folder names; one from a message must not lead out of the state folder.
    for value in (stamp.run_id, stamp.run_name):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
            raise UpdateError(
                f"the server sent the run name {value!r}; expected letters, digits, '.', '_', '-'"
            )
    site = own_site(context.node_config)
    folder = personal_folder(site, context.run_config, stamp)
    federation = _federation(context)
    index = _partition_id(context, federation.config.num_clients)
    if site is None:
        client = Client(federation, index, folder)
    else:
        bound, delta = site.policy.max_epsilon, site.policy.max_delta
        ledger = PrivacyLedger(site.state, bound, delta)
        client = Client(federation, index, folder, site.policy, ledger)
    client.check(stamp)
    if federation.config.on_node:
        # Whoever shares one data set with the server has its data in the fingerprint.
        check_same_data(client.store, stamp, federation.content)
    return client, stamp


def _federation(context: Context) -> Federation:
    config = config_of(context.run_config, own_site(context.node_config))
    if config.on_node:
        own = str(context.node_config.get("data-path", ""))
        return open_site(config, _partition_id(context, config.num_clients), own)
    return open_federation(config)


def _partition_id(context: Context, clients: int) -> int:
    index = context.node_config.get("partition-id")
    if not isinstance(index, int) or not 0 <= index < clients:
        raise UpdateError(
            f"node config: partition-id must be a whole number from 0 to num-clients - 1 ({clients} clients), "
            f"got {index!r}; set --node-config 'partition-id=K num-partitions={clients}'"
        )
    return index
