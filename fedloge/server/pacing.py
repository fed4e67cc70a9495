"""How a round's messages are sent, and for whose answers it waits: for all, for the first, or for a buffer of them."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from fedloge.server.arrival_record import ArrivalRecord
from fedloge.server.buffered import Buffered
from fedloge.server.first_answers import FirstAnswers
from fedloge.server.flights import FLIGHTS
from fedloge.server.strategy import RoundStrategy
from fedloge.server.virtual_clock import CLOCK, VirtualClock


class Pacing:
    """Sends a round's messages and brings the answers that count.

    Parameters
    ----------
    kept : the server's tensors as a checkpoint has them; a clock goes on from there.

    Attributes
    ----------
    buffer : makes the steps of an asynchronous run; None: there are rounds.
    clock : simulated: with ``speed-spread``, and where a simulation does not wait for all. Else None.
    """

    def __init__(
        self,
        grid: Grid,
        strategy: RoundStrategy,
        record: ArrivalRecord,
        kept: dict[str, Tensor],
    ) -> None:
        self._grid, self._strategy, self._config = grid, strategy, strategy.config
        simulation = getattr(grid, "nodes_are_fixed", False)
        simulated = simulation and self._config.waits_selectively
        self.clock = (
            VirtualClock(self._config, kept) if simulated or self._config.speed_spread else None
        )
        self._first = FirstAnswers(grid, strategy, record, self.clock)
        asynchronous = self._config.buffer_size > 0
        self.buffer = Buffered(grid, strategy, record, self.clock, kept) if asynchronous else None

    def replies(self, round: int, messages: Iterable[Message]) -> Iterable[Message]:
        """The answers to a round's messages that count."""
        if self._config.clients_drawn:
            return self._first.of(round, list(messages))
        if self.clock is not None:
            asked = self._strategy.asked.items()
            done = [self.clock.answered(k, member.num_examples) for k, member in asked]
            self.clock.now = max(done, default=self.clock.now)
        return self._grid.send_and_receive(messages, timeout=self._config.round_timeout)

    def figures(self, asked: int) -> dict[str, float]:
        """What a round's line of metrics says of it: how many were asked and are there, and the simulated time."""
        present = self._strategy.present
        drawn = {"drawn": asked} if self._config.clients_drawn else {}
        drawn |= {"present": len(present)} if present is not None else {}
        stale = self.buffer.figures() if self.buffer else {}
        return drawn | stale | ({"clock/seconds": self.clock.now} if self.clock else {})

    def state(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint."""
        clock = self.clock.state() if self.clock else {}
        return clock | (self.buffer.state() if self.buffer else {})

    @staticmethod
    def without_its_own(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The server's tensors that are not of this."""
        return {k: t for k, t in state.items() if not k.startswith((CLOCK, FLIGHTS))}
