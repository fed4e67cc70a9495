"""Which node holds which partition.

Flower's node ids are random, and nodes come and go. Partition ids are the clients'
lasting names, so clients are drawn, summed and recorded by these. Each node is asked
once for its own. Questions are posted and answers collected when they have come, so that a node
that never answers keeps nobody waiting.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedloge.config import Config
from fedloge.errors import FedlogeError, RunError, in_one_line, printable_line
from fedloge.federation import Federation
from fedloge.messages import (
    CLASS_COUNTS,
    METRICS,
    NUM_EXAMPLES,
    failure_reason,
    metrics_of,
    record_of,
)
from fedloge.server.replies import MOST_IMAGES, check_records, shown
from fedloge.server.server_audit import ServerAudit

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_IDENTITY = "identity"
_AGAIN_SECONDS = 5.0
"""After an error, a node is asked again when this has passed."""
_REFUSED_SECONDS = 60.0
"""Where clients come and go, a node that was refused is asked again when this has passed."""
_GRACE_SECONDS = 10.0
"""So long may honest nodes still come before a node that cannot take part stops the start."""


@dataclass(frozen=True)
class Member:
    """A node that has said who it is."""

    node_id: int
    partition_id: int
    num_examples: int
    class_counts: tuple[int, ...] = ()
    """Training images of each class, where the client tells them."""

    def said(self) -> dict[str, Any]:
        """What the node has said, for the audit log."""
        said: dict[str, Any] = {"client": self.partition_id, "images": self.num_examples}
        return said | ({"class-counts": list(self.class_counts)} if self.class_counts else {})


@dataclass(frozen=True)
class _Question:
    node: int
    asked: float


class Roster:
    """The federation's members by partition id.

    A partition belongs to the node that claimed it first, while that node lives.

    Parameters
    ----------
    grid : Flower's grid.
    num_clients : partitions, all of which must be present when the run starts.
    fingerprint : hash of what the run computes; every client must have the same.
    whoami_timeout : seconds that a round may wait for a node to say who it is, where a partition
        is missing. A node that is slower counts once its answer has come.
    patience : seconds after which a node that has not answered is asked again.
    known : training examples of each partition, where the server has split them itself; a node
        that says otherwise is refused. None: each node's own word counts.
    audit : is told of who registers and who is refused.
    at_least : so many are enough, and whoever comes later takes a place that is free. A node that was refused
        is asked again after a while, and one whose answer was (`ask_again`) at once. None: all must be there.
    """

    def __init__(
        self,
        grid: Grid,
        num_clients: int,
        fingerprint: str,
        *,
        whoami_timeout: float = 30.0,
        patience: float = 300.0,
        known: Sequence[int] | None = None,
        audit: ServerAudit | None = None,
        at_least: int | None = None,
    ) -> None:
        self._grid = grid
        self._num_clients = num_clients
        self._fingerprint = fingerprint
        self._whoami_timeout, self._patience = whoami_timeout, patience
        self._known = known
        self.audit = audit or ServerAudit()
        self._at_least = at_least
        self._again: set[int] = set()
        self._refused_at: dict[int, float] = {}
        self._asked: dict[int, Member] = {}
        self._refusals: dict[int, str] = {}
        self._rivals: dict[int, int] = {}
        self._failed: dict[int, float] = {}
        self._questions: dict[str, _Question] = {}

    def wait(self, timeout: float) -> None:
        """Wait until every partition is present, or enough are and nobody is being asked.

        Raises
        ------
        RunError
            Some are still missing after `timeout` seconds (the text says which), or a node
            cannot take part.
        """
        deadline = time.monotonic() + timeout
        fixed, hopeless_since = getattr(self._grid, "nodes_are_fixed", False), None
        while True:
            present = self._look()
            missing = self.missing()
            if not missing or (self._enough() and not self._new()):
                return
            now = time.monotonic()
            # All who are there have answered, and there are enough: nobody is left to wait for.
            hopeless = self._refusals and not self._questions and len(present) >= self._num_clients
            hopeless = hopeless and self._at_least is None
            hopeless_since = (hopeless_since or now) if hopeless else None
            if hopeless_since and (fixed or now >= hopeless_since + _GRACE_SECONDS):
                raise RunError(f"a client cannot take part: {next(iter(self._refusals.values()))}")
            if now >= deadline and self._at_least is not None:
                raise RunError(
                    f"{len(self._asked)} clients are there, expected {self._at_least} or more "
                    f"(partitioner-options.min-clients) within {timeout:g} s; start them, then resume the run"
                )
            if now >= deadline:
                named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
                refused = [f"; refused: {reason}" for reason in self._refusals.values()]
                raise RunError(
                    f"{len(missing)} of {self._num_clients} clients did not register within {timeout:g} s "
                    f"(partition ids {named}); start them, or raise startup-timeout{''.join(refused[:3])}"
                )
            time.sleep(_POLL_SECONDS)

    def refresh(self) -> None:
        """Ask the nodes that have not been asked yet; forget those that have gone.

        Waits for new nodes only while a partition is missing, and for no node longer than `whoami_timeout`.
        """
        while True:
            self._look()
            if not self._new() or not (self.missing() or self._at_least is not None):
                return
            time.sleep(_POLL_SECONDS)

    def ask_again(self, clients: Iterable[int]) -> None:
        """Where clients come and go: ask these again who they are, since their examples may be others now.

        Each keeps its place meanwhile.
        """
        if self._at_least is not None:
            members = self.members()
            self._again |= {members[client].node_id for client in clients if client in members}

    def await_again(self, images: Mapping[int, int]) -> None:
        """Wait for clients that were there before, no longer than a node may take to say who it is."""
        deadline = time.monotonic() + self._whoami_timeout
        while images.keys() - self.members().keys() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            self._look()

    def _new(self) -> bool:
        """Whether a node has been asked and may still be waited for."""
        now = time.monotonic()
        return any(now < q.asked + self._whoami_timeout for q in self._questions.values())

    def _enough(self) -> bool:
        return self._at_least is not None and len(self._asked) >= self._at_least

    def members(self) -> dict[int, Member]:
        """Members by partition id."""
        return {member.partition_id: member for member in self._asked.values()}

    def missing(self) -> list[int]:
        """Partition ids that no node holds, ascending."""
        return sorted(set(range(self._num_clients)) - self.members().keys())

    def _look(self) -> set[int]:
        """Forget who has gone, ask who is new, take the answers that have come; returns all nodes."""
        present = set(self._grid.get_node_ids())
        now = time.monotonic()
        self._asked = {n: member for n, member in self._asked.items() if n in present}
        self._refusals = {n: reason for n, reason in self._refusals.items() if n in present}
        self._failed = {n: at for n, at in self._failed.items() if now < at + _AGAIN_SECONDS}
        if self._at_least is not None:
            old = {n for n, at in self._refused_at.items() if now >= at + _REFUSED_SECONDS}
            self._refusals = {n: reason for n, reason in self._refusals.items() if n not in old}
        held = self.members()
        self._rivals = {n: k for n, k in self._rivals.items() if n in present and k in held}
        self._questions = {
            message: q
            for message, q in self._questions.items()
            if q.node in present and now < q.asked + self._patience
        }
        waiting = {q.node for q in self._questions.values()}
        answered = self._asked.keys() | self._refusals.keys() | self._rivals.keys()
        again, self._again = self._again & present, set()
        self._ask(sorted((present - answered - self._failed.keys() | again) - waiting))
        self._take_answers()
        return present

    def _ask(self, nodes: list[int]) -> None:
        if not nodes:
            return
        questions = [
            Message(RecordDict(), dst_node_id=n, message_type="query.whoami", ttl=self._patience)
            for n in nodes
        ]
        now = time.monotonic()
        # Flower leaves out, or gives None for, what it could not post; those are asked next time.
        for node, message in zip(nodes, self._grid.push_messages(questions), strict=False):
            if message is not None:
                self._questions[message] = _Question(node, now)

    def _take_answers(self) -> None:
        if not self._questions:
            return
        came = {
            r.metadata.reply_to_message_id: r
            for r in self._grid.pull_messages(list(self._questions))
        }
        held = self.members()
        # In the order of the questions, so that of two claims that came together one is first.
        for message in [message for message in self._questions if message in came]:
            node = self._questions.pop(message).node
            self._take(node, came[message], held)

    def _take(self, node: int, reply: Message, held: dict[int, Member]) -> None:
        """Take one node's answer; `held` are the members so far, to which a new one is added."""
        if reply.has_error():
            reason = printable_line(str(reply.error.reason))
            log.warning("node %d did not say who it is: %s", node, reason)
            self.audit.write({"event": "failed", "node": str(node), "reason": reason})
            self._failed[node] = time.monotonic()
            return
        try:
            member = self._member(node, reply.content)
        except FedlogeError as exc:
            self._refuse(node, str(exc))
        except Exception as exc:  # whatever a foreign record raises when it is read
            self._refuse(node, f"its answer cannot be read ({in_one_line(exc)})")
        else:
            holder = held.get(member.partition_id)
            if node in self._asked and (holder is None or holder.node_id != node):
                self._refuse(node, f"it held another partition than {member.partition_id} before")
                return
            if holder is None or holder.node_id == node:
                self._asked[node] = held[member.partition_id] = member
                self.audit.write({"event": "registered", "node": str(node), **member.said()})
                return
            self._rivals[node] = member.partition_id
            log.warning(
                "node %d claims partition %d, which node %d holds; refused while that node is connected",
                node,
                member.partition_id,
                holder.node_id,
            )
            reason = f"partition {member.partition_id} is held by node {holder.node_id}"
            self.audit.write({"event": "refused", "node": str(node), "reason": reason})

    def _refuse(self, node: int, reason: str) -> None:
        self._asked.pop(node, None)
        self._refusals[node], self._refused_at[node] = printable_line(reason), time.monotonic()
        log.warning("node %d cannot take part: %s", node, self._refusals[node])
        self.audit.write({"event": "refused", "node": str(node), "reason": self._refusals[node]})

    def _member(self, node: int, content: RecordDict) -> Member:
        if reason := failure_reason(content):
            raise RunError(reason)
        check_records(content, {METRICS, _IDENTITY})
        metrics, identity = metrics_of(content), record_of(content, _IDENTITY, ConfigRecord)
        partition, images = metrics.get("partition-id"), metrics.get(NUM_EXAMPLES)
        if type(partition) is not int or not 0 <= partition < self._num_clients:
            raise RunError(
                f"node {node} says it holds partition {shown(partition)}, expected 0 to {self._num_clients - 1}; "
                "start it with this project's client app and the run's num-clients"
            )
        fingerprint = str(identity["fingerprint"]) if identity else "missing"
        if fingerprint != self._fingerprint:
            raise RunError(
                f"partition {partition}: its fingerprint is {fingerprint[:64]}, this run's is "
                f"{self._fingerprint}; give both sides the same config, data and versions"
            )
        if type(images) is not int or not 0 <= images < MOST_IMAGES // self._num_clients:
            raise RunError(f"partition {partition}: it says it holds {shown(images)} images")
        if self._known is not None and images != self._known[partition]:
            raise RunError(
                f"partition {partition}: it says it holds {images} images, the split gives it "
                f"{self._known[partition]}; give both sides the same config, data and versions"
            )
        return Member(node, partition, images, _class_counts(content, partition, images))


def _class_counts(content: RecordDict, partition: int, images: int) -> tuple[int, ...]:
    told = content.metric_records[METRICS].get(CLASS_COUNTS, [])
    counts = tuple(told) if isinstance(told, list) else (-1,)
    if counts and (not all(type(n) is int and n >= 0 for n in counts) or sum(counts) > images):
        raise RunError(f"partition {partition}: its class counts do not add up to {images} images")
    if counts and sum(counts) < images:
        log.warning(
            "partition %d tells the classes of %d of its %d images; its site's policy keeps small classes back, "
            "so they are missing from the counts by which classes are many, medium and few",
            partition,
            sum(counts),
            images,
        )
    return tuple(int(n) for n in counts)


def roster_of(
    grid: Grid, config: Config, federation: Federation, audit: ServerAudit | None = None
) -> Roster:
    """The roster of a run, with nobody asked yet."""
    return Roster(
        grid,
        config.num_clients,
        federation.fingerprint,
        whoami_timeout=config.whoami_timeout,
        patience=max(config.whoami_timeout, config.startup_timeout),
        known=None if config.on_node else [len(own) for own in federation.partition.train],
        audit=audit,
        at_least=config.on_node_options.min_clients if config.open_roster else None,
    )
