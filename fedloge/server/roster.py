"""Which node holds which partition.

Flower's node ids are random, and nodes come and go. Partition ids are the clients'
lasting names, so clients are drawn, summed and recorded by these. Each node is asked
once for its own.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedloge.errors import FedlogeError, RunError
from fedloge.messages import CLASS_COUNTS, METRICS, NUM_EXAMPLES, failure_reason, metrics_of

log = logging.getLogger(__name__)
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Member:
    """A node that has said who it is."""

    node_id: int
    partition_id: int
    num_examples: int
    class_counts: tuple[int, ...] = ()
    """Training images of each class, where the client tells them."""


class Roster:
    """The federation's members by partition id.

    Parameters
    ----------
    grid : Flower's grid.
    num_clients : partitions that must be present when the run starts.
    fingerprint : hash of what the run computes; every client must have the same.
    """

    def __init__(self, grid: Grid, num_clients: int, fingerprint: str) -> None:
        self._grid = grid
        self._num_clients = num_clients
        self._fingerprint = fingerprint
        self._asked: dict[int, Member] = {}
        self._refusals: dict[int, str] = {}

    def wait(self, timeout: float) -> None:
        """Wait until every partition is present.

        Raises
        ------
        RunError
            Some are still missing after `timeout` seconds (the text says which), or a node
            cannot take part.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.refresh(max(1.0, deadline - time.monotonic()))
            missing = sorted(set(range(self._num_clients)) - self.members().keys())
            if not missing:
                return
            if self._refusals:
                raise RunError(f"a client cannot take part: {next(iter(self._refusals.values()))}")
            if time.monotonic() >= deadline:
                shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
                raise RunError(
                    f"{len(missing)} of {self._num_clients} clients did not register within {timeout:g} s "
                    f"(partition ids {shown}); start them, or raise startup-timeout"
                )
            time.sleep(_POLL_SECONDS)

    def refresh(self, timeout: float) -> None:
        """Ask the nodes that have not been asked yet; forget those that have gone."""
        present = set(self._grid.get_node_ids())
        self._asked = {node: member for node, member in self._asked.items() if node in present}
        new = sorted(present - self._asked.keys() - self._refusals.keys())
        if not new:
            return
        questions = [
            Message(RecordDict(), dst_node_id=node, message_type="query.whoami") for node in new
        ]
        for reply in self._grid.send_and_receive(questions, timeout=timeout):
            if reply.has_error():
                log.warning("a node did not say who it is: %s", reply.error.reason)
                continue
            node = reply.metadata.src_node_id
            try:
                self._asked[node] = self._member(node, reply.content)
            except FedlogeError as exc:
                self._refusals[node] = str(exc)

    def members(self) -> dict[int, Member]:
        """Members by partition id; if two nodes claim one partition, the one asked last counts."""
        return {member.partition_id: member for member in self._asked.values()}

    def _member(self, node: int, content: RecordDict) -> Member:
        if reason := failure_reason(content):
            raise RunError(reason)
        metrics, identity = metrics_of(content), content.config_records.get("identity")
        partition, images = metrics.get("partition-id"), metrics.get(NUM_EXAMPLES)
        if not isinstance(partition, int) or not 0 <= partition < self._num_clients:
            raise RunError(
                f"node {node} says it holds partition {partition!r}, expected 0 to {self._num_clients - 1}; "
                "start it with this project's client app and the run's num-clients"
            )
        fingerprint = str(identity["fingerprint"]) if identity else "missing"
        if fingerprint != self._fingerprint:
            raise RunError(
                f"partition {partition}: its fingerprint is {fingerprint}, this run's is "
                f"{self._fingerprint}; give both sides the same config, data and versions"
            )
        if not isinstance(images, int) or not 0 <= images < 2**29 // self._num_clients:
            raise RunError(f"partition {partition}: it says it holds {images!r} images")
        return Member(node, partition, images, _class_counts(content, partition, images))


def _class_counts(content: RecordDict, partition: int, images: int) -> tuple[int, ...]:
    told = content.metric_records[METRICS].get(CLASS_COUNTS, [])
    counts = tuple(told) if isinstance(told, list) else (-1,)
    if counts and (not all(isinstance(n, int) and n >= 0 for n in counts) or sum(counts) != images):
        raise RunError(f"partition {partition}: its class counts do not add up to {images} images")
    return tuple(int(n) for n in counts)
