"""How much each client counts in the average, where it is weighted by training examples."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping

from fedloge.config import Config
from fedloge.server.roster import Member, Roster

log = logging.getLogger(__name__)


class Weights:
    """The clients' weights.

    Where the examples lie with the clients (`on-node`), nobody can check how many a client
    says it holds. So it weighs at most `max-weight-factor` times the median of what all
    clients said when the run began. The median, not the mean: one client that says 2^29 moves
    the mean to where it likes.

    Parameters
    ----------
    roster : with all clients that have registered.
    at_start : the images of those who were there when the run began, where clients come and go; None: of all.
    """

    def __init__(
        self, config: Config, roster: Roster, at_start: Mapping[int, int] | None = None
    ) -> None:
        # Under privacy all clients weigh alike: the noise is sized for an unweighted mean.
        self._alike = bool(config.dp_clip)
        self._most: int | None = None
        self._said: set[int] = set()
        members = {k: member.num_examples for k, member in roster.members().items()}
        counts = list((members if at_start is None else at_start).values())
        if config.on_node and config.aggregation == "mean" and not self._alike and counts:
            self._factor = config.on_node_options.max_weight_factor
            self._median = statistics.median_low(counts)
            self._most = max(1, int(self._factor * self._median))

    def of(self, member: Member) -> int:
        """A client's weight; the first time that it is cut, the log says so."""
        if self._alike:
            return 1
        if self._most is None or member.num_examples <= self._most:
            return member.num_examples
        if member.partition_id not in self._said:
            self._said.add(member.partition_id)
            log.warning(
                "client %d says it holds %d images; in the average it counts as %d, %g times the median client's %d "
                "(partitioner-options.max-weight-factor)",
                member.partition_id,
                member.num_examples,
                self._most,
                self._factor,
                self._median,
            )
        return self._most
