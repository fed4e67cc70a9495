"""Training without rounds: a step of the model whenever a buffer of answers is full (config ``buffer-size``).

FedBuff (Nguyen et al. 2022, algorithm 1): ``clients-per-round`` clients train at a time; one that has answered is
replaced at once by another, which begins from the model as it is then. So nobody waits for the slow, whose
answers count less the older the model that they began from (`fedloge.messages.stale_averaging`). Steps take the
place of rounds in the record. Within a step a client answers once.

Everything that happens depends on the order in which answers come. It is simulated by a clock from the seed,
or recorded; a step that is made again after a resume is made of the same answers.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedloge.errors import FedlogeError, RunError, UpdateError, printable_line
from fedloge.messages import (
    ARRAYS,
    PLAN,
    STAMP,
    Plan,
    Stamp,
    check_update,
    num_bytes,
    received_tensors,
)
from fedloge.messages.stale_averaging import LARGEST_STALE, StaleUpdate, buffered_step
from fedloge.partition import held_out_clients
from fedloge.rng import rng
from fedloge.server.arrival_record import ArrivalRecord, Arrivals, Event
from fedloge.server.deliveries import Deliveries, Posted, Simulated
from fedloge.server.flights import Flight, Flights, SentModel
from fedloge.server.replies import Asked, bytes_of, digest_of, read_reply
from fedloge.server.roster import Member
from fedloge.server.round_outcome import RoundOutcome
from fedloge.server.strategy import RoundStrategy
from fedloge.server.update_sizes import UpdateSizes
from fedloge.server.virtual_clock import VirtualClock

log = logging.getLogger(__name__)


class Buffered:
    """Makes the steps of an asynchronous run.

    Parameters
    ----------
    clock : a simulation's; None: answers come when they come.
    kept : the server's tensors as a checkpoint has them; clients that were at work then begin again.
    """

    def __init__(
        self,
        grid: Grid,
        strategy: RoundStrategy,
        record: ArrivalRecord,
        clock: VirtualClock | None,
        kept: Mapping[str, Tensor],
    ) -> None:
        self._strategy, self._record, self._clock = strategy, record, clock
        self._config = strategy.config
        self._flights = Flights(kept, self._config.wire_dtype)
        timeout = self._config.round_timeout
        self._post: Deliveries = Simulated(grid, timeout) if clock else Posted(grid, timeout)
        self._resumed = list(self._flights.of.values())
        self._stamps: dict[int, Stamp] = {}
        self._oldest: dict[int, int] = {}
        self._training = set(range(self._config.num_clients)) - set(held_out_clients(self._config))
        self._members: dict[int, Member] = {}
        self._ages: list[int] = []
        self._step: _Step

    def keep_round(self, keep_round: int) -> int:
        """The oldest state that clients must keep, if the run may be resumed from `keep_round`.

        It is older than that round by what the oldest answer was behind that was still awaited then.
        """
        self._oldest = {r: oldest for r, oldest in self._oldest.items() if r >= keep_round}
        return min(keep_round, self._oldest.get(keep_round, 0))

    def train(
        self, round: int, shared: Mapping[str, Tensor], arrays: ArrayRecord
    ) -> tuple[dict[str, Tensor], dict[str, float], int]:
        """Make a step; returns the shared tensors after it, the clients' mean figures, and their images.

        Parameters
        ----------
        arrays : `shared` as messages carry it.

        Raises
        ------
        RunError
            Too few clients answer with something usable, or no model comes of their answers.
        """
        members, present = self._strategy.roster.members(), self._strategy.present
        self._members = {k: m for k, m in members.items() if present is None or k in present}
        self._flights.sent(round - 1, SentModel(arrays, shared))
        self._step = step = _Step(round, num_bytes(arrays))
        for flight in self._resumed:
            self._send(flight)
        self._resumed = []
        before = self._record.of(round)
        if before is not None:
            self._repeat(before)
        while len(step.updates) < self._config.buffer_size:
            self._refill()
            if not self._flights.of:
                break
            self._take(*self._next())
        self._post.finish()
        if before is None or [e[:2] for e in before.events] != [e[:2] for e in step.events]:
            taken = tuple(sorted(step.updates))
            self._record.write(Arrivals(round, taken, tuple(step.events), self._now()))
        stepped = self._stepped(shared)
        self._ages = [update.staleness for update in step.updates.values()]
        step.updates.clear()  # as many models as the buffer holds
        self._flights.forget_models()
        self._oldest[round] = self._flights.oldest(otherwise=round)
        strategy = self._strategy
        strategy.outcome = step.outcome
        strategy.roster.ask_again(step.outcome.failures)
        strategy._audit("train", round, step.digests)
        images = sum(int(reply.get("images", 0)) for reply in step.outcome.replies.values())
        return stepped, strategy._mean_figures(), images

    def figures(self) -> dict[str, float]:
        """What the line of metrics says of the last step: how old the answers were, in steps."""
        return {
            "staleness/mean": sum(self._ages) / len(self._ages),
            "staleness/most": max(self._ages),
        }

    def state(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint."""
        return self._flights.state()

    def _repeat(self, before: Arrivals) -> None:
        """Do what is on record of this step, as far as it can be done again."""
        for kind, client, seconds in before.events:
            if self._clock is not None:
                self._clock.now = max(self._clock.now, seconds)
            if kind == "asked":
                done = client in self._members and client not in self._flights.of
                if done:
                    self._ask(client)
            elif kind == "failed":
                flight = self._flights.of.get(client)
                done = flight is not None
                if flight is not None:
                    self._lost(flight, "it failed when this step was first made")
            else:
                flight = self._flights.of.get(client)
                done = flight is not None and self._take(flight, self._post.answer(client))
            if not done:
                log.warning(
                    "step %d cannot be repeated as it was from where client %d %s; it goes on with others",
                    before.round,
                    client,
                    "was asked" if kind == "asked" else "answered",
                )
                return

    def _refill(self) -> None:
        """Ask clients until as many are at work as shall be."""
        while len(self._flights.of) < self._config.clients_per_round:
            busy = self._flights.of.keys() | self._step.answered
            free = sorted((self._training & self._members.keys()) - busy)
            if not free:
                return
            draw = rng(self._config.seed, "buffer-draw", self._flights.drawn)
            self._ask(int(draw.choice(free)))

    def _ask(self, client: int) -> None:
        base, due = self._step.round - 1, 0.0
        if self._clock is not None:
            due = self._clock.answered(client, self._members[client].num_examples)
        self._step.events.append(("asked", client, self._now()))
        self._send(self._flights.begin(client, base, due))

    def _send(self, flight: Flight) -> None:
        client, strategy = flight.client, self._strategy
        member = self._members.get(client)
        if member is None:
            self._lost(flight, "not connected")
            return
        model = self._flights.model(flight.base)
        stamp = self._stamps[client] = strategy.stamp_of(flight.base + 1)
        weight = strategy.weight_of(member)
        message = Message(
            RecordDict(
                {
                    ARRAYS: model.arrays,
                    STAMP: stamp.to_record(),
                    PLAN: Plan(weight, max(1, weight)).to_record(),
                }
            ),
            dst_node_id=member.node_id,
            message_type="train",
            group_id=str(stamp.round),
            ttl=self._config.round_timeout,
        )
        self._step.outcome.bytes_down += self._step.model_bytes
        self._post.post(client, message, flight.base)

    def _next(self) -> tuple[Flight, Message | None]:
        if self._clock is None:
            client, reply = self._post.first()
            return self._flights.of[client], reply
        flight = min(self._flights.of.values(), key=lambda flight: (flight.due, flight.number))
        self._clock.now = max(self._clock.now, flight.due)
        return flight, self._post.answer(flight.client)

    def _take(self, flight: Flight, reply: Message | None) -> bool:
        """Take an answer into the buffer; whether it is good."""
        client, step, member = flight.client, self._step, self._members.get(flight.client)
        if reply is None or member is None:
            self._lost(flight, f"no answer within {self._config.round_timeout:g} s, or it has gone")
            return False
        stamp, base = self._stamps[client], self._flights.model(flight.base).tensors
        epochs = self._config.local_epochs
        try:
            asked = Asked("train", stamp, {}, member.num_examples, epochs)
            answer = read_reply(reply, asked)
            tensors = received_tensors(reply.content, ARRAYS)
            check_update(tensors, self._strategy.template, LARGEST_STALE)
        except FedlogeError as exc:
            self._lost(flight, printable_line(str(exc)))
            return False
        age = step.round - 1 - flight.base
        step.updates[client] = StaleUpdate(tensors, base, self._strategy.weight_of(member), age)
        step.outcome.replies[client] = answer.figures
        step.outcome.bytes_up += bytes_of(reply, step.model_bytes)
        if self._strategy.roster.audit:
            step.digests[client] = digest_of(reply)
        self._over(flight, "came")
        return True

    def _lost(self, flight: Flight, reason: str) -> None:
        self._post.forget(flight.client)
        self._step.outcome.failures[flight.client] = reason
        self._over(flight, "failed")

    def _over(self, flight: Flight, kind: str) -> None:
        del self._flights.of[flight.client]
        self._step.answered.add(flight.client)
        self._step.events.append((kind, flight.client, self._now()))

    def _now(self) -> float:
        return self._clock.now if self._clock else time.monotonic() - self._step.began

    def _stepped(self, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        step, config = self._step, self._config
        zero = {name: torch.zeros(()) for name in shared}
        sizes = UpdateSizes(zero, config.max_update_norm)
        for client, update in step.updates.items():
            sizes.power(client, {k: t - update.base[k] for k, t in update.tensors.items()})
        for client, reason in sizes.refused().items():
            step.outcome.failures[client] = reason
            del step.updates[client], step.outcome.replies[client]
        step.outcome.sort()
        good, needed = len(step.updates), math.ceil(config.min_fraction * config.buffer_size)
        if good < needed:
            why = "; ".join(f"client {k}: {r}" for k, r in list(step.outcome.failures.items())[:3])
            raise RunError(
                f"step {step.round}: {good} clients gave a usable answer, the quorum is {needed} "
                f"(min-fraction {config.min_fraction:g} of buffer-size {config.buffer_size}); {why}; see to them, "
                "then resume"
            )
        try:
            stepped = buffered_step(shared, list(step.updates.values()))
            check_update(stepped, self._strategy.template, LARGEST_STALE)
        except (UpdateError, ValueError) as exc:
            raise RunError(
                f"step {step.round}: no model came of its answers: {exc}; take a lower learning rate in a new run"
            ) from None
        return stepped


@dataclasses.dataclass
class _Step:
    """What has happened in a step so far."""

    round: int
    model_bytes: int
    outcome: RoundOutcome = dataclasses.field(default_factory=RoundOutcome)
    updates: dict[int, StaleUpdate] = dataclasses.field(default_factory=dict)
    digests: dict[int, str] = dataclasses.field(default_factory=dict)
    answered: set[int] = dataclasses.field(default_factory=set)
    events: list[Event] = dataclasses.field(default_factory=list)
    began: float = dataclasses.field(default_factory=time.monotonic)
