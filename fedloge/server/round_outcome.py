"""What became of a round's messages, and whether it is enough to go on with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from fedloge.config import Config
from fedloge.config.robust_rules import answers_needed, needs_answers
from fedloge.errors import RunError


@dataclass
class RoundOutcome:
    """What became of one round's messages."""

    failures: dict[int, str] = field(default_factory=dict)
    """Partition id -> why its answer was not used."""
    replies: dict[int, dict[str, float | int]] = field(default_factory=dict)
    """Partition id -> the metrics of its answer."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """What the clients sent besides the model, summed over them."""
    bytes_down: int = 0
    bytes_up: int = 0
    """Bytes of tensors sent to the clients, and by them."""

    def sort(self) -> None:
        """Put the clients in order."""
        self.failures = dict(sorted(self.failures.items()))
        self.replies = dict(sorted(self.replies.items()))


def check_quorum(config: Config, outcome: RoundOutcome, round: int, keep_round: int) -> None:
    """`RunError` if fewer than the quorum of a round's clients gave a usable answer.

    Parameters
    ----------
    round : 0 for what is asked before the first.
    keep_round : the oldest round from which the run may be resumed.
    """
    good = len(outcome.replies)
    asked = good + len(outcome.failures)
    if config.clients_drawn and round:
        # Of those who were drawn beyond that, some may fail.
        asked = min(asked, config.clients_per_round)
    # Under privacy the noise is sized for a mean over all clients that were asked.
    needed = asked if config.dp_clip else math.ceil(config.min_fraction * asked)
    why = f"min-fraction {config.min_fraction:g}"
    rule, bad = config.aggregation, config.byzantine_clients
    # Answers that failed may all be of honest clients, so the rule's own bound holds for what is left.
    if rule != "mean" and answers_needed(rule, bad) > needed:
        needed, why = (
            answers_needed(rule, bad),
            f"{needs_answers(rule, bad)}, byzantine-clients={bad}",
        )
    if good < max(1, needed):
        first = [
            f"client {client}: {reason}" for client, reason in list(outcome.failures.items())[:3]
        ]
        raise RunError(
            f"round {round}: {good} of {asked} clients gave a usable answer, the quorum is {needed} "
            f"({why}); {'; '.join(first)}; resume it, from an older round with --from-round "
            f"{keep_round}; a new run with aggregation=median withstands bad answers"
        )
