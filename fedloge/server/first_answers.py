"""Rounds that ask more clients than they need, and do not wait for the slowest (config ``clients-drawn``)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator

from flwr.app import Message
from flwr.serverapp import Grid

from fedloge.config import Config
from fedloge.rng import rng
from fedloge.server import deliveries
from fedloge.server.answer_choice import AnswerChoice
from fedloge.server.arrival_record import ArrivalRecord, Arrivals, Event
from fedloge.server.strategy import RoundStrategy
from fedloge.server.virtual_clock import VirtualClock

log = logging.getLogger(__name__)
Answer = tuple[float, int | None, Message | None]
"""When, whose, and what. Nobody's: time has passed. Nothing of somebody's: it has not come."""


class FirstAnswers:
    """Collects the answers of a round until it is settled whose count (`AnswerChoice`).

    A round that is on record is done as it was. If one of those who were taken then fails now, the next in the
    order of the draw takes its place, and the log says so.

    Parameters
    ----------
    clock : a simulation's; None: answers come when they come.
    """

    def __init__(
        self,
        grid: Grid,
        strategy: RoundStrategy,
        record: ArrivalRecord,
        clock: VirtualClock | None,
    ) -> None:
        self._grid, self._strategy, self._record, self._clock = grid, strategy, record, clock
        self._config: Config = strategy.config

    def of(self, round: int, messages: list[Message]) -> list[Message]:
        """Send a round's messages; returns the answers that count, of which the strategy is told."""
        before = self._record.of(round)
        order = self._order(round, before)
        needed = len(before.taken) if before else self._config.clients_per_round
        deadline = math.inf if before else self._config.round_deadline
        choice = AnswerChoice(order, max(1, needed), deadline)
        began = now = self._clock.now if self._clock else 0.0
        good: dict[int, Message] = {}
        failures, events = dict[int, str](), list[Event]()
        for now, client, reply in self._answers(messages, order):
            choice.time_is(now - began)
            if choice.settled:
                break
            if client is None:
                continue
            reason = self._strategy.verdict(round, client, reply)
            events.append(("failed" if reason else "came", client, now))
            if reason:
                failures[client] = reason
                choice.failed(client, now - began)
            else:
                assert reply is not None
                good[client] = reply
                choice.came(client, now - began)
            if choice.settled:
                break
        taken = tuple(choice.taken)
        if before is None or before.taken != taken:
            self._say_what_differs(round, before, taken, failures)
            before = Arrivals(round, taken, tuple(events), now)
            self._record.write(before)
        if self._clock is not None:
            self._clock.now = before.seconds
        self._strategy.keep_only(taken, failures)
        return [good[client] for client in taken]

    def _order(self, round: int, before: Arrivals | None) -> list[int]:
        """Those who were asked, in the order of the draw; those who were taken before come first."""
        asked = sorted(self._strategy.asked)
        drawn = rng(self._config.seed, "answer-order", round).permutation(asked).tolist()
        first = set(before.taken) if before else set()
        return sorted(drawn, key=lambda client: client not in first)

    def _say_what_differs(
        self,
        round: int,
        before: Arrivals | None,
        taken: tuple[int, ...],
        failures: dict[int, str],
    ) -> None:
        if before is None:
            return
        missing = sorted(set(before.taken) - set(taken))
        why = "; ".join(f"client {k}: {failures.get(k, 'did not answer')}" for k in missing)
        log.warning("round %d cannot be repeated with the answers that it had: %s", round, why)

    def _answers(self, messages: list[Message], order: list[int]) -> Iterator[Answer]:
        if self._clock is not None:
            return self._simulated(messages, order, self._clock)
        return self._as_they_come(messages)

    def _simulated(
        self, messages: list[Message], order: list[int], clock: VirtualClock
    ) -> Iterator[Answer]:
        asked, timeout = self._strategy.asked, self._config.round_timeout
        due = {client: clock.answered(client, asked[client].num_examples) for client in order}
        replies: dict[str, Message] = {}
        for reply in self._grid.send_and_receive(messages, timeout=timeout):
            replies.setdefault(reply.metadata.reply_to_message_id, reply)
        of = {client: m.metadata.message_id for client, m in zip(asked, messages, strict=True)}
        deadline = clock.now + self._config.round_deadline
        for client in sorted(order, key=lambda client: (due[client], order.index(client))):
            if due[client] > deadline:
                yield math.nextafter(deadline, math.inf), None, None
            yield due[client], client, replies.get(of[client])

    def _as_they_come(self, messages: list[Message]) -> Iterator[Answer]:
        posted = zip(self._grid.push_messages(messages), self._strategy.asked, strict=False)
        waiting = {message: client for message, client in posted if message is not None}
        began = time.monotonic()
        while waiting and time.monotonic() < began + self._config.round_timeout:
            for reply in self._grid.pull_messages(list(waiting)):
                client = waiting.pop(reply.metadata.reply_to_message_id, None)
                yield time.monotonic() - began, client, reply
            yield time.monotonic() - began, None, None
            time.sleep(deliveries.POLL_SECONDS)
        for client in waiting.values():
            yield time.monotonic() - began, client, None
